"""Publishes a trained run as a version for servers: writes, checks and describes it."""

# The TensorFlow Serving that serving/.env names for Compose and Kubernetes.
SERVING_VERSION = "2.19.1"
