"""What must fit together in health checks and in what hangs on them: scripts, ports, TLS, observing, sticking."""

from __future__ import annotations

from collections.abc import Sequence

from mailproxy.address import TcpAddress, UnixAddress
from mailproxy.config import model
from mailproxy.config.check_plan import MAIL, Probe, probes, tls_of_checks
from mailproxy.config.key_paths import join
from mailproxy.config.layers import Layer, is_overridden_by, iter_tables, origin_path
from mailproxy.config.rules.rules import KEY_ALONE, NAME_MISSING, check_path
from mailproxy.config.validate import Diagnostics, Table

_EXPECTING = ("expect", "expect_regex", "expect_hex")
_SAYING_HELLO = ("smtp", "submission", "lmtp")
_DOING = ("connect", "send", "send_hex", *_EXPECTING)

SERVERS_MAX = 1 << 16  # an entry of the stick table has 16 bits for its server (pool.stick)


def check_steps(tables: Table, found: Diagnostics) -> None:
    """Each step of each script that stands in the file is one thing, and its keys go with that."""
    for kind in ("backend", "server"):
        for layer in iter_tables(tables, kind):
            check = layer.table.get("check") or {}
            for index, step in enumerate(check.get("steps", [])):
                here = f"{layer.path}.check.steps[{index}]"
                if not any(bad == here or bad.startswith(f"{here}.") for bad in found.invalid_paths):
                    _step(Layer(here, step), found)


def _step(step: Layer, found: Diagnostics) -> None:
    done = [key for key in _DOING if key in step.table]
    if not done:
        found.add(step.path, f"does nothing: give one of {', '.join(_DOING)}")
    if len(done) > 1:
        found.add(step.path, f"has {' and '.join(done)}: make a step of each")
    if done and not any(key in _EXPECTING for key in done):
        for key in ("not", "timeout"):
            if step.table.get(key):
                found.add(join(step.path, key), f"has no meaning with {done[0]}: it goes with an expectation")
    tls = step.table.get("connect", {}).get("tls")
    if not isinstance(tls, dict):
        return
    path = f"{step.path}.connect.tls"
    if tls.get("mode") == "starttls":
        found.add(
            f"{path}.mode",
            '"starttls" has no meaning in a script, where TLS is made right after connecting: give type = "imap", or '
            "another mail protocol, and check.tls",
        )
    if "key" in tls and "certificate" not in tls:
        found.add(f"{path}.key", KEY_ALONE)


def check_own_stick(tables: Table, found: Diagnostics) -> None:
    """A server has no stick table of its own."""
    for layer in iter_tables(tables, "server"):
        if isinstance(layer.table.get("stick"), dict):
            found.add(
                join(layer.path, "stick"),
                "a table is not allowed: it is the backend's, and a server can only stay out of it, with stick = false",
            )


def check_stick(backend: model.Backend, layers: Sequence[Layer], found: Diagnostics) -> None:
    """The table can tell the servers apart."""
    count = len(backend.servers)
    if count > SERVERS_MAX and any(server.stick is not None for server in backend.servers):
        path = join(origin_path(layers, "stick"), "stick")
        found.add(
            path, f"has room for {SERVERS_MAX} servers, and there are {count}: make two backends of them"
        )


def check_check(
    server: model.Server, protocol: model.Protocol, layers: Sequence[Layer], found: Diagnostics
) -> None:
    """A server's check can be done. ``layers``: where the server's keys came from, its own table last."""
    if _is_blamed(layers, found):
        return  # what is wrong with it has been said, and the rest may hang on it
    if server.check is not None:
        _script(server.check, layers, found)
        _tls(server.check, protocol, layers, found)
        _addresses(server.check, layers, found)
        _hello(server.check, protocol, layers, found)
        for probe in probes(server, protocol, ()):
            _port(server, probe, layers, found)
        _names(server, protocol, layers, found)
    elif server.observe == "connect":
        _observe(layers, found)


def _observe(layers: Sequence[Layer], found: Diagnostics) -> None:
    why = "needs a check: a server that it took down could never come up again"
    if is_overridden_by(layers, ("check",), ("observe",)):
        found.add(_place(layers), f'observe = "connect" {why}; give one, or observe = "none", too')
    else:
        found.add(
            join(origin_path(layers, "observe"), "observe"), f'"connect" {why}; give one, or observe = "none"'
        )


