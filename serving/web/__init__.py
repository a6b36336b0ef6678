"""The web page that classifies pictures, and its JSON endpoint. Needs no TensorFlow."""
