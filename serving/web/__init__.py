"""The page that asks a model what pictures show, and its JSON endpoint. Needs no TensorFlow."""
