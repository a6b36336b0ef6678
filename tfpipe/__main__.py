"""`python -m tfpipe COMMAND` is `tfpipe COMMAND`."""

from tfpipe import commands

if __name__ == "__main__":
    commands.main()
