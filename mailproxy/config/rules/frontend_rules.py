"""Rules for the binds, routes, limits and TLS of a frontend."""

from __future__ import annotations

from collections.abc import Sequence

from mailproxy.address import TcpAddress, UnixAddress
from mailproxy.config import model
from mailproxy.config.diagnostics import Diagnostics
from mailproxy.config.layers import Layer, MergedTable
from mailproxy.config.path import bind_path
from mailproxy.config.rules.address_rules import check_unix_path
from mailproxy.config.values import to_display

_TCP_ONLY = ("tcp_user_timeout", "keepalive", "free_bind", "interface", "fast_open", "v6only")
_UNIX_ONLY = ("unix_mode", "unix_user", "unix_group")


def check_own_bind(bind: Layer, diagnostics: Diagnostics) -> None:
    """Check that the keys that a bind's own table has fit its address.

    Keys that a bind inherits may not fit: defaults are for binds of every kind.
    """
    address = bind.table.get("address", "")
    shown = to_display(address)
    is_tcp = not address.startswith(("unix:", "fd:"))
    for key in () if is_tcp else _TCP_ONLY:
        if bind.table.get(key):
            diagnostics.add(bind.path / key, f"has no meaning for {shown}")
    for key in _UNIX_ONLY if address and not address.startswith("unix:") else ():
        if key in bind.table:
            diagnostics.add(bind.path / key, f"has no meaning for {shown}: unix: addresses only")
    if bind.table.get("v6only") and address and is_tcp and ":" not in address.rpartition(":")[0]:
        diagnostics.add(bind.path / "v6only", f"has no meaning for {shown}: IPv6 addresses only")
    if address.startswith("fd:") and "backlog" in bind.table:
        diagnostics.add(bind.path / "backlog", f"has no meaning for {shown}: it listens already")


def check_bind(bind: model.Bind, own: Layer, diagnostics: Diagnostics) -> None:
    """Check a bind's Unix path, and that clients can meet what it demands of PROXY headers.

    Args:
        bind: The bind with all that it inherits.
        own: Its own table.
        diagnostics: Gets the faults.
    """
    check_unix_path(bind.address, own.path, diagnostics)
    path = own.path / "accept_proxy"
    if own.table.get("proxy_optional") and not bind.accept_proxy and not diagnostics.is_invalid(path):
        diagnostics.add(own.path / "proxy_optional", "has no meaning without accept_proxy")
    takes_unix = "unix" in bind.accept_proxy
    if isinstance(bind.address, TcpAddress) and takes_unix:
        shown = to_display(str(bind.address))
        diagnostics.add(path, f'"unix" has no meaning for {shown}: give networks')
    demands_header = bool(bind.accept_proxy) and not bind.proxy_optional
    if isinstance(bind.address, UnixAddress) and demands_header and not takes_unix:
        fact = 'no client could connect: clients of a Unix socket are in no network; give "unix", or []'
        diagnostics.add(path, fact)


def check_starttls(frontend: model.Frontend, binds: Sequence[MergedTable], diagnostics: Diagnostics) -> None:
    """Check that binds that upgrade their sessions know the protocol to do it in.

    Args:
        frontend: The frontend with all that it inherits.
        binds: The tables of its binds.
        diagnostics: Gets the faults.
    """
    for bind, merged in zip(frontend.bind, binds, strict=True):
        if bind.mode == "starttls" and frontend.protocol == "tcp":
            if not diagnostics.is_any_invalid(merged.candidates("mode")):
                fact = f'"starttls" needs a mail protocol: give frontends.{frontend.name}.protocol, such as "imap"'
                diagnostics.add(merged.path_of("mode"), fact)
        elif bind.mode != "starttls" and "starttls_required" in merged.own.table:
            fact = f'has no meaning with mode "{bind.mode}": only mode "starttls" upgrades sessions'
            diagnostics.add(merged.path / "starttls_required", fact)


def check_greeting_delay(frontend: model.Frontend, own: Layer, diagnostics: Diagnostics) -> None:
    """Check that a frontend's own greeting delay is for a protocol whose clients wait for a greeting.

    Args:
        frontend: The frontend with all that it inherits.
        own: Its own table.
        diagnostics: Gets the faults.
    """
    has_no_use = frontend.protocol not in ("smtp", "submission", "lmtp")
    if frontend.greeting_delay and has_no_use and own.table.get("greeting_delay"):
        fact = f"has no meaning with protocol {frontend.protocol}: only smtp, submission and lmtp"
        diagnostics.add(own.path / "greeting_delay", fact)


def check_unused_tls(
    frontend: model.Frontend, own: Layer, binds: Sequence[MergedTable], diagnostics: Diagnostics
) -> None:
    """Check that ``tls`` is given only where TLS is terminated.

    Args:
        frontend: The frontend with all that it inherits.
        own: Its own table.
        binds: The tables of its binds.
        diagnostics: Gets the faults.
    """
    for bind, merged in zip(frontend.bind, binds, strict=True):
        if merged.own.table.get("tls") and not frontend.terminates_tls(bind):
            fact = f'has no meaning with mode "{bind.mode}": TLS is not terminated here'
            diagnostics.add(merged.path / "tls", fact)
    if own.table.get("tls") and frontend.bind and not any(map(frontend.terminates_tls, frontend.bind)):
        diagnostics.add(
            own.path / "tls", 'has no meaning: no bind of this frontend has mode = "tls" or "starttls"'
        )


