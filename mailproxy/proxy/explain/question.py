"""What is to be explained: a client, and the proxy that it would meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from attrs import frozen

from mailproxy.address import UnixAddress
from mailproxy.config import Bind, Config
from mailproxy.net.tls.terminator import Terminator
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.client_limits import Clients
from mailproxy.proxy.frontend import FrontendState


class NoBindError(Exception):
    """No bind, or more than one, fits the question. The message says which there are."""


@frozen(kw_only=True)
class Question:
    """A client.

    Attributes:
        client: Its IP address, behind a PROXY header the one in it.
        port: The port that it connects to.
        bind: The name of the bind; empty for the one with this port.
        sni: The server name in its ClientHello, None for none.
        alpn: The application protocols in its ClientHello.
    """

    client: str
    port: int
    bind: str = ""
    sni: str | None = None
    alpn: tuple[str, ...] = ()


class Bound(Protocol):
    """A listener, or a description of one."""

    @property
    def frontend(self) -> str:
        """The frontend's name."""

    @property
    def number(self) -> int:
        """The bind's number in its frontend, from 1."""

    @property
    def port(self) -> int | None:
        """The port; None without TCP, and where it is not known."""

    @property
    def name(self) -> str:
        """The name for logs and statistics."""


@frozen(kw_only=True)
class FrontendView:
    """A frontend that runs.

    Attributes:
        state: Whether it accepts.
        sessions: Its open sessions.
        limit: The most sessions that it may have, 0 for no limit of its own.
        clients: Counts the sessions of each client; None without limits per client.
    """

    state: FrontendState
    sessions: int
    limit: int
    clients: Clients | None


@frozen(kw_only=True)
class View:
    """The proxy that a client would meet.

    Attributes:
        config: The configuration.
        binds: Where it listens.
        terminators: The TLS of binds, by frontend and index of the bind. One is missing if its files cannot be
            loaded.
        backends: The backends, by name.
        frontends: The frontends as they run, by name; None if nothing runs.
        sessions: The open sessions of all frontends.
        max_sessions: The limit on them, 0 if it is not known.
        now: The moment, on the clock of the stick tables.
    """

    config: Config
    binds: Sequence[Bound]
    terminators: Mapping[tuple[str, int], Terminator]
    backends: Mapping[str, Backend]
    frontends: Mapping[str, FrontendView] | None = None
    sessions: int = 0
    max_sessions: int = 0
    now: float = 0.0

    def find_bind(self, question: Question) -> Bound:
        """Return the bind that the client connects to.

        Raises:
            NoBindError: None fits, or several do.
        """
        found = [each for each in self.binds if not question.bind or question.bind in _names(each)]
        with_port = [each for each in found if each.port == question.port]
        if question.bind and not with_port:
            # Behind a PROXY header, the port is the one in the header. An inherited socket's is not known here.
            with_port = [each for each in found if each.port is None or self.bind_of(each).accept_proxy]
        if len(with_port) == 1:
            return with_port[0]
        if with_port:
            raise NoBindError(f"several binds fit, give one of their names as bind: {_list(with_port)}")
        if question.bind and found:
            raise NoBindError(f"no bind named {question.bind} has port {question.port}: {_list(found)}")
        wanted = f"named {question.bind}" if question.bind else f"with port {question.port}"
        raise NoBindError(f"there is no bind {wanted}; the binds are {_list(self.binds)}")

    def bind_of(self, bound: Bound) -> Bind:
        """Return the table of a bind."""
        return self.config.frontends[bound.frontend].bind[bound.number - 1]

    def has_address(self, bound: Bound) -> bool:
        """Whether clients of a bind have an address: with TCP, or in a PROXY header."""
        bind = self.bind_of(bound)
        return not isinstance(bind.address, UnixAddress) or bool(bind.accept_proxy)


def _names(bound: Bound) -> tuple[str, str]:
    return bound.name, f"{bound.frontend}/{bound.name}"


def _list(binds: Sequence[Bound]) -> str:
    return ", ".join(
        f"{each.name} ({each.frontend}" + (")" if each.port is None else f", port {each.port})")
        for each in binds
    )