def _is_blamed(layers: Sequence[Layer], found: Diagnostics) -> bool:
    paths = [join(layer.path, "check") for layer in layers]
    return any(bad == path or bad.startswith(f"{path}.") for path in paths for bad in found.invalid_paths)


def _place(layers: Sequence[Layer], *keys: str) -> str:
    """The path of a key of the check, where it was given."""
    return ".".join((origin_path(layers, "check", *keys), "check", *keys))


def _script(given: model.Check, layers: Sequence[Layer], found: Diagnostics) -> None:
    if given.type == "script" and not given.steps:
        found.add(_place(layers, "type"), '"script" needs steps: give check.steps')
    # a server's own type may leave the script that others have
    is_left = is_overridden_by(layers, ("check", "type"), ("check", "steps"))
    if given.type != "script" and given.steps and not is_left:
        found.add(_place(layers, "steps"), 'has no meaning without type = "script"')


def _tls(given: model.Check, protocol: model.Protocol, layers: Sequence[Layer], found: Diagnostics) -> None:
    kind = given.type or protocol
    is_left = is_overridden_by(layers, ("check", "type"), ("check", "tls"))
    if kind == "tls" and given.tls is False and not is_left:
        found.add(_place(layers, "tls"), 'false has no meaning with type = "tls"')
    if not isinstance(given.tls, model.ServerTls):
        return
    if given.tls.mode == "starttls" and kind not in MAIL:
        found.add(
            _place(layers, "tls", "mode"),
            f'"starttls" has no meaning with a check of type {kind}: imap, pop3, smtp, lmtp and sieve have it',
        )
    if given.tls.key is not None and given.tls.certificate is None:
        found.add(_place(layers, "tls", "key"), KEY_ALONE)


def _hello(given: model.Check, protocol: model.Protocol, layers: Sequence[Layer], found: Diagnostics) -> None:
    kind = given.type or protocol
    place = _place(layers, "hello")
    # defaults and profiles are for servers of several protocols
    if given.hello is None or kind in _SAYING_HELLO or not place.startswith("backends"):
        return
    if not is_overridden_by(layers, ("check", "type"), ("check", "hello")):
        found.add(place, f"has no meaning with a check of type {kind}: smtp, submission and lmtp say it")


def _addresses(given: model.Check, layers: Sequence[Layer], found: Diagnostics) -> None:
    check_path(given.address, join(origin_path(layers, "check", "address"), "check"), found)
    for index, step in enumerate(given.steps):
        if step.connect is not None:
            check_path(step.connect.address, f"{_place(layers, 'steps')}[{index}].connect", found)


def _port(server: model.Server, probe: Probe, layers: Sequence[Layer], found: Diagnostics) -> None:
    """A connection knows its port, unless that is left to the binds, which is not for scripts."""
    target = probe.address or server.address
    if probe.port is not None or isinstance(target, UnixAddress):
        return
    if probe.kind != "script":
        if isinstance(server.address, UnixAddress):
            found.add(_place(layers, "address"), "has no port, and neither has a Unix socket: give one")
    elif probe.first == 1:
        found.add(
            f"{_place(layers, 'steps')}[0]",
            "has no connect before it, and there is a server without a port: give check.port, or begin with "
            "connect = { port = … }",
        )
    else:
        found.add(
            f"{_place(layers, 'steps')}[{probe.first - 2}].connect",
            "has no port, and there is a server without one: give it one, or check.port",
        )


def _names(
    server: model.Server, protocol: model.Protocol, layers: Sequence[Layer], found: Diagnostics
) -> None:
    keys = tls_of_checks(server, protocol, ())
    for probe in probes(server, protocol, ()):
        tls = probe.tls
        if tls is None or tls == server.tls or tls.verify != "required" or tls.server_name is not None:
            continue
        if not any(isinstance(address, TcpAddress) for address in (server.address, probe.address)):
            found.add(layers[-1].path, f"{keys[tls]}.{NAME_MISSING}")
