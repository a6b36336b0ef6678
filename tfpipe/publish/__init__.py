"""Publishes a trained run as a version for servers: writes, checks and describes it."""
