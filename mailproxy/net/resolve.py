"""From a server's address to the endpoints to connect to. Host names are looked up in a thread."""

from __future__ import annotations

import socket
from typing import Literal

import trio

from mailproxy.address import ServerAddress, UnixAddress
from mailproxy.errors import ProxyError, ServerRefusedError
from mailproxy.net.dial import Endpoint


def literal_endpoint(address: ServerAddress) -> Endpoint | None:
    """Return the endpoint of an IP address or Unix socket; None for a host name."""
    if isinstance(address, UnixAddress):
        return Endpoint(socket.AF_UNIX, address.path)
    if not address.is_literal:
        return None
    return Endpoint(socket.AF_INET6 if ":" in address.host else socket.AF_INET, address.host, address.port)


async def resolve(
    host: str, port: int | None, prefer: Literal["ipv4", "ipv6"] | None = None
) -> tuple[Endpoint, ...]:
    """Return every address of a host name in the resolver's order, those of the preferred family first.

    Raises:
        ServerRefusedError: The name has no address now.
        ProxyError: No thread can be started for the lookup.
    """
    try:
        results = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:  # gaierror says what is wrong with the name
        raise ServerRefusedError(f"{host}: {error.strerror or error}") from None
    except UnicodeError:
        raise ServerRefusedError(f"{host}: not a host name") from None
    except RuntimeError as error:  # can't start new thread
        raise ProxyError(f"{host}: {error}") from None
    # A name that is twice in /etc/hosts gives its address twice.
    endpoints = list(
        dict.fromkeys(Endpoint(family, str(address[0]), port) for family, _, _, _, address in results)
    )
    if prefer is not None:
        first = socket.AF_INET if prefer == "ipv4" else socket.AF_INET6
        endpoints.sort(key=lambda endpoint: endpoint.family != first)
    return tuple(endpoints)
