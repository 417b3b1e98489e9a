"""The keys of ``[admin]`` and ``[[admin.sockets]]``, and what must not be."""

from __future__ import annotations

import pytest

import mailproxy
from tests.support.smallest_config import faults_of, smallest_toml

NO_LOOPBACK = (
    "admin.sockets[0].address: *:9999 is no loopback address: everybody who can connect may use the socket, "
    "so only 127.0.0.1 or ::1"
)


def test_short_form_is_one_socket_with_level_admin() -> None:
    mapping = {
        "admin": {
            "socket": "/run/a.sock",
            "mode": "0600",
            "sockets": [{"address": "[::1]:9999", "level": "user"}],
        },
        "frontends": {"f": {"backend": "b", "bind": ["*:143"], "protocol": "imap"}},
        "backends": {"b": {"servers": ["192.0.2.1:143"]}},
    }
    sockets = mailproxy.from_mapping(mapping).admin.listening
    assert list(map(str, sockets)) == ["admin.socket", "admin.sockets[0]"]
    assert [(str(each.path or each.address), each.mode, each.level) for each in sockets.values()] == [
        ("/run/a.sock", 0o600, "admin"),
        ("[::1]:9999", 0o660, "user"),
    ]


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (
            'admin = { socket = "a", mode = "0666" }',
            'admin.mode: "0666" lets every user of this machine control the proxy: "0660" or "0600"',
        ),
        ("admin.sockets = [{ }]", "admin.sockets[0]: has neither path nor address"),
        (
            'admin.sockets = [{ path = "/a", address = "127.0.0.1:9" }]',
            "admin.sockets[0]: has both path and address: one socket has one of them",
        ),
        (
            'admin.sockets = [{ address = "*:9999" }]',
            NO_LOOPBACK,
        ),
        (
            'admin.sockets = [{ address = "127.0.0.1:9", mode = "0600" }]',
            "admin.sockets[0].mode: has no meaning for a TCP address",
        ),
        (
            'admin.sockets = [{ path = "/a" }, { path = "/a" }]',
            "admin.sockets[1]: /a is the address of admin.sockets[0] already",
        ),
        (
            'admin = { socket = "/a", sockets = [{ path = "/a" }] }',
            "admin.sockets[0]: /a is the address of admin.socket already",
        ),
    ],
)
def test_fault(lines: str, fault: str) -> None:
    assert faults_of(smallest_toml(lines)) == [fault]


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1", "localhost"])
def test_only_loopback_addresses_are_allowed(host: str) -> None:
    (fault,) = faults_of(smallest_toml(f'admin.sockets = [{{ address = "{host}:9999" }}]'))
    assert fault.startswith("admin.sockets[0].address: ")
