"""What every package builds on: options, errors, the terminal, files that appear whole."""
