"""Servers that follow a playbook, and playbooks for what servers do to a proxy."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import trio

from mailproxy.testing.playbook import Close, Collect, EchoLines, Flood, Playbook, Reset, Send, Stall
from mailproxy.testing.server import LoopbackServer, listening_socket

if TYPE_CHECKING:
    import ssl

    from mailproxy.testing.connection import Connection

GREETING = b"* OK ready\r\n"


def greet_and_echo(greeting: bytes = GREETING) -> Playbook:
    """Send a greeting, then send each line back."""
    return (Send(greeting), EchoLines())


def reset(greeting: bytes = b"") -> Playbook:
    """Send a greeting, then reset the connection. Without a greeting it is reset at once."""
    return (Send(greeting), Reset())


def stay_silent() -> Playbook:
    """Receive everything and send nothing. Close when the peer does."""
    return (Collect(),)


def never_read(greeting: bytes = b"") -> Playbook:
    """Send a greeting and receive nothing, so that a peer that sends is blocked.

    Give the server a small ``receive_buffer_bytes``, or the kernel receives for it.
    """
    return (Send(greeting), Stall())


def flood(size: int) -> Playbook:
    """Send ``size`` bytes of ``pattern``, then close."""
    return (Flood(size), Close())


def collect(greeting: bytes = b"") -> Playbook:
    """Send a greeting, then receive everything until the peer closes."""
    return (Send(greeting), Collect())


class ScriptedServer(LoopbackServer):
    """Plays a playbook on each connection.

    At the end of its playbook a connection is closed in order. The peer may close it earlier, unless a step expects
    something: then ``serve`` raises PlaybookError, in the exception group of its nursery.
    """

    def __init__(
        self,
        *playbooks: Playbook,
        bind: str = "127.0.0.1:0",
        tls: ssl.SSLContext | None = None,
        receive_buffer_bytes: int | None = None,
    ) -> None:
        """Prepare a server, which does not listen yet.

        Args:
            playbooks: The first is for the first connection and so on, the last for all that follow. Without any it is
                ``greet_and_echo()``.
            bind: See ``LoopbackServer``.
            tls: See ``LoopbackServer``.
            receive_buffer_bytes: See ``LoopbackServer``.
        """
        super().__init__(bind, tls=tls, receive_buffer_bytes=receive_buffer_bytes)
        self._playbooks = playbooks or (greet_and_echo(),)

    async def converse(self, connection: Connection) -> None:
        """Play the playbook of this connection."""
        number = self.connections.index(connection)
        for step in self._playbooks[min(number, len(self._playbooks) - 1)]:
            await step.play(connection)


class RefusingServer:
    """Holds an address on which connections are refused. No other program can listen there meanwhile.

    Attributes:
        address: The address. While ``serve`` runs it has the true port instead of 0.
    """

    def __init__(self, bind: str = "127.0.0.1:0") -> None:
        self.address = bind

    async def serve(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Refuse connections until cancelled. Report the address as started."""
        with listening_socket(self.address, backlog=None) as (_, self.address):
            task_status.started(self.address)
            await trio.sleep_forever()


class UnansweredServer:
    """Holds an address on which attempts to connect get no answer. For IPv4 and IPv6, on Linux.

    Attributes:
        address: The address. While ``serve`` runs it has the true port instead of 0.
    """

    def __init__(self, bind: str = "127.0.0.1:0") -> None:
        self.address = bind

    async def serve(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Leave attempts without an answer until cancelled. Report the address as started."""
        # With a backlog of 0 the kernel holds one connection and then drops every SYN (listen(2), tcp(7)).
        with listening_socket(self.address, backlog=0) as (sock, self.address), ExitStack() as stack:
            stack.enter_context(socket.create_connection(sock.getsockname()[:2]))
            task_status.started(self.address)
            await trio.sleep_forever()
