"""What the pages that people look at have in common: their frame, their style and their plots."""
