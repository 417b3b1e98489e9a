"""Rules for the servers of a backend, and TLS towards them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from attrs import evolve

from mailproxy.address import UnixAddress
from mailproxy.config import model
from mailproxy.config.diagnostics import Diagnostics
from mailproxy.config.layers import Layer, MergedTable
from mailproxy.config.path import ConfigPath
from mailproxy.config.rules.address_rules import check_unix_path
from mailproxy.config.values import to_display

KEY_WITHOUT_CERTIFICATE = "has no meaning without tls.certificate"
NAME_MISSING = "server_name is missing: a Unix socket has no name to verify"


def check_server(server: model.Server, merged: MergedTable, diagnostics: Diagnostics) -> None:
    """Check that a server's keys fit its address and each other.

    Args:
        server: The server with all that it inherits.
        merged: Its table.
        diagnostics: Gets the faults.
    """
    check_unix_path(server.address, merged.path, diagnostics)
    _check_tlvs(server, merged, diagnostics)
    if isinstance(server.address, UnixAddress):
        _check_unix_server(server.address, merged.own, diagnostics)
    else:
        _check_source(server, merged, diagnostics)
    if server.tls is None:
        return
    if server.tls.key is not None and server.tls.certificate is None:
        diagnostics.add(merged.path_of("tls", "key"), KEY_WITHOUT_CERTIFICATE)
    needs_name = server.tls.verify == "required" and server.tls.server_name is None
    if needs_name and isinstance(server.address, UnixAddress):
        diagnostics.add(merged.path, f"tls.{NAME_MISSING}")


def _check_tlvs(server: model.Server, merged: MergedTable, diagnostics: Diagnostics) -> None:
    """Check that a PROXY header has version 2 where it must carry TLVs."""
    if str(server.send_proxy).startswith("v2") or diagnostics.is_any_invalid(merged.candidates("send_proxy")):
        return
    for key, value in (("send_proxy_tlvs", server.send_proxy_tlvs), ("forward_tlvs", server.forward_tlvs)):
        # a stronger layer may choose another version without TLVs
        if value and not merged.is_overridden((key,), by=("send_proxy",)):
            version = server.send_proxy or "none"
            diagnostics.add(merged.path_of(key), f'needs send_proxy = "v2" or more, it is "{version}"')


def _check_unix_server(address: UnixAddress, own: Layer, diagnostics: Diagnostics) -> None:
    for key in ("source", "keepalive"):
        if own.table.get(key):
            diagnostics.add(own.path / key, f"has no meaning for {to_display(str(address))}")


def _check_source(server: model.Server, merged: MergedTable, diagnostics: Diagnostics) -> None:
    """Check that the local address and the server's have the same family."""
    assert not isinstance(server.address, UnixAddress)  # noqa: S101 - for the type checker
    if server.source in (None, "client") or not server.address.is_literal:
        return
    if (":" in server.address.host) != (":" in str(server.source)):
        diagnostics.add(
            merged.path_of("source"),
            f"{server.source} cannot reach {server.address}: one is IPv4, the other IPv6; give the server a source of its own",
        )


def with_identity(server: model.Server, merged: MergedTable, diagnostics: Diagnostics) -> model.Server:
    """Return the server without the PROXY header that another identity replaces; both at once are a fault."""
    if server.identity == "proxy" or server.send_proxy in (None, "none"):
        return server
    if not merged.is_overridden(("send_proxy",), by=("identity",)):
        fact = f'"{server.identity}" and send_proxy are two ways to tell a server of the client: give one'
        diagnostics.add(merged.path_of("identity"), fact)
    return evolve(server, send_proxy=None, send_proxy_tlvs=(), forward_tlvs=False)


def check_identity(
    server: model.Server, protocol: model.Protocol, merged: MergedTable, diagnostics: Diagnostics
) -> None:
    """Check that the protocol has this way of naming the client to a server."""
    if diagnostics.is_any_invalid(merged.candidates("identity")) or server.identity in ("proxy", "none"):
        return
    if server.identity == "id" and protocol != "imap":
        diagnostics.add(merged.path_of("identity"), f'"id" is of IMAP, and the protocol is {protocol}')
    elif server.identity == "xclient" and protocol in ("imap", "tcp"):
        remedy = ': give "id"' if protocol == "imap" else ""
        diagnostics.add(
            merged.path_of("identity"), f'"xclient" does not exist in protocol {protocol}{remedy}'
        )


def check_starttls(
    server: model.Server, protocol: model.Protocol, merged: MergedTable, diagnostics: Diagnostics
) -> None:
    """Check that STARTTLS towards a server has a protocol to do it in.

    Args:
        server: The server with all that it inherits.
        protocol: Its backend's.
        merged: Its table.
        diagnostics: Gets the faults.
    """
    if server.tls is None or server.tls.mode != "starttls" or protocol != "tcp":
        return
    if not diagnostics.is_any_invalid(merged.candidates("tls", "mode")):
        fact = '"starttls" needs a mail protocol: give the backend its protocol, such as "imap"'
        diagnostics.add(merged.path_of("tls", "mode"), fact)


def check_names(servers: Iterable[model.Server], path: ConfigPath, diagnostics: Diagnostics) -> None:
    """Check that no two servers of a backend have the same name."""
    counts = Counter(server.name for server in servers)
    for name in sorted(name for name, count in counts.items() if count > 1):
        diagnostics.add(path, f"the name {to_display(name)} is used more than once")
