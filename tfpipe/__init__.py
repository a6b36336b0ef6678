"""tfpipe: from a pile of labelled images to a served classifier."""

__version__ = "0.1.0"
