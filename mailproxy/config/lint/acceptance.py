"""The conditions under which a bind accepts the connections that the proxy itself makes to it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from mailproxy.address import Networks, UnixAddress
from mailproxy.config import model


def conditions_to_accept(
    server: model.Server, frontend: model.Frontend, session_bind: model.Bind, target: model.Bind, name: str
) -> Iterator[str]:
    """Yield the conditions, in words, under which a bind accepts connections to a server that is this bind.

    Args:
        server: The server.
        frontend: The frontend of the session for which the connection is made.
        session_bind: The bind of that session.
        target: The bind that the connection is made to.
        name: The path of that bind.

    Yields:
        The conditions; none if the bind always accepts.
    """
    yield from _conditions_on_header(server, target, name)
    if target.mode in ("forward", "starttls") or server.tls is not None:
        return
    if frontend.terminates_tls(session_bind):
        yield f"if it had tls, which {name} waits for"
    elif session_bind.mode == "forward":
        yield f"if clients speak TLS, which {name} waits for"


def _conditions_on_header(server: model.Server, target: model.Bind, name: str) -> Iterator[str]:
    sends = server.send_proxy not in (None, "none")
    is_trusted = _is_trusted(server, target)
    if is_trusted is None:
        yield f"if accept_proxy of {name} fits the addresses of clients"
    elif is_trusted and not sends:
        yield f"if it had send_proxy, for the PROXY header that {name} waits for"
    elif not is_trusted and target.accept_proxy and not target.proxy_optional:
        yield f"if accept_proxy of {name} took connections of the proxy itself"
    elif not is_trusted and sends and target.mode != "forward":  # a header is no ClientHello
        yield f"if accept_proxy of {name} took its PROXY header"


def _is_trusted(server: model.Server, target: model.Bind) -> bool | None:
    """Whether the bind expects a PROXY header from the proxy; None if that depends on the client."""
    if not target.accept_proxy:
        return False
    if isinstance(server.address, UnixAddress):
        return "unix" in target.accept_proxy
    if server.source == "client":
        return None
    host = "127.0.0.1" if server.address.host == "localhost" else server.address.host
    networks = Networks(network for network in target.accept_proxy if network != "unix")
    return (server.source or _source_towards(host)) in networks


def _source_towards(host: str) -> str:
    """Return the source address of a connection to one of this machine's own addresses."""
    ip = ip_address(host)
    if ip.version == 4:
        return "127.0.0.1" if ip.is_loopback or ip.is_unspecified else host
    return "::1" if ip.is_unspecified else host
