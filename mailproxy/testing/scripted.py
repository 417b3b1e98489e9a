"""Tiny mail servers that follow a playbook, and the behaviours that a proxy has to live with."""

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
    """Greet, then send every line back."""
    return (Send(greeting), EchoLines())


def reset(greeting: bytes = b"") -> Playbook:
    """Reset the connection, at once or after a greeting."""
    return (Send(greeting), Reset())


def stay_silent() -> Playbook:
    """Hear everything and never say a word; leave when the peer does."""
    return (Collect(),)


def never_read(greeting: bytes = b"") -> Playbook:
    """Receive nothing, so that whoever sends is held up; give the server a small ``receive_buffer_bytes``."""
    return (Send(greeting), Stall())


def flood(size: int) -> Playbook:
    """Send so many bytes of ``pattern``, then close."""
    return (Flood(size), Close())


def collect(greeting: bytes = b"") -> Playbook:
    """Greet and hear everything until the peer's end."""
    return (Send(greeting), Collect())


class ScriptedServer(LoopbackServer):
    """Plays a playbook on every connection: the first on the first and so on, the last on all that follow.

    At the end of its playbook a connection is closed in order. A peer that leaves earlier is no fault, unless a step
    expected something of it: then ``serve`` raises PlaybookError, in its nursery's group.
    """

    def __init__(
        self,
        *playbooks: Playbook,
        bind: str = "127.0.0.1:0",
        tls: ssl.SSLContext | None = None,
        receive_buffer_bytes: int | None = None,
    ) -> None:
        super().__init__(bind, tls=tls, receive_buffer_bytes=receive_buffer_bytes)
        self._playbooks = playbooks or (greet_and_echo(),)

    async def converse(self, connection: Connection) -> None:
        """Play this connection's playbook."""
        number = self.connections.index(connection)
        for step in self._playbooks[min(number, len(self._playbooks) - 1)]:
            await step.play(connection)


class RefusingServer:
    """Holds an address on which every connection is refused; nobody else can come to listen there meanwhile."""

    def __init__(self, bind: str = "127.0.0.1:0") -> None:
        self.address = bind

    async def serve(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Refuse until cancelled."""
        with listening_socket(self.address, backlog=None) as (_, self.address):
            task_status.started(self.address)
            await trio.sleep_forever()


class UnansweredServer:
    """Holds an address on which no connection is ever made: attempts get no answer at all. IPv4 and IPv6 on Linux."""

    def __init__(self, bind: str = "127.0.0.1:0") -> None:
        self.address = bind

    async def serve(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Give no answer until cancelled."""
        # With a backlog of 0 the kernel holds one connection and then drops every SYN (listen(2), tcp(7)).
        with listening_socket(self.address, backlog=0) as (sock, self.address), ExitStack() as stack:
            stack.enter_context(socket.create_connection(sock.getsockname()[:2]))
            task_status.started(self.address)
            await trio.sleep_forever()
