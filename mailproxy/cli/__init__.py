"""The command line: words, output and exit codes."""

from mailproxy.cli.main import main

__all__ = ["main"]
