"""The Python API: what `import tfpipe` offers, a thin front on the commands."""
