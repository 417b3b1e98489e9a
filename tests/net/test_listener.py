"""Listening sockets: the kernel reports what the bind configures, and either all binds are opened or none."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import mailproxy
from mailproxy.errors import ConfigError
from mailproxy.net.listener import Listener, close_all
from tests.support.listening import open_for_workers, open_listeners
from tests.support.network import link_local, needs_ipv6

ROOT = os.geteuid() == 0


def config(*binds: Mapping[str, Any]) -> mailproxy.Config:
    return mailproxy.from_mapping({"frontends": {"imap": {"bind": list(binds)}}})


@contextmanager
def listening(*binds: Mapping[str, Any]) -> Iterator[list[Listener]]:
    listeners = open_listeners(config(*binds))
    try:
        yield listeners
    finally:
        close_all(listeners)


def open_faults(*binds: Mapping[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        close_all(open_listeners(config(*binds)))
    return str(caught.value).splitlines()


@contextmanager
def accepted(listener: Listener, client: socket.socket) -> Iterator[socket.socket]:
    """Connect a client, and yield the accepted socket."""
    client.settimeout(5)
    client.connect(listener.socket.getsockname())
    sock, _ = listener.socket.accept()
    with client, sock:
        yield sock


def descriptors() -> set[str]:
    return {file.name for file in Path("/proc/self/fd").iterdir()}


# Addresses.


def test_ipv4_address() -> None:
    with listening({"address": "127.0.0.1:0"}) as (listener,):
        host, port = listener.socket.getsockname()
        assert host == "127.0.0.1"
        assert listener.port == port > 0
        assert listener.address == f"127.0.0.1:{port}"
        with accepted(listener, socket.socket()) as sock:
            assert sock.getsockname() == (host, port)


def test_wildcard_ipv4_address() -> None:
    with listening({"address": "*:0"}) as (listener,):
        assert listener.socket.family == socket.AF_INET
        assert listener.address == f"0.0.0.0:{listener.port}"
        with socket.create_connection(("127.0.0.1", listener.port or 0), 5):
            listener.socket.accept()[0].close()


@needs_ipv6
def test_ipv6_wildcard_accepts_both_families() -> None:
    with listening({"address": "[::]:0"}) as (listener,):
        assert listener.address == f"[::]:{listener.port}"
        for host, expected in (("127.0.0.1", "::ffff:127.0.0.1"), ("::1", "::1")):
            with socket.create_connection((host, listener.port or 0), 5):
                sock, peer = listener.socket.accept()
                sock.close()
                assert peer[0] == expected


@needs_ipv6
def test_v6only_leaves_ipv4_port_free() -> None:
    for _ in range(20):
        with listening({"address": "[::]:0", "v6only": True}) as (listener,):
            with socket.create_connection(("::1", listener.port or 0), 5):
                listener.socket.accept()[0].close()
            # The kernel has chosen a port that is free on IPv6. On IPv4 another program may have it.
            with contextlib.suppress(ConfigError), listening({"address": f"*:{listener.port}"}):
                return
    pytest.fail("twenty ports are taken on IPv4, most likely by the listener itself")


def test_link_local_address_with_interface() -> None:
    if (host := link_local()) is None:
        pytest.skip("no interface has a link-local address")
    with listening({"address": f"[{host}]:0"}) as (listener,):
        assert listener.socket.getsockname()[3] == socket.if_nametoindex(host.rpartition("%")[2])


def test_port_0_gets_different_ports() -> None:
    with listening({"address": "127.0.0.1:0", "name": "a"}, {"address": "127.0.0.1:0", "name": "b"}) as (
        a,
        b,
    ):
        assert a.port != b.port
        assert (a.name, a.number, b.name, b.number) == ("a", 1, "b", 2)


def test_listeners_are_nonblocking_and_not_inheritable() -> None:
    with listening({"address": "127.0.0.1:0"}) as (listener,):
        assert not listener.socket.getblocking()
        assert not listener.socket.get_inheritable()
        with pytest.raises(BlockingIOError):
            listener.socket.accept()


def test_port_in_time_wait_can_be_reopened() -> None:
    with listening({"address": "127.0.0.1:0"}) as (listener,):
        port = listener.port
        with socket.create_connection(("127.0.0.1", port or 0), 5) as client:
            sock, _ = listener.socket.accept()
            sock.close()  # this side closes first, so its port is in TIME_WAIT
            assert client.recv(1) == b""
    with listening({"address": f"127.0.0.1:{port}"}) as (reopened,):
        assert reopened.port == port


# Options.


def test_options_reach_accepted_sockets() -> None:
    bind = {"address": "127.0.0.1:0", "tcp_user_timeout": "31.5s", "keepalive": True}
    with listening(bind) as (listener,), accepted(listener, socket.socket()) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 31_500
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_unset_options_keep_kernel_defaults() -> None:
    with (
        listening({"address": "127.0.0.1:0"}) as (listener,),
        accepted(listener, socket.socket()) as sock,
    ):
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


@pytest.mark.parametrize(("written", "milliseconds"), [("100us", 1), ("1ms", 1), ("20d", 20 * 86_400_000)])
def test_tcp_user_timeout_in_milliseconds(written: str, milliseconds: int) -> None:
    with listening({"address": "127.0.0.1:0", "tcp_user_timeout": written}) as (listener,):
        assert listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == milliseconds


def test_tcp_user_timeout_is_capped_at_kernel_maximum() -> None:
    with listening({"address": "127.0.0.1:0", "tcp_user_timeout": "365d"}) as (listener,):
        assert listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 2**31 - 1


@pytest.mark.parametrize("backlog", [1, 7])
def test_backlog_limits_waiting_connections(backlog: int) -> None:
    with (
        listening({"address": "127.0.0.1:0", "backlog": backlog}) as (listener,),
        contextlib.ExitStack() as stack,
    ):
        waiting = 0
        for _ in range(backlog + 3):
            client = stack.enter_context(socket.socket())
            client.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                client.connect(listener.socket.getsockname())
                waiting += 1
        # listen(2): Linux queues one connection more than the backlog.
        assert waiting == backlog + 1


def test_largest_backlog_is_accepted() -> None:
    with listening({"address": "127.0.0.1:0", "backlog": 2**31 - 1}):
        pass


@needs_ipv6
def test_free_bind_allows_a_missing_address() -> None:
    absent = ("192.0.2.7:0", "[2001:db8::7]:0")
    for address in absent:
        assert "Cannot assign requested address" in open_faults({"address": address})[0]
    with listening(*({"address": address, "free_bind": True} for address in absent)) as listeners:
        assert [listener.address.rpartition(":")[0] for listener in listeners] == [
            "192.0.2.7",
            "[2001:db8::7]",
        ]


def test_fast_open_is_enabled() -> None:
    with listening({"address": "127.0.0.1:0", "fast_open": True}) as (listener,):
        assert listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN) > 0


@pytest.mark.skipif(not ROOT, reason="needs root: SO_BINDTODEVICE")
def test_interface_is_set() -> None:
    with listening({"address": "*:0", "interface": "lo"}) as (listener,):
        device = listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
        assert device.rstrip(b"\0") == b"lo"
        with socket.create_connection(("127.0.0.1", listener.port or 0), 5):
            listener.socket.accept()[0].close()


# Unix sockets.


def test_unix_socket_path_is_removed_on_close(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    with listening({"address": f"unix:{path}"}) as (listener,):
        assert (listener.address, listener.port) == (f"unix:{path}", None)
        with accepted(listener, socket.socket(socket.AF_UNIX)):
            pass
    assert not path.exists()


@pytest.mark.parametrize("mode", ["0600", "660", "0777", "000"])
def test_unix_socket_permission_bits(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "imap.sock"
    with listening({"address": f"unix:{path}", "unix_mode": mode}):
        assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)


@pytest.mark.skipif(not ROOT, reason="needs root: chown")
def test_unix_socket_owner(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    group = grp.getgrgid(1).gr_name
    with listening({"address": f"unix:{path}", "unix_user": "nobody", "unix_group": group}):
        status = path.stat()
        assert (status.st_uid, status.st_gid) == (pwd.getpwnam("nobody").pw_uid, 1)
    with listening({"address": f"unix:{path}", "unix_user": "nobody"}):
        assert path.stat().st_gid == os.getegid()


def test_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
        stale.listen()
    assert path.is_socket()
    with (
        listening({"address": f"unix:{path}"}) as (listener,),
        accepted(listener, socket.socket(socket.AF_UNIX)),
    ):
        pass


def test_unix_socket_in_use_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    with socket.socket(socket.AF_UNIX) as live, socket.socket(socket.AF_UNIX) as client:
        live.bind(str(path))
        live.listen(0)
        assert open_faults({"address": f"unix:{path}"}) == [
            f"frontends.imap.bind[0]: cannot listen on unix:{path}: Address already in use"
        ]
        client.setblocking(False)
        # Now its queue may be full, which also shows that the socket is in use.
        client.connect_ex(str(path))
        assert "Address already in use" in open_faults({"address": f"unix:{path}"})[0]
        assert path.is_socket()


def test_regular_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    path.write_text("precious")
    assert open_faults({"address": f"unix:{path}"}) == [
        f"frontends.imap.bind[0]: cannot listen on unix:{path}: Address already in use"
    ]
    assert path.read_text() == "precious"


def test_unix_socket_needs_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "imap.sock"
    assert open_faults({"address": f"unix:{path}"}) == [
        f"frontends.imap.bind[0]: cannot listen on unix:{path}: No such file or directory"
    ]


def test_removed_unix_socket_can_be_closed(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    with listening({"address": f"unix:{path}"}):
        path.unlink()


# Inherited descriptors.


def test_inherited_socket_listens_after_close() -> None:
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        with listening({"address": f"fd:{inherited.fileno()}"}) as (listener,):
            assert listener.port == inherited.getsockname()[1]
            assert listener.address == f"127.0.0.1:{listener.port}"
            assert listener.name == f"fd:{inherited.fileno()}"
            with accepted(listener, socket.socket()) as sock:
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


def test_inherited_unix_socket_keeps_its_path(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    with socket.socket(socket.AF_UNIX) as inherited:
        inherited.bind(str(path))
        inherited.listen()
        with listening({"address": f"fd:{inherited.fileno()}"}) as (listener,):
            assert listener.address == f"unix:{path}"
        assert path.is_socket()


def test_unusable_inherited_descriptors_are_reported(tmp_path: Path) -> None:
    with (
        (tmp_path / "file").open("w") as file,
        socket.socket() as idle,
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
    ):
        before = descriptors()
        cases = {
            9999: "descriptor 9999 is no socket: Bad file descriptor",
            file.fileno(): f"descriptor {file.fileno()} is no socket: Socket operation on non-socket",
            idle.fileno(): f"descriptor {idle.fileno()} is no listening stream socket",
            datagrams.fileno(): f"descriptor {datagrams.fileno()} is no listening stream socket",
        }
        for fd, reason in cases.items():
            assert open_faults({"address": f"fd:{fd}"}) == [
                f"frontends.imap.bind[0]: cannot listen on fd:{fd}: {reason}"
            ]
        assert descriptors() == before


# All or none.


def test_occupied_port_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert open_faults({"address": f"127.0.0.1:{port}"}) == [
            f"frontends.imap.bind[0]: cannot listen on 127.0.0.1:{port}: Address already in use"
        ]


def test_all_faults_are_reported_and_nothing_opened(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        before = descriptors()
        faults = open_faults(
            {"address": "127.0.0.1:0", "name": "fine"},
            {"address": f"127.0.0.1:{port}"},
            {"address": f"unix:{path}"},
            {"address": "127.0.0.1:0", "name": "interface", "interface": "nowhere0"},
            {"address": "192.0.2.7:143"},
        )
        assert descriptors() == before
    assert [fault.partition(":")[0] for fault in faults] == [
        "frontends.imap.bind[1]",
        "frontends.imap.bind[3] (interface)",
        "frontends.imap.bind[4]",
    ]
    assert not path.exists()


@pytest.mark.parametrize("key", ["unix_user", "unix_group"])
def test_unknown_owner_leaves_no_socket(tmp_path: Path, key: str) -> None:
    path = tmp_path / "imap.sock"
    (fault,) = open_faults({"address": f"unix:{path}", key: "nobody-here"})
    assert fault.startswith(f"frontends.imap.bind[0]: cannot listen on unix:{path}: ")
    assert "nobody-here" in fault
    assert not path.exists()


@pytest.mark.skipif(not ROOT, reason="needs root, which is then given up in a child")
def test_forbidden_owner_leaves_no_socket() -> None:
    program = """
