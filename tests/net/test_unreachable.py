"""Unreachable servers: each errno of connect(2), and whether it is the server's fault or the proxy's."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from mailproxy.errors import ProxyError, ServerRefusedError
from mailproxy.net.dial import Endpoint, connect
from tests.support.namespace import run_in_namespace

PROXY_FAULTS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
NO_FAILURES = {errno.EINPROGRESS, errno.EALREADY, errno.EISCONN, errno.EAGAIN}


@pytest.mark.parametrize("code", sorted(set(errno.errorcode) - NO_FAILURES), ids=errno.errorcode.get)
async def test_only_missing_resources_are_proxy_errors(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def address(_endpoint: Endpoint, _port: int | None) -> object:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Endpoint, "address", address)
    expected = ProxyError if code in PROXY_FAULTS else ServerRefusedError
    with pytest.raises(expected, match=r"127\.0\.0\.1:143: ") as caught:
        await connect([Endpoint(socket.AF_INET, "127.0.0.1", 143)], None)
    assert str(caught.value) == f"127.0.0.1:143: {os.strerror(code)}"


CONNECT = """
import socket, sys, trio
from mailproxy.errors import MailproxyError
from mailproxy.net.dial import Endpoint, connect

async def main():
    sockets = []
    if "ports" in sys.argv:
        listener = socket.create_server(("127.0.0.1", 143), backlog=100)
    try:
        for _ in range(20):
            host = sys.argv[1]
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock, _ = await connect([Endpoint(family, host, 143)], None)
            sockets.append(sock)
    except MailproxyError as error:
        print(type(error).__name__, getattr(error, "is_local", None), error)
    print(len(sockets))

trio.run(main)
"""


@pytest.mark.parametrize(
    ("setup", "arguments", "reason", "connected"),
    [
        ("true", ["192.0.2.1"], "192.0.2.1:143: Network is unreachable", 0),
        ("ip route add unreachable 192.0.2.1", ["192.0.2.1"], "192.0.2.1:143: No route to host", 0),
        ("ip route add prohibit 192.0.2.1", ["192.0.2.1"], "192.0.2.1:143: Permission denied", 0),
        ("ip route add blackhole 192.0.2.1", ["192.0.2.1"], "192.0.2.1:143: Invalid argument", 0),
        (
            "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6",
            ["::1"],
            "[::1]:143: Cannot assign requested address",
            0,
        ),
        (
            "echo 40000 40011 > /proc/sys/net/ipv4/ip_local_port_range",
            ["127.0.0.1", "ports"],
            "127.0.0.1:143: Cannot assign requested address",
            12,
        ),
    ],
    ids=["no-network", "unreachable", "prohibited", "black-hole", "no-ipv6", "no-port"],
)
async def test_immediate_kernel_errors_are_server_errors(
    setup: str, arguments: list[str], reason: str, connected: int
) -> None:
    lines = await run_in_namespace(setup, CONNECT, *arguments)
    assert lines == [f"ServerRefusedError True {reason}", str(connected)]


WITHOUT_IPV6 = """
import errno, socket, trio
from mailproxy.errors import ServerRefusedError
from mailproxy.net import dial

class Socket(socket.socket):
    def __init__(self, family=-1, *args, **kwargs):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        super().__init__(family, *args, **kwargs)

socket.socket = Socket

async def main():
    try:
        await dial.connect([dial.Endpoint(socket.AF_INET6, "::1", 143)], None)
    except ServerRefusedError as error:
        print(error)

trio.run(main)
"""


async def test_kernel_without_ipv6() -> None:
    lines = await run_in_namespace("", WITHOUT_IPV6)
    assert lines == ["[::1]:143: Address family not supported by protocol"]
