"""Rules for health checks, passive health and stick tables."""

from __future__ import annotations

from mailproxy.address import TcpAddress, UnixAddress
from mailproxy.config import model
from mailproxy.config.check_plan import MAIL, Probe, plan_probes, tls_of_checks
from mailproxy.config.diagnostics import Diagnostics
from mailproxy.config.layers import Layer, MergedTable, Table, iter_tables
from mailproxy.config.path import ConfigPath
from mailproxy.config.rules.address_rules import check_unix_path
from mailproxy.config.rules.server_rules import KEY_WITHOUT_CERTIFICATE, NAME_MISSING

_EXPECTATIONS = ("expect", "expect_regex", "expect_hex")
_ACTIONS = ("connect", "send", "send_hex", *_EXPECTATIONS)
_PROTOCOLS_WITH_HELLO = ("smtp", "submission", "lmtp")

SERVERS_MAX = 1 << 16  # an entry of the stick table has 16 bits for its server (pool.stick_table)


def check_steps(tables: Table, diagnostics: Diagnostics) -> None:
    """Check that each step of each script in the file is one action, with keys that fit it."""
    for kind in ("backend", "server"):
        for layer in iter_tables(tables, kind):
            check = layer.table.get("check") or {}
            for step in Layer(layer.path / "check", check).items("steps"):
                if not diagnostics.is_invalid(step.path, subtree=True):
                    _check_step(step, diagnostics)


def _check_step(step: Layer, diagnostics: Diagnostics) -> None:
    actions = [key for key in _ACTIONS if key in step.table]
    if not actions:
        diagnostics.add(step.path, f"does nothing: give one of {', '.join(_ACTIONS)}")
    if len(actions) > 1:
        diagnostics.add(step.path, f"has {' and '.join(actions)}: make a step of each")
    if actions and not any(key in _EXPECTATIONS for key in actions):
        for key in ("not", "timeout"):
            if step.table.get(key):
                fact = f"has no meaning with {actions[0]}: it belongs to an expectation"
                diagnostics.add(step.path / key, fact)
    tls = step.table.get("connect", {}).get("tls")
    if isinstance(tls, dict):
        _check_step_tls(Layer(step.path / "connect" / "tls", tls), diagnostics)


def _check_step_tls(tls: Layer, diagnostics: Diagnostics) -> None:
    if tls.table.get("mode") == "starttls":
        diagnostics.add(
            tls.path / "mode",
            '"starttls" has no meaning in a script, where TLS is made right after connecting: give type = "imap", or '
            "another mail protocol, and check.tls",
        )
    if "key" in tls.table and "certificate" not in tls.table:
        diagnostics.add(tls.path / "key", KEY_WITHOUT_CERTIFICATE)


def check_stick_tables(tables: Table, diagnostics: Diagnostics) -> None:
    """Check that no server has a stick table of its own."""
    for layer in iter_tables(tables, "server"):
        if isinstance(layer.table.get("stick"), dict):
            diagnostics.add(
                layer.path / "stick",
                "a table is not allowed: it is the backend's, and a server can only stay out of it, with stick = false",
            )


def check_stick_size(backend: model.Backend, merged: MergedTable, diagnostics: Diagnostics) -> None:
    """Check that the entries of the stick table can tell the servers apart."""
    count = len(backend.servers)
    if count > SERVERS_MAX and any(server.stick is not None for server in backend.servers):
        fact = f"has room for {SERVERS_MAX} servers, and there are {count}: make two backends of them"
        diagnostics.add(merged.path_of("stick"), fact)


def check_check(
    server: model.Server, protocol: model.Protocol, merged: MergedTable, diagnostics: Diagnostics
) -> None:
    """Check that a server's health check can be made.

    Args:
        server: The server with all that it inherits.
        protocol: Its backend's.
        merged: Its table.
        diagnostics: Gets the faults.
    """
    # a fault of the check is reported, and every other key of it may depend on the invalid one
    if diagnostics.is_any_invalid(merged.candidates("check"), subtree=True):
        return
    if server.check is not None:
        _check_script(server.check, merged, diagnostics)
        _check_tls(server.check, protocol, merged, diagnostics)
        _check_unix_paths(server.check, merged, diagnostics)
        _check_hello(server.check, protocol, merged, diagnostics)
        for probe in plan_probes(server, protocol, ()):
            _check_port(server, probe, merged, diagnostics)
        _check_server_names(server, protocol, merged, diagnostics)
    elif server.observe == "connect":
        _check_observe(merged, diagnostics)


