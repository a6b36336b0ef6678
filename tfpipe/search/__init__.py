"""A search for better options of a training: the space, the trials, and how far they count."""
