"""Check plans: for each deployment, the connections that the checks of a server make."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import tomli
from hypothesis import example, given, settings
from hypothesis import strategies as st

import mailproxy
from mailproxy.config import Config, ServerTls
from mailproxy.config.check_plan import EntryPath, Probe, entry_paths, plan_probes, tls_of_checks
from mailproxy.config.path import ROOT_PATH
from mailproxy.config.values import (
    VALUE_TYPES,
    ExpectedHex,
    ExpectedText,
    InvalidValueError,
    Pattern,
    SentHex,
    SentText,
)
from mailproxy.errors import ConfigError
from mailproxy.protocol.checks.script import Send, compile_step
from tests.support.config_noise import FULL_CONFIG, mutated_mappings
from tests.support.smallest_config import smallest_config

IMAP = 'frontends.imap.protocol = "imap"\n'
CERTIFICATE = 'frontends.imap.tls.certificates = ["a.pem"]\n'
POP3 = 'frontends.imap.protocol = "pop3"\n'
FORWARD, PASSTHROUGH, TERMINATED = (
    f'frontends.imap.bind = [{{ address = "*:{port}", mode = "{mode}" }}]\n' + extra
    for port, mode, extra in ((143, "forward", ""), (993, "passthrough", ""), (993, "tls", CERTIFICATE))
)
BOTH_FORWARD = 'frontends.imap.bind = ["*:143", "*:993"]\n'
MIXED = 'frontends.imap.bind = ["*:143", { address = "*:993", mode = "passthrough" }]\n'
SCRIPT = 'backends.dovecot.check.type = "script"\nbackends.dovecot.check.steps = '


def servers_toml(*addresses: str) -> str:
    return f"backends.dovecot.servers = {json.dumps(addresses)}\n"


def paths_to(
    config: Config, backend: str = "dovecot", ports: Mapping[int, int] | None = None
) -> tuple[EntryPath, ...]:
    """Return the entry paths to a backend; ``ports`` are the ports of binds that only their sockets know."""
    listener_ports = {("imap", bind): port for bind, port in (ports or {}).items()}
    return entry_paths(config.frontends.values(), backend, listener_ports)


def probes_of_first_server(config: Config, ports: Mapping[int, int] | None = None) -> tuple[Probe, ...]:
    backend = config.backends["dovecot"]
    return plan_probes(backend.servers[0], backend.protocol, paths_to(config, ports=ports))


def describe_tls(tls: ServerTls | None) -> str:
    if tls is None:
        return ""
    parts = ("" if tls.mode == "implicit" else f" {tls.mode}", tls.verify, tls.ca.name if tls.ca else "")
    return f"{parts[0] or ' tls'} {parts[1]}{parts[2] and ' ' + parts[2]}"


def describe(probe: Probe) -> str:
    """Describe a probe: ``imap 143``, ``pop3 995 tls none``, ``script 192.0.2.9 143 v2``."""
    address = "" if probe.address is None else f" {probe.address}"
    port = "" if probe.port is None else f" {probe.port}"
    proxy = "" if probe.send_proxy == "none" else f" {probe.send_proxy}"
    return f"{probe.kind}{address}{port}{describe_tls(probe.tls)}{proxy}"


# Deployments without a configured check, and what is checked.
DEPLOYMENTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "protocol tcp": (servers_toml("192.0.2.1:143"), ("tcp 143",)),
    "protocol tcp, passed through": (PASSTHROUGH + servers_toml("192.0.2.1:993"), ("tcp 993",)),
    "protocol tcp, over TLS and with a header": (
        servers_toml("192.0.2.1:993") + 'backends.dovecot.tls = {}\nbackends.dovecot.send_proxy = "v2"',
        ("tcp 993",),
    ),
    # Exchange takes its clients as they come, on two ports.
    "both ports forwarded to servers without one": (
        IMAP + BOTH_FORWARD + servers_toml("192.0.2.1"),
        ("imap 143", "imap 993 tls none"),
    ),
    "one forwarded, one passed through": (
        IMAP + MIXED + servers_toml("192.0.2.1"),
        ("imap 143", "imap 993 tls none"),
    ),
    "one passed through to a port of its own": (
        IMAP
        + 'frontends.imap.bind = ["*:143", { address = "*:10993", mode = "passthrough" }]\n'
        + servers_toml("192.0.2.1"),
        ("imap 143", "imap 10993 tls none"),
    ),
    "forwarded from unregistered ports": (
        IMAP + 'frontends.imap.bind = ["*:10143", "*:10993"]\n' + servers_toml("192.0.2.1"),
        ("tcp 10143", "tcp 10993"),
    ),
    "TLS terminated, to a port of the servers": (
        IMAP + TERMINATED + servers_toml("192.0.2.1:10143"),
        ("imap 10143",),
    ),
    "TLS terminated, to the backend's port": (
        IMAP + TERMINATED + "backends.dovecot.port = 10143\n" + servers_toml("192.0.2.1"),
        ("imap 10143",),
    ),
    "TLS terminated, to a port of TLS": (
        IMAP + TERMINATED + servers_toml("192.0.2.1:993"),
        ("imap 993 tls none",),
    ),
    "TLS terminated, to servers without a port": (
        IMAP
        + 'frontends.imap.bind = [{ address = "*:10143", mode = "tls" }, "*:20143"]\n'
        + CERTIFICATE
        + servers_toml("192.0.2.1"),
        ("imap 10143", "tcp 20143"),
    ),
    "passed through": (IMAP + PASSTHROUGH + servers_toml("192.0.2.1:993"), ("imap 993 tls none",)),
    "passed through to another port": (
        IMAP + PASSTHROUGH + servers_toml("192.0.2.1:10993"),
        ("imap 10993 tls none",),
    ),
    "forwarded to a port of TLS": (IMAP + FORWARD + servers_toml("192.0.2.1:993"), ("imap 993 tls none",)),
    "forwarded to the registered port": (IMAP + FORWARD + servers_toml("192.0.2.1:143"), ("imap 143",)),
    "forwarded to another port": (IMAP + FORWARD + servers_toml("192.0.2.1:10993"), ("tcp 10993",)),
    "forwarded to another protocol's port": (IMAP + FORWARD + servers_toml("192.0.2.1:110"), ("tcp 110",)),
    "forwarded and terminated, to one port": (
        IMAP
        + 'frontends.imap.bind = ["*:143", { address = "*:993", mode = "tls" }]\n'
        + CERTIFICATE
        + servers_toml("192.0.2.1:10143"),
        ("imap 10143",),
    ),
    "forwarded and passed through, to one port": (
        IMAP + MIXED + servers_toml("192.0.2.1:10993"),
        ("tcp 10993",),
    ),
    "TLS of the backend": (
        IMAP + FORWARD + servers_toml("192.0.2.1:10993") + "backends.dovecot.tls = {}",
        ("imap 10993 tls required",),
    ),
    "TLS of the backend, and a header": (
        IMAP
        + TERMINATED
        + servers_toml("192.0.2.1:993")
        + 'backends.dovecot.tls.ca = "ca.pem"\nbackends.dovecot.send_proxy = "v2-ssl"',
        ("imap 993 tls required ca.pem v2-ssl",),
    ),
    "TLS of the backend, to servers without a port": (
        IMAP + MIXED + servers_toml("192.0.2.1") + 'backends.dovecot.tls.verify = "chain"',
        ("imap 143 tls chain", "imap 993 tls chain"),
    ),
    "PROXY header with a connect check": (
        IMAP + FORWARD + servers_toml("192.0.2.1:10143") + 'backends.dovecot.send_proxy = "v2"',
        ("tcp 10143",),
    ),
    "pop3": (
        POP3 + 'frontends.imap.bind = ["*:110", "*:995"]\n' + servers_toml("192.0.2.1"),
        ("pop3 110", "pop3 995 tls none"),
    ),
    "submission": (
        'frontends.imap.protocol = "submission"\nfrontends.imap.bind = ["*:587", "*:465"]\n'
        + servers_toml("192.0.2.1"),
        ("submission 587", "submission 465 tls none"),
    ),
    "submission at 25": (
        'frontends.imap.protocol = "submission"\n' + servers_toml("192.0.2.1:25"),
        ("tcp 25",),
    ),
    "smtp": ('frontends.imap.protocol = "smtp"\n' + servers_toml("192.0.2.1:25"), ("smtp 25",)),
    "smtp over TLS": (
        'frontends.imap.protocol = "smtp"\n' + servers_toml("192.0.2.1:465"),
        ("smtp 465 tls none",),
    ),
    "lmtp": ('frontends.imap.protocol = "lmtp"\n' + servers_toml("192.0.2.1:24"), ("lmtp 24",)),
    "sieve": ('frontends.imap.protocol = "sieve"\n' + servers_toml("192.0.2.1:4190"), ("sieve 4190",)),
    "sieve at a port of TLS": (
        'frontends.imap.protocol = "sieve"\n' + servers_toml("192.0.2.1:993"),
        ("sieve 993 tls none",),
    ),
    "a Unix socket, forwarded": (IMAP + FORWARD + servers_toml("unix:/run/imap.sock"), ("tcp",)),
    "a Unix socket, TLS terminated": (IMAP + TERMINATED + servers_toml("unix:/run/imap.sock"), ("imap",)),
    "a Unix socket, passed through": (
        IMAP + PASSTHROUGH + servers_toml("unix:/run/imap.sock"),
        ("imap tls none",),
    ),
    "from a Unix socket": (
        IMAP + 'frontends.imap.bind = ["unix:/run/imap.sock"]\n' + servers_toml("192.0.2.1:143"),
        ("imap 143",),
    ),
    "ports that only the socket knows": (
        IMAP + 'frontends.imap.bind = ["127.0.0.1:0", "fd:3"]\n' + servers_toml("192.0.2.1"),
        ("tcp",),
    ),
    "TLS terminated at such a port": (
        IMAP
        + 'frontends.imap.bind = [{ address = "fd:3", mode = "tls" }]\n'
        + CERTIFICATE
        + servers_toml("192.0.2.1"),
        ("imap",),
    ),
    "one of the ports is known": (
        IMAP + 'frontends.imap.bind = ["fd:3", "*:143"]\n' + servers_toml("192.0.2.1"),
        ("imap 143",),
    ),
    "one port at two addresses": (
        IMAP + 'frontends.imap.bind = ["192.0.2.7:143", "192.0.2.8:143"]\n' + servers_toml("192.0.2.1"),
        ("imap 143",),
    ),
    "no entry path, a registered port": (
        'frontends.imap.backend = "other"\nbackends.other.servers = ["192.0.2.2"]\nbackends.dovecot.protocol = "imap"',
        ("imap 143",),
    ),
    "no entry path, another port": (
        'frontends.imap.backend = "other"\nbackends.other.servers = ["192.0.2.2"]\nbackends.dovecot.protocol = "imap"\n'
        + servers_toml("192.0.2.1:10143"),
        ("tcp 10143",),
    ),
    "two frontends with different modes": (
        IMAP
        + FORWARD
        + servers_toml("192.0.2.1")
        + """
