"""The command line.

Modules:
    main: the commands and their exit codes.
    ctl: commands to a running proxy. tail: the options of its command tail.
    explain: which server a client would get.
    top: a live view of a running proxy.
    completion: completion for shells.
    report: faults and advice as text or JSON.
    demo: the proxy between two built-in IMAP servers.
"""

from mailproxy.cli.main import main

__all__ = ["main"]
