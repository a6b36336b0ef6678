"""`python -m tfpipe COMMAND` is `tfpipe COMMAND`."""

from tfpipe import commands

commands.main()