def check_tls(tls: model.FrontendTls | None, bind: MergedTable, diagnostics: Diagnostics) -> None:
    """Check that the keys of TLS that is terminated at a bind fit each other."""
    if (
        tls is None
        or not (tls.certificates or tls.acme)
        or diagnostics.is_any_invalid(bind.candidates("tls"), subtree=True)
    ):
        return  # these faults are reported elsewhere
    if tls.key is not None and len(tls.certificates) != 1:
        diagnostics.add(
            bind.path_of("tls", "key"),
            "belongs to exactly one certificate file; for several, give each its own: "
            "certificates = [{ certificate = …, key = … }, …]",
        )
    elif tls.key is not None and tls.certificates[0].key is not None:
        diagnostics.add(bind.path_of("tls", "key"), "is given twice: the certificate has a key of its own")
    if tls.client_verify != "none" and tls.client_ca is None:
        diagnostics.add(
            bind.origin("tls", "client_verify") / "tls" / "client_ca",
            f'is missing: client_verify = "{tls.client_verify}" needs the CA to verify by',
        )
    if tls.client_crl is not None and tls.client_verify == "none":
        diagnostics.add(bind.path_of("tls", "client_crl"), "has no meaning without client_verify")
    elif tls.client_ca is not None and tls.client_verify == "none":
        fact = 'has no meaning without client_verify = "optional" or "required"'
        diagnostics.add(bind.path_of("tls", "client_ca"), fact)


def check_certificates(
    frontend: model.Frontend, binds: Sequence[MergedTable], diagnostics: Diagnostics
) -> None:
    """Check that there are certificates wherever TLS is terminated.

    Args:
        frontend: The frontend with all that it inherits.
        binds: The tables of its binds.
        diagnostics: Gets the faults.
    """
    for index, (bind, merged) in enumerate(zip(frontend.bind, binds, strict=True)):
        has_certificates = bind.tls is not None and bool(bind.tls.certificates or bind.tls.acme)
        if has_certificates or not frontend.terminates_tls(bind):
            continue
        if diagnostics.is_any_invalid(merged.candidates("tls"), subtree=True):
            continue  # these faults are reported elsewhere
        is_own = bind.mode in ("tls", "starttls")
        user = f"mode {bind.mode} needs" if is_own else 'a route with mode = "tls" needs'
        diagnostics.add(
            bind_path(frontend.name, index),
            f"{user} certificates: give tls.certificates to the bind or its frontend, or tls.acme",
        )


def check_session_rate(frontend: MergedTable, diagnostics: Diagnostics) -> bool:
    """Check that a rate limit per client has a count; return whether it has, or whether there is no limit."""
    key = "max_session_rate_per_client"
    rate = frontend.values.get(key)
    if not isinstance(rate, dict) or "count" in rate:
        return True
    if not diagnostics.is_any_invalid(frontend.candidates(key, "count")):
        fact = 'count is missing: give { count = 30, per = "60s" } or similar, or false for no bound'
        diagnostics.add(frontend.path_of(key), fact)
    return False


def check_routes(
    frontend: model.Frontend, merged: MergedTable, binds: Sequence[MergedTable], diagnostics: Diagnostics
) -> None:
    """Check that each route has a target, and that a bind of its frontend can know what the route asks for.

    Args:
        frontend: The frontend with all that it inherits.
        merged: Its table.
        binds: The tables of its binds.
        diagnostics: Gets the faults.
    """
    modes_are_valid = not any(diagnostics.is_any_invalid(bind.candidates("mode")) for bind in binds)
    for index, route in enumerate(frontend.routes):
        path = merged.path_of("routes") / index
        if diagnostics.is_any_invalid((path, path / "backend", path / "reject")):
            continue
        if (route.backend is None) != route.reject:
            both = ", not both" if route.reject else ""
            diagnostics.add(path, f"needs one of backend and reject = true{both}")
        peeking = [bind for bind in frontend.bind if bind.mode in ("tls", "passthrough", "starttls")]
        keys = _keys_of_client_hello(route)
        if keys and modes_are_valid and not any(_may_reach(bind, route) for bind in peeking):
            at_port = f" at port {' or '.join(map(str, route.port))}" if peeking else ""
            diagnostics.add(
                path / keys[0],
                f'can never hold: no bind{at_port} of this frontend has mode = "tls" or "passthrough", and only those '
                "wait for a ClientHello",
            )


def _keys_of_client_hello(route: model.Route) -> list[str]:
    """Return the keys of a route that need a ClientHello."""
    given = (("sni", route.sni is not None), ("alpn", bool(route.alpn)), ("mode", route.mode is not None))
    return [key for key, is_given in given if is_given]


def _may_reach(bind: model.Bind, route: model.Route) -> bool:
    port = bind.address.port if isinstance(bind.address, TcpAddress) else None
    # A PROXY header may name any port. The port of an inherited or Unix socket, or of port 0, is not known
    # here.
    return not route.port or port in route.port or not port or bool(bind.accept_proxy)
