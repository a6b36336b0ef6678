"""Serving over gRPC: the protocol, a client, and an embedded server. Imports nothing from tfpipe."""
