"""One image file: check it, decode it, describe it, and turn it into the model's pixels."""