import os, sys
from mailproxy import from_mapping
from mailproxy.errors import ConfigError
from mailproxy.net.passing.adopt import open_slots
from mailproxy.net.passing.sockets import PassedSockets
os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
try:
    open_slots(from_mapping({"frontends": {"imap": {"bind": [{"address": "unix:" + sys.argv[1], "unix_user": "root"}]}}}), {}, 1, PassedSockets([]))
except ConfigError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)
        path = Path(folder) / "imap.sock"
        result = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
        assert (
            result.stdout
            == f"frontends.imap.bind[0]: cannot listen on unix:{path}: Operation not permitted\n"
        ), result
        assert not path.exists()


def test_listeners_are_ordered_by_frontend() -> None:
    parsed = mailproxy.from_mapping(
        {
            "frontends": {
                "imap": {
                    "bind": [{"address": "127.0.0.1:0", "name": "a"}, {"address": "127.0.0.1:0", "name": "b"}]
                },
                "pop": {"bind": [{"address": "127.0.0.1:0"}]},
            }
        }
    )
    listeners = open_listeners(parsed)
    try:
        assert [(listener.frontend, listener.number, listener.name) for listener in listeners] == [
            ("imap", 1, "a"),
            ("imap", 2, "b"),
            ("pop", 1, listeners[2].address),
        ]
    finally:
        close_all(listeners)


# One socket for each worker.


def test_workers_listen_at_the_same_address() -> None:
    before = descriptors()
    slots = open_for_workers(config({"address": "127.0.0.1:0"}), 3)
    addresses = {listener.address for (listener,) in slots}
    assert len(addresses) == 1
    assert len({listener.socket.fileno() for (listener,) in slots}) == 3
    for slot in slots:
        close_all(slot)
    assert descriptors() == before


def test_worker_close_keeps_shared_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    (first,), (second,) = open_for_workers(config({"address": f"unix:{path}"}), 2)
    assert first is second
    copy = first.for_worker()
    copy.close()
    assert path.exists()


def test_port_with_foreign_reuseport_is_reported() -> None:
    before = descriptors()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConfigError, match="Address already in use"):
            open_for_workers(config({"address": "127.0.0.1:0"}, {"address": address}), 2)
    assert descriptors() == before
