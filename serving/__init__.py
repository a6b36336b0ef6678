"""Serving over gRPC: protocol, client and embedded server. Imports nothing from tfpipe."""
