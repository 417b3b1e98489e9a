"""Whether a bind takes the connections that the proxy itself makes to it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from mailproxy.address import Networks, UnixAddress
from mailproxy.config import model


def conditions_to_accept(
    server: model.Server, frontend: model.Frontend, begun: model.Bind, own: model.Bind, name: str
) -> Iterator[str]:
    """In words, when a bind takes connections to a server that is this bind; nothing where it always does.

    ``frontend`` and ``begun``: the bind of the session for which the connection is made. ``name``: of the bind that takes it.
    """
    yield from _about_proxy_header(server, own, name)
    if own.mode == "forward" or server.tls is not None:
        return
    if frontend.terminates_tls(begun):
        yield f"if it had tls, which {name} waits for"
    elif begun.mode == "forward":
        yield f"if clients speak TLS, which {name} waits for"


def _about_proxy_header(server: model.Server, own: model.Bind, name: str) -> Iterator[str]:
    sends = server.send_proxy not in (None, "none")
    is_trusted = _is_trusted(server, own)
    if is_trusted is None:
        yield f"if accept_proxy of {name} fits the addresses of clients"
    elif is_trusted and not sends:
        yield f"if it had send_proxy, for the PROXY header that {name} waits for"
    elif not is_trusted and own.accept_proxy and not own.proxy_optional:
        yield f"if accept_proxy of {name} took connections of the proxy itself"
    elif not is_trusted and sends and own.mode != "forward":  # a header is no ClientHello
        yield f"if accept_proxy of {name} took its PROXY header"


def _is_trusted(server: model.Server, own: model.Bind) -> bool | None:
    """Whether the bind demands a PROXY header of connections to the server; None where that depends on the client."""
    if not own.accept_proxy:
        return False
    if isinstance(server.address, UnixAddress):
        return "unix" in own.accept_proxy
    if server.source == "client":
        return None
    host = "127.0.0.1" if server.address.host == "localhost" else server.address.host
    networks = Networks(each for each in own.accept_proxy if each != "unix")
    return (server.source or _source_towards(host)) in networks


def _source_towards(host: str) -> str:
    """The address that a connection to one of this machine's own addresses has."""
    ip = ip_address(host)
    if ip.version == 4:
        return "127.0.0.1" if ip.is_loopback or ip.is_unspecified else host
    return "::1" if ip.is_unspecified else host
