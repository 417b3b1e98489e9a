"""Test tools for projects that embed mailproxy: scripted servers, an IMAP server, a throw-away CA, pytest fixtures.

``mailproxy demo`` uses them, too.

A server of a test is started with ``address = await nursery.start(server.serve)``, and ``dial(address)`` connects to it.

Modules, in reading order:
    connection: ``dial`` and ``Connection``, one connection seen from either end.
    server: ``LoopbackServer``, the base of all servers here.
    playbook: the steps that a scripted server or client can take, such as ``Send`` and ``Expect``.
    scripted: ``ScriptedServer``, which plays them, and ready-made playbooks such as ``greet_and_echo``.
    imap: ``ImapServer``, an IMAP4rev1 server with a mail store in memory.
    ca: ``ThrowAwayCA``, which issues certificates.
    fixtures: the pytest fixtures ``run_proxy`` and ``throw_away_ca``.

A module is loaded when a name of it is used first. The CA needs the extra ``mailproxy[testing]`` or ``mailproxy[demo]``. The
fixtures need ``mailproxy[testing]`` and are not among the names here: they are in ``mailproxy.testing.fixtures``. The rest
needs no extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailproxy.testing.ca import ThrowAwayCA, server_context
    from mailproxy.testing.connection import Connection, dial
    from mailproxy.testing.imap import ImapDialogue, ImapServer, Mailbox, Mailstore, Message
    from mailproxy.testing.playbook import (
        Close,
        Collect,
        Drop,
        Echo,
        EchoLines,
        Expect,
        ExpectLine,
        Flood,
        HalfClose,
        Playbook,
        PlaybookError,
        Reset,
        Send,
        SendSlowly,
        Stall,
        Step,
        WaitFor,
        pattern,
    )
    from mailproxy.testing.scripted import (
        RefusingServer,
        ScriptedServer,
        UnansweredServer,
        collect,
        flood,
        greet_and_echo,
        never_read,
        reset,
        stay_silent,
    )
    from mailproxy.testing.server import LoopbackServer

__all__ = [
    "Close",
    "Collect",
    "Connection",
    "Drop",
    "Echo",
    "EchoLines",
    "Expect",
    "ExpectLine",
    "Flood",
    "HalfClose",
    "ImapDialogue",
    "ImapServer",
    "LoopbackServer",
    "Mailbox",
    "Mailstore",
    "Message",
    "Playbook",
    "PlaybookError",
    "RefusingServer",
    "Reset",
    "ScriptedServer",
    "Send",
    "SendSlowly",
    "Stall",
    "Step",
    "ThrowAwayCA",
    "UnansweredServer",
    "WaitFor",
    "collect",
    "dial",
    "flood",
    "greet_and_echo",
    "never_read",
    "pattern",
    "reset",
    "server_context",
    "stay_silent",
]

_NAMES = {
    "ca": ("ThrowAwayCA", "server_context"),
    "connection": ("Connection", "dial"),
    "imap": ("ImapDialogue", "ImapServer", "Mailbox", "Mailstore", "Message"),
    "playbook": (
        "Close", "Collect", "Drop", "Echo", "EchoLines", "Expect", "ExpectLine", "Flood", "HalfClose", "Playbook",
        "PlaybookError", "Reset", "Send", "SendSlowly", "Stall", "Step", "WaitFor", "pattern",
    ),
    "scripted": (
        "RefusingServer", "ScriptedServer", "UnansweredServer", "collect", "flood", "greet_and_echo", "never_read",
        "reset", "stay_silent",
    ),
    "server": ("LoopbackServer",),
}  # fmt: skip
_HOMES = {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # costs nothing: the start of the interpreter has loaded it

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