def _check_observe(merged: MergedTable, diagnostics: Diagnostics) -> None:
    reason = "needs a check: a server that it took down could never come up again"
    if merged.is_overridden(("observe",), by=("check",)):
        fact = f'observe = "connect" {reason}; give one, or observe = "none", too'
        diagnostics.add(merged.path_of("check"), fact)
    else:
        diagnostics.add(merged.path_of("observe"), f'"connect" {reason}; give one, or observe = "none"')


def _check_script(check: model.Check, merged: MergedTable, diagnostics: Diagnostics) -> None:
    if check.type == "script" and not check.steps:
        diagnostics.add(merged.path_of("check", "type"), '"script" needs steps: give check.steps')
    # a server with a type of its own may inherit the script of the others, and does not use it
    is_unused = merged.is_overridden(("check", "steps"), by=("check", "type"))
    if check.type != "script" and check.steps and not is_unused:
        diagnostics.add(merged.path_of("check", "steps"), 'has no meaning without type = "script"')


def _check_tls(
    check: model.Check, protocol: model.Protocol, merged: MergedTable, diagnostics: Diagnostics
) -> None:
    kind = check.type or protocol
    is_unused = merged.is_overridden(("check", "tls"), by=("check", "type"))
    if kind == "tls" and check.tls is False and not is_unused:
        diagnostics.add(merged.path_of("check", "tls"), 'false has no meaning with type = "tls"')
    if not isinstance(check.tls, model.ServerTls):
        return
    if check.tls.mode == "starttls" and kind not in MAIL:
        diagnostics.add(
            merged.path_of("check", "tls", "mode"),
            f'"starttls" has no meaning with a check of type {kind}: imap, pop3, smtp, lmtp and sieve have it',
        )
    if check.tls.key is not None and check.tls.certificate is None:
        diagnostics.add(merged.path_of("check", "tls", "key"), KEY_WITHOUT_CERTIFICATE)


def _check_hello(
    check: model.Check, protocol: model.Protocol, merged: MergedTable, diagnostics: Diagnostics
) -> None:
    kind = check.type or protocol
    if check.hello is None or kind in _PROTOCOLS_WITH_HELLO:
        return
    path = merged.path_of("check", "hello")
    # defaults and profiles are for servers of several protocols
    if path.steps[0] != "backends" or merged.is_overridden(("check", "hello"), by=("check", "type")):
        return
    fact = f"has no meaning with a check of type {kind}: only smtp, submission and lmtp send it"
    diagnostics.add(path, fact)


def _check_unix_paths(check: model.Check, merged: MergedTable, diagnostics: Diagnostics) -> None:
    check_unix_path(check.address, merged.origin("check", "address") / "check", diagnostics)
    for index, step in enumerate(check.steps):
        if step.connect is not None:
            table = _step_path(merged, index) / "connect"
            check_unix_path(step.connect.address, table, diagnostics)


def _check_port(server: model.Server, probe: Probe, merged: MergedTable, diagnostics: Diagnostics) -> None:
    """Check that a connection has a port.

    Only a script needs one here. Any other check uses the ports of the binds that lead to the server.
    """
    target = probe.address or server.address
    if probe.port is not None or isinstance(target, UnixAddress):
        return
    if probe.kind != "script":
        if isinstance(server.address, UnixAddress):
            fact = "has no port, and neither has a Unix socket: give one"
            diagnostics.add(merged.path_of("check", "address"), fact)
    elif probe.first == 1:
        diagnostics.add(
            _step_path(merged, 0),
            "has no connect before it, and there is a server without a port: give check.port, or begin with "
            "connect = { port = … }",
        )
    else:
        diagnostics.add(
            _step_path(merged, probe.first - 2) / "connect",
            "has no port, and there is a server without one: give it one, or check.port",
        )


def _step_path(merged: MergedTable, index: int) -> ConfigPath:
    return merged.path_of("check", "steps") / index


def _check_server_names(
    server: model.Server, protocol: model.Protocol, merged: MergedTable, diagnostics: Diagnostics
) -> None:
    """Check that TLS of a check has a name to verify."""
    paths = tls_of_checks(server, protocol, ())
    for probe in plan_probes(server, protocol, ()):
        tls = probe.tls
        if tls is None or tls == server.tls or tls.verify != "required" or tls.server_name is not None:
            continue
        if not any(isinstance(address, TcpAddress) for address in (server.address, probe.address)):
            diagnostics.add(merged.path, f"{paths[tls]}.{NAME_MISSING}")
