"""One image file: decoded, checked, described, and turned into the model's pixels."""
