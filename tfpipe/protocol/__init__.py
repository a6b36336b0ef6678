"""TensorFlow Serving's protocol: messages, tensors, a client, and an exported version in memory.

Both sides import it: the commands of `serving`, and the packages that publish and predict.
"""
