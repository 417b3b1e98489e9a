"""The command line.

Modules:
    main: the commands and their exit codes.
    ctl: commands to a running proxy.
    report: faults and advice as text or JSON.
    demo: the proxy between two built-in IMAP servers.
"""

from mailproxy.cli.main import main

__all__ = ["main"]
