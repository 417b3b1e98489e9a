"""What a server would get: the connection, its PROXY header and TLS, and the timeouts of the session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mailproxy import config
from mailproxy.config.units import write_duration
from mailproxy.protocol.proxy_header import HeaderV1, HeaderV2, Type, parse
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.client_info import ClientInfo
from mailproxy.proxy.explain.explanation import Explanation


def describe_connection(
    backend: config.Backend, servers: Sequence[BackendServer], client: ClientInfo
) -> Iterator[str]:
    """Yield sentences about the connection to these servers. Servers that get the same share one."""
    by_text: dict[str, list[BackendServer]] = {}
    for server in servers:
        by_text.setdefault(f"{_tls(server.config)}, {_header(server, client)}", []).append(server)
    for text, same in by_text.items():
        addresses = ", ".join(_address(server, client) for server in same)
        yield f"The connection to {addresses} is {text}."
    redispatch = "" if backend.redispatch is False else " Retries may go to other servers (redispatch)."
    connect = write_duration(backend.timeouts.connect)
    yield (
        f"It has {connect} for each attempt (timeouts.connect), and {backend.retries} more "
        f"attempt{'' if backend.retries == 1 else 's'} (retries).{redispatch}"
    )


def describe_timeouts(answer: Explanation, frontend: config.Frontend, backend: config.Backend) -> None:
    """Add the timeouts of a session that is connected."""
    client, server = write_duration(frontend.timeouts.client), write_duration(backend.timeouts.server)
    half = write_duration(frontend.timeouts.half_closed)
    answer.add_step(
        f"Once connected, it ends after {client} without a byte from or to the client (timeouts.client), {server} from "
        f"or to the server (timeouts.server), and {half} after one side has closed (timeouts.half_closed)."
    )


def _address(server: BackendServer, client: ClientInfo) -> str:
    address = server.endpoints[0].text(client.port) if server.endpoints else str(server.config.address)
    return address if address == server.name else f"{server.name} at {address}"


def _tls(server: config.Server) -> str:
    tls = server.tls
    if tls is None:
        return "in clear"
    begins = "over TLS after STARTTLS" if tls.mode == "starttls" else "over TLS"
    match tls.verify:
        case "required":
            return f"{begins}, with its certificate and name verified"
        case "chain":
            return f"{begins}, with its certificate verified but not its name"
        case _:
            return f"{begins}, with nothing verified"


def _header(server: BackendServer, client: ClientInfo) -> str:
    """Return what the server learns of the client. A PROXY header is the one that sessions send, parsed again."""
    match server.config.identity:
        case "xclient":
            return "with the client's address in XCLIENT, if the server offers that (identity)"
        case "id":
            return "with the client's address in ID (identity)"
    if server.proxy_header is None:
        return "without a PROXY header"
    parsed = parse(server.proxy_header.build(client))
    assert isinstance(parsed, tuple)  # noqa: S101 - it is complete
    header = parsed[0]
    if header.endpoints is None:
        kind = "UNKNOWN" if isinstance(header, HeaderV1) else "LOCAL"
        return f"with a PROXY header of version {header.version} that names no client ({kind})"
    text = f"with a PROXY header of version {header.version} that names the client {header.endpoints[0][0]}"
    if isinstance(header, HeaderV2) and header.tlvs:
        text += f" (TLVs: {', '.join(_type_name(tlv.type) for tlv in header.tlvs)})"
    return text


def _type_name(number: int) -> str:
    return Type(number).name if number in set(Type) else f"{number:#x}"