frontends.imaps.protocol = "imap"
frontends.imaps.backend = "dovecot"
frontends.imaps.bind = [{ address = "*:10993", mode = "passthrough" }]
""",
        ("imap 143", "imap 10993 tls none"),
    ),
    "two frontends with different modes, to one port": (
        IMAP
        + PASSTHROUGH
        + servers_toml("192.0.2.1:10143")
        + """
frontends.imaps.protocol = "imap"
frontends.imaps.backend = "dovecot"
frontends.imaps.tls.certificates = ["a.pem"]
frontends.imaps.bind = [{ address = "*:994", mode = "tls" }]
""",
        ("imap 10143",),
    ),
    "a route terminates TLS": (
        IMAP
        + PASSTHROUGH
        + CERTIFICATE
        + 'frontends.imap.routes = [{ sni = ["a.example"], mode = "tls", backend = "dovecot" }]\n'
        + 'frontends.imap.backend = "other"\nbackends.other.servers = ["192.0.2.2"]\n'
        + servers_toml("192.0.2.1:10143"),
        ("imap 10143",),
    ),
    "a route passes TLS": (
        IMAP
        + TERMINATED
        + 'frontends.imap.routes = [{ sni = ["a.example"], mode = "passthrough", backend = "dovecot" }]\n'
        + 'frontends.imap.backend = "other"\nbackends.other.servers = ["192.0.2.2"]\n'
        + servers_toml("192.0.2.1:10993"),
        ("imap 10993 tls none",),
    ),
}

# Configured checks, for a server at the unregistered port 10143.
CONFIGURED_CHECKS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "none": ('check = "none"', ()),
    "false": ("check = false", ()),
    "tcp": ('check = "tcp"', ("tcp 10143",)),
    "tcp ignores TLS and header of sessions": (
        'check = "tcp"\ntls = {}\nsend_proxy = "v2"',
        ("tcp 10143",),
    ),
    "tcp with its own TLS and header": (
        'check = { type = "tcp", tls = true, send_proxy = "v1" }\ntls = { ca = "ca.pem" }\nsend_proxy = "v2"',
        ("tcp 10143 tls required ca.pem v1",),
    ),
    "no type, with TLS and header": (
        'check = { tls = true, send_proxy = "v1" }',
        ("imap 10143 tls required v1",),
    ),
    "tls": ('check = "tls"', ("tls 10143 tls required",)),
    "tls, at a port of TLS": ('check = { type = "tls", port = 993 }', ("tls 993 tls none",)),
    "tls, as sessions": (
        'check = "tls"\ntls = { ca = "ca.pem" }\nsend_proxy = "v2"',
        ("tls 10143 tls required ca.pem v2",),
    ),
    "tls, with its own keys": (
        'check = { type = "tls", tls = { verify = "none" }, send_proxy = "none" }\ntls = { ca = "ca.pem" }\nsend_proxy = "v2"',
        ("tls 10143 tls none",),
    ),
    "the protocol's": ('check = "imap"', ("imap 10143",)),
    "another protocol's": ('check = "smtp"', ("smtp 10143",)),
    "the protocol's, as sessions": (
        'check = "imap"\ntls = { ca = "ca.pem" }\nsend_proxy = "v1"',
        ("imap 10143 tls required ca.pem v1",),
    ),
    "the protocol's, in clear text, sessions over TLS": (
        'check = { type = "imap", tls = false }\ntls = {}',
        ("imap 10143",),
    ),
    "in clear text implies the protocol": ("check.tls = false", ("imap 10143",)),
    "over TLS implies the protocol": (
        'check.tls = { ca = "ca.pem" }',
        ("imap 10143 tls required ca.pem",),
    ),
    "own TLS table replaces that of sessions": (
        'check.tls = { verify = "chain" }\ntls = { ca = "ca.pem" }',
        ("imap 10143 tls chain",),
    ),
    "STARTTLS": (
        'check = { type = "imap", tls = { mode = "starttls", verify = "none" } }',
        ("imap 10143 starttls none",),
    ),
    "STARTTLS implies the protocol": (
        'check.tls = { mode = "starttls" }',
        ("imap 10143 starttls required",),
    ),
    "another port": ("check.port = 143", ("imap 143",)),
    "another port, of TLS": ("check.port = 993", ("imap 993 tls none",)),
    "another port, unregistered": ("check.port = 20143", ("tcp 20143",)),
    "another port, as sessions": ("check.port = 143\ntls = {}", ("imap 143 tls required",)),
    "another address": ('check.address = "192.0.2.9"', ("tcp 192.0.2.9 10143",)),
    "another address with a port": ('check.address = "192.0.2.9:143"', ("imap 192.0.2.9:143 143",)),
    "another address, and the port": (
        'check = { address = "192.0.2.9:143", port = 993 }',
        ("imap 192.0.2.9:143 993 tls none",),
    ),
    "a Unix socket": ('check = { type = "imap", address = "unix:/run/i" }', ("imap unix:/run/i",)),
    "a Unix socket has no port": ('check = { address = "unix:/run/i", port = 9 }', ("tcp unix:/run/i",)),
}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_probes_without_a_configured_check(name: str) -> None:
    lines, expected = DEPLOYMENTS[name]
    assert tuple(map(describe, probes_of_first_server(smallest_config(lines)))) == expected


@pytest.mark.parametrize("name", CONFIGURED_CHECKS)
def test_probes_with_a_configured_check(name: str) -> None:
    lines, expected = CONFIGURED_CHECKS[name]
    extra_lines = "".join(f"backends.dovecot.{line}\n" for line in lines.splitlines())
    config = smallest_config(IMAP + FORWARD + servers_toml("192.0.2.1:10143") + extra_lines)
    assert tuple(map(describe, probes_of_first_server(config))) == expected


def test_entry_paths_apply_only_to_the_session_port() -> None:
    passthrough = smallest_config(
        IMAP + PASSTHROUGH + servers_toml("192.0.2.1:10993") + "backends.dovecot.check.port = 10143"
    )
    terminated = smallest_config(
        IMAP + TERMINATED + servers_toml("192.0.2.1:10143") + "backends.dovecot.check.port = 20143"
    )
    assert [
        *map(describe, probes_of_first_server(passthrough)),
        *map(describe, probes_of_first_server(terminated)),
    ] == [
        "tcp 10143",
        "tcp 20143",
    ]


def test_check_port_is_used_for_servers_without_port() -> None:
    lines = IMAP + MIXED + servers_toml("192.0.2.1") + "backends.dovecot.check.port = "
    assert list(map(describe, probes_of_first_server(smallest_config(lines + "143")))) == ["imap 143"]
    assert list(map(describe, probes_of_first_server(smallest_config(lines + "993")))) == [
        "imap 993 tls none"
    ]
    assert list(map(describe, probes_of_first_server(smallest_config(lines + "20143")))) == ["tcp 20143"]


def test_explicit_type_probes_each_entry_port() -> None:
    lines = IMAP + MIXED + servers_toml("192.0.2.1") + "backends.dovecot.check = "
    for check_type, expected in {
        "imap": ["imap 143", "imap 993 tls none"],
        "tcp": ["tcp 143", "tcp 993"],
        "tls": ["tls 143 tls required", "tls 993 tls none"],
    }.items():
        assert (
            list(map(describe, probes_of_first_server(smallest_config(f'{lines}"{check_type}"')))) == expected
        )


def test_ports_of_listening_sockets_are_probed() -> None:
    config = smallest_config(
        IMAP
        + 'frontends.imap.bind = ["127.0.0.1:0", { address = "fd:3", mode = "passthrough" }]\n'
        + servers_toml("192.0.2.1")
    )
    probes = probes_of_first_server(config, {0: 143, 1: 10993})
    assert list(map(describe, probes)) == ["imap 143", "imap 10993 tls none"]


def test_servers_of_a_backend_have_different_probes() -> None:
    backend = smallest_config(f"""{IMAP}{PASSTHROUGH}
