"""Serving: protocol, client, embedded server. Takes nothing of tfpipe but settings of a process."""
