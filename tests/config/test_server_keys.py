"""Keys of connections to servers: allowed values, inheritance, and combinations that are faults."""

from __future__ import annotations

from typing import Any

import pytest

from mailproxy.config import Config, from_mapping
from mailproxy.config.check_plan import plan_probes
from mailproxy.config.model import KeepAlive
from mailproxy.config.values import KeepAliveCount, KeepAliveTime
from mailproxy.errors import ConfigError


def config(backend: dict[str, Any], bind: object = "127.0.0.1:143", **extra: Any) -> Config:
    binds = bind if isinstance(bind, list) else [bind]
    return from_mapping({
        "frontends": {"f": {"bind": binds, "backend": "b"}},
        "backends": {"b": {"servers": ["10.0.0.1:143"], **backend}},
        **extra,
    })  # fmt: skip


def faults(backend: dict[str, Any], **extra: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config(backend, **extra)
    return [str(fault) for fault in caught.value.faults]


def test_servers_inherit_backend_keys() -> None:
    servers = [
        {"address": "10.0.0.1:143"},
        {"address": "10.0.0.2:143", "source": "client", "keepalive": False},
        {"address": "10.0.0.3:143", "keepalive": {"count": 5}, "state": "drain"},
    ]
    parsed = config({"source": "10.0.0.9", "keepalive": {"idle": "1m", "interval": 5}, "servers": servers})
    first, second, third = parsed.backends["b"].servers
    assert (first.source, first.keepalive, first.state) == (
        "10.0.0.9",
        KeepAlive(idle=KeepAliveTime(60), interval=KeepAliveTime(5)),
        "ready",
    )
    assert (second.source, second.keepalive) == ("client", False)
    assert (third.keepalive, third.state) == (
        KeepAlive(idle=KeepAliveTime(60), interval=KeepAliveTime(5), count=KeepAliveCount(5)),
        "drain",
    )


def test_bind_keepalive_forms() -> None:
    binds = [{"address": f"127.0.0.1:{port}"} for port in (1, 2)]
    parsed = config({}, [{**binds[0], "keepalive": True}, {**binds[1], "keepalive": {"idle": "2m"}}])
    first, second = parsed.frontends["f"].bind
    assert (first.keepalive, second.keepalive) == (True, KeepAlive(idle=KeepAliveTime(120)))


def test_binds_may_share_a_name() -> None:
    binds = [{"address": f"127.0.0.1:{port}", "name": "imap"} for port in (143, 144)]
    assert [bind.name for bind in config({}, binds).frontends["f"].bind] == ["imap", "imap"]


@pytest.mark.parametrize(
    ("backend", "fault"),
    [
        ({"source": "10.0.0.9:5000"}, 'backends.b.source: "10.0.0.9:5000" is not allowed: an IP address without a port'),
        ({"source": "proxy.internal"}, 'backends.b.source: "proxy.internal" is not allowed: an IP address without a port'),
        ({"source": "0.0.0.0"}, 'backends.b.source: "0.0.0.0" is not allowed: an IP address without a port'),
        ({"source": "2001:db8::9"}, "backends.b.source: 2001:db8::9 cannot reach 10.0.0.1:143: one is IPv4, the other IPv6"),
        (
            {"servers": [{"address": "unix:/run/x", "source": "10.0.0.9"}]},
            'backends.b.servers[0].source: has no meaning for "unix:/run/x"',
        ),
        (
            {"servers": [{"address": "unix:/run/x", "keepalive": True}]},
            'backends.b.servers[0].keepalive: has no meaning for "unix:/run/x"',
        ),
        ({"keepalive": {"idle": "10h"}}, 'backends.b.keepalive.idle: "10h" is not allowed: a duration from "1s"'),
        ({"keepalive": {"count": 128}}, "backends.b.keepalive.count: 128 is not allowed: a whole number from 1 to 127"),
        ({"keepalive": {"probes": 3}}, "backends.b.keepalive.probes: unknown key"),
        ({"keepalive": "yes"}, 'backends.b.keepalive: "yes" is not allowed: true or false'),
        ({"resolve_prefer": "ip4"}, 'backends.b.resolve_prefer: "ip4" is not allowed: one of ipv4, ipv6'),
        (
            {"servers": [{"address": "10.0.0.1:143", "state": "down"}]},
            'backends.b.servers[0].state: "down" is not allowed: one of ready, drain, maint',
        ),
        (
            {"check": {"type": "smtp", "hello": "two words"}},
            'backends.b.check.hello: "two words" is not allowed: a host name',
        ),
        (
            {"check": {"type": "imap", "hello": "proxy"}},
            "backends.b.check.hello: has no meaning with a check of type imap",
        ),
    ],
)  # fmt: skip
def test_invalid_server_key_is_a_fault(backend: dict[str, Any], fault: str) -> None:
    (message,) = faults(backend)
    assert message.startswith(fault)


def test_inherited_source_is_allowed_for_unix_sockets() -> None:
    parsed = config({"source": "10.0.0.9", "keepalive": True, "servers": ["unix:/run/x"]}).backends["b"]
    assert parsed.servers[0].source == "10.0.0.9"


def test_default_check_hello_applies_to_every_protocol() -> None:
    defaults = {"defaults": {"server": {"check": {"hello": "proxy.example.com"}}}}
    for kind, hello in (("imap", "proxy.example.com"), ("smtp", "proxy.example.com")):
        backend = config({"protocol": kind, "check": {"type": kind}}, **defaults).backends["b"]
        (probe,) = plan_probes(backend.servers[0], backend.protocol, ())
        assert probe.hello == hello