backends.dovecot.servers = [
  "192.0.2.1:993",
  {{ address = "192.0.2.2:143", tls = false, check = {{ tls = false }} }},
  {{ address = "192.0.2.3:993", check = "tcp" }},
  {{ address = "192.0.2.4:993", check = false }},
]""".replace("\n  ", " ").replace(",\n]", "]")).backends["dovecot"]  # fmt: skip
    probes = [plan_probes(server, backend.protocol, ()) for server in backend.servers]
    assert [tuple(map(describe, plan)) for plan in probes] == [
        ("imap 993 tls none",),
        ("imap 143",),
        ("tcp 993",),
        (),
    ]


# Entry paths.


def modes_and_ports(
    config: Config, backend: str = "dovecot", ports: Mapping[int, int] | None = None
) -> list[tuple[str, int | None]]:
    return [(entry_path.mode, entry_path.port) for entry_path in paths_to(config, backend, ports)]


OTHER = 'backends.other.servers = ["192.0.2.2:143"]\n'


def routed(routes: str, binds: str) -> Config:
    return smallest_config(
        f'{CERTIFICATE}{OTHER}frontends.imap.bind = [{binds}, {{ address = "*:9", mode = "tls" }}]\n'
        f"frontends.imap.routes = [{routes}]"
    )


def test_entry_path_names_its_bind() -> None:
    config = smallest_config(
        MIXED + 'frontends.two = { backend = "dovecot", bind = ["unix:/run/i", { address = "fd:3" }] }'
    )
    assert paths_to(config) == (
        EntryPath(frontend="imap", bind=0, mode="forward", port=143),
        EntryPath(frontend="imap", bind=1, mode="passthrough", port=993),
        EntryPath(frontend="two", bind=0, mode="forward", port=None),
        EntryPath(frontend="two", bind=1, mode="forward", port=None),
    )


@pytest.mark.parametrize(
    ("routes", "binds", "to_other", "to_dovecot"),
    [
        # A route by port takes all sessions of that port.
        ('{ port = [993], backend = "other" }', '"*:143", "*:993"', [("forward", 993)], [("forward", 143), ("tls", 9)]),
        # A route by client network or server name takes only some sessions.
        ('{ client = ["10.0.0.0/8"], backend = "other" }', '"*:143"', [("forward", 143), ("tls", 9)], [("forward", 143), ("tls", 9)]),
        ('{ sni = ["a.example"], backend = "other" }', '"*:143"', [("tls", 9)], [("forward", 143), ("tls", 9)]),
        # A route without conditions takes all sessions, also if it rejects them.
        ('{ backend = "other" }', '"*:143"', [("forward", 143), ("tls", 9)], []),
        ('{ reject = true }, { backend = "other" }', '"*:143"', [], []),
        ('{ port = [143], reject = true }, { backend = "other" }', '"*:143"', [("tls", 9)], []),
        # A mode changes only binds that wait for a ClientHello.
        ('{ mode = "passthrough", backend = "other" }', '"*:143"', [("forward", 143), ("passthrough", 9)], []),
        ('{ sni = ["a"], mode = "tls", backend = "other" }', '{ address = "*:993", mode = "passthrough" }', [("tls", 993), ("tls", 9)], [("passthrough", 993), ("tls", 9)]),
        # The bind's own mode and the route's mode.
        ('{ sni = ["a"], mode = "tls", backend = "dovecot" }', '{ address = "*:993", mode = "passthrough" }', [], [("tls", 993), ("passthrough", 993), ("tls", 9)]),
        # A Unix socket has no port.
        ('{ port = [143], backend = "other" }', '"unix:/run/i"', [], [("forward", None), ("tls", 9)]),
        ('{ port = [143], backend = "other" }', '"fd:3"', [("forward", None)], [("forward", None), ("tls", 9)]),
        # A PROXY header may name any port, and a route by port takes only its ports.
        ('{ port = [143], backend = "other" }', '{ address = "*:143", accept_proxy = ["10.0.0.0/8"] }', [("forward", 143)], [("forward", 143), ("tls", 9)]),
        ('{ port = [993, 995], backend = "other" }', '{ address = "*:10993", accept_proxy = ["10.0.0.0/8"] }', [("forward", 993), ("forward", 995)], [("forward", 10993), ("tls", 9)]),
    ],
)  # fmt: skip
def test_entry_paths_with_routes(routes: str, binds: str, to_other: object, to_dovecot: object) -> None:
    config = routed(routes, binds)
    assert modes_and_ports(config, "other") == to_other
    assert modes_and_ports(config) == to_dovecot


def test_port_route_applies_to_listening_socket_port() -> None:
    config = routed('{ port = [143], backend = "other" }', '"fd:3"')
    assert modes_and_ports(config, "other", {0: 143}) == [("forward", 143)]
    assert modes_and_ports(config, "other", {0: 993}) == []
    assert modes_and_ports(config, ports={0: 143}) == [("tls", 9)]


# Scripts.


def script(
    steps: str, extra: str = "", address: str = "192.0.2.1:10143"
) -> list[tuple[str, int, list[str | None]]]:
    probes = probes_of_first_server(
        smallest_config(IMAP + FORWARD + servers_toml(address) + f"{SCRIPT}[{steps}]\n" + extra)
    )
    assert all(probe.kind == "script" for probe in probes)
    return [
        (
            describe(probe).removeprefix("script "),
            probe.first,
            [step.expect or step.send for step in probe.steps],
        )
        for probe in probes
    ]


def test_script_without_connect_makes_one_connection() -> None:
    assert script('{ expect = "* OK" }, { send = "a1 LOGOUT" }') == [("10143", 1, ["* OK", "a1 LOGOUT"])]


def test_each_connect_step_begins_a_connection() -> None:
    steps = (
        '{ connect = {} }, { expect = "a" }, { send = "b" }, { connect = { port = 993 } }, { expect = "c" }'
    )
    assert script(steps) == [("10143", 2, ["a", "b"]), ("993 tls none", 5, ["c"])]


def test_steps_before_first_connect_have_own_connection() -> None:
    assert script('{ expect = "a" }, { connect = {} }, { connect = {} }, { expect = "b" }') == [
        ("10143", 1, ["a"]),
        ("10143", 3, []),
        ("10143", 4, ["b"]),
    ]


@pytest.mark.parametrize(
    ("connect", "extra", "expected"),
    [
        ("", "", "10143"),
        ("port = 143", "check.port = 144", "143"),
        ("", "check.port = 144", "144"),
        ("", 'check.address = "192.0.2.9:144"', "192.0.2.9:144 144"),
        ("", 'check.address = "192.0.2.9"', "192.0.2.9 10143"),
        ('address = "192.0.2.8"', 'check.address = "192.0.2.9:144"', "192.0.2.8 10143"),
        ('address = "192.0.2.8:143"', "check.port = 144", "192.0.2.8:143 143"),
        ('address = "192.0.2.8:143", port = 993', "", "192.0.2.8:143 993 tls none"),
        ('address = "192.0.2.8"', "check.port = 144", "192.0.2.8 144"),
        ('address = "unix:/run/i"', "check.port = 144", "unix:/run/i"),
        ("", "tls = {}", "10143 tls required"),
        ("tls = false", "tls = {}", "10143"),
        ("tls = true", 'tls = { ca = "ca.pem" }', "10143 tls required ca.pem"),
        ("tls = true", "", "10143 tls required"),
        ('tls = { verify = "none" }', 'tls = { ca = "ca.pem" }', "10143 tls none"),
        ("", 'check.tls = { verify = "chain" }', "10143 tls chain"),
        ("tls = false", 'check.tls = { verify = "chain" }', "10143"),
        ("", "check.tls = false\nbackends.dovecot.tls = {}", "10143"),
        ("port = 993, tls = false", "", "993"),
        ("", 'send_proxy = "v2"', "10143 v2"),
        ('send_proxy = "none"', 'send_proxy = "v2"', "10143"),
        ('send_proxy = "v1"', 'check.send_proxy = "v2"', "10143 v1"),
        ("", 'send_proxy = "v2"\nbackends.dovecot.check.send_proxy = "none"', "10143"),
    ],
)
def test_connect_step_address_and_tls(connect: str, extra: str, expected: str) -> None:
    assert script(f"{{ connect = {{ {connect} }} }}", f"backends.dovecot.{extra}" if extra else "") == [
        (expected, 2, [])
    ]


def test_script_runs_once_for_all_bind_ports() -> None:
    config = smallest_config(
        f"{IMAP}{MIXED}{servers_toml('192.0.2.1')}{SCRIPT}[{{ connect = {{ port = 993 }} }}]"
    )
    assert list(map(describe, probes_of_first_server(config))) == ["script 993 tls none"]


def test_steps_keep_timeout_and_negation() -> None:
    config = smallest_config(SCRIPT + '[{ expect_regex = "^-ERR", not = true, timeout = "300ms" }]')
    ((step,),) = [probe.steps for probe in probes_of_first_server(config)]
    assert (step.expect_regex, step.not_, step.timeout) == ("^-ERR", True, 0.3)


@given(
    st.text(max_size=8)
    | st.sampled_from(["61 62", "0A0d", "6", "(a)", "[[a]", "*", "\udcff", "\0", " ", "a" * 17000])
)
@example("00" * 16384)
@example("00" * 16385)
@settings(max_examples=200, deadline=None)
def test_configuration_and_compile_step_agree(value: str) -> None:
    value_types = {
        "send": SentText, "send_hex": SentHex, "expect": ExpectedText, "expect_hex": ExpectedHex, "expect_regex": Pattern,
    }  # fmt: skip
    for key, check_type in value_types.items():
        arguments: dict[str, Any] = {key: value}
        try:
            VALUE_TYPES[check_type].structure(value)
        except InvalidValueError:
            with pytest.raises(ValueError):
                compile_step(**arguments)
        else:
            assert isinstance(compile_step(**arguments), Send) == key.startswith("send")


# TLS files of checks.


def test_tls_of_checks_has_configured_path() -> None:
    config = smallest_config(f"""{IMAP}{servers_toml("192.0.2.1:993")}
backends.dovecot.tls.ca = "sessions.pem"
backends.dovecot.check.tls.ca = "check.pem"
{SCRIPT}[{{ expect = "a" }}, {{ connect = {{ tls = true }} }}, {{ connect = {{ tls = {{ ca = "step.pem" }} }} }}, {{ connect = {{}} }}]
""")  # fmt: skip
    server = config.backends["dovecot"].servers[0]
    assert {
        str(path): tls.ca.name
        for tls, path in tls_of_checks(server, "imap", ()).items()
        if tls.ca is not None
    } == {
        "check.tls": "check.pem",
        "tls": "sessions.pem",
        "check.steps[2].connect.tls": "step.pem",
    }


def test_tls_of_checks_without_configured_tls() -> None:
    server = smallest_config(IMAP + servers_toml("192.0.2.1:993")).backends["dovecot"].servers[0]
    assert tls_of_checks(server, "imap", ()) == {ServerTls(verify="none"): ROOT_PATH / "check" / "tls"}
    assert tls_of_checks(smallest_config("").backends["dovecot"].servers[0], "tcp", ()) == {}
    unchecked = (
        smallest_config("backends.dovecot.check = false\nbackends.dovecot.tls = {}")
        .backends["dovecot"]
        .servers[0]
    )
    assert tls_of_checks(unchecked, "imap", ()) == {}


# Noise.


@settings(max_examples=100, deadline=None)
@given(mutated_mappings)
@example(tomli.loads(FULL_CONFIG))
def test_every_server_has_probes_unless_disabled(
    mapping: dict[str, Any],
) -> None:
    try:
        config = mailproxy.from_mapping(mapping)
    except ConfigError:
        return
    for name, backend in config.backends.items():
        probes = entry_paths(config.frontends.values(), name)
        for server in backend.servers:
            planned = plan_probes(server, backend.protocol, probes)
            assert bool(planned) == (server.check is not None)
            assert set(tls_of_checks(server, backend.protocol, probes)) == {
                probe.tls for probe in planned
            } - {None}
