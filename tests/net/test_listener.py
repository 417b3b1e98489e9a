"""Listening sockets: what a bind asks for is what the kernel says; all of them or none."""

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
from mailproxy.net.listener import Listener, close_all, open_for_workers, open_listeners
from tests.support.network import link_local, needs_ipv6

ROOT = os.geteuid() == 0


def config(*binds: Mapping[str, Any]) -> mailproxy.Config:
    return mailproxy.from_mapping({"frontends": {"imap": {"bind": list(binds)}}})


@contextmanager
def listening(*binds: Mapping[str, Any]) -> Iterator[list[Listener]]:
    listeners = open_listeners(config(*binds), {})
    try:
        yield listeners
    finally:
        close_all(listeners)


def fault_of(*binds: Mapping[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        close_all(open_listeners(config(*binds), {}))
    return str(caught.value).splitlines()


@contextmanager
def accepted(listener: Listener, client: socket.socket) -> Iterator[socket.socket]:
    """Connect a client, and give what was accepted of it."""
    client.settimeout(5)
    client.connect(listener.socket.getsockname())
    sock, _ = listener.socket.accept()
    with client, sock:
        yield sock


def descriptors() -> set[str]:
    return {file.name for file in Path("/proc/self/fd").iterdir()}


# Addresses.


def test_ipv4() -> None:
    with listening({"address": "127.0.0.1:0"}) as (listener,):
        host, port = listener.socket.getsockname()
        assert host == "127.0.0.1"
        assert listener.port == port > 0
        assert listener.address == f"127.0.0.1:{port}"
        with accepted(listener, socket.socket()) as sock:
            assert sock.getsockname() == (host, port)


def test_every_ipv4_address() -> None:
    with listening({"address": "*:0"}) as (listener,):
        assert listener.socket.family == socket.AF_INET
        assert listener.address == f"0.0.0.0:{listener.port}"
        with socket.create_connection(("127.0.0.1", listener.port or 0), 5):
            listener.socket.accept()[0].close()


@needs_ipv6
def test_both_families_at_one_address() -> None:
    with listening({"address": "[::]:0"}) as (listener,):
        assert listener.address == f"[::]:{listener.port}"
        for host, seen in (("127.0.0.1", "::ffff:127.0.0.1"), ("::1", "::1")):
            with socket.create_connection((host, listener.port or 0), 5):
                sock, peer = listener.socket.accept()
                sock.close()
                assert peer[0] == seen


@needs_ipv6
def test_v6only_leaves_ipv4_to_others() -> None:
    with listening({"address": "[::]:0", "v6only": True}) as (listener,):
        with socket.create_connection(("::1", listener.port or 0), 5):
            listener.socket.accept()[0].close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", listener.port or 0), 5)
        with listening({"address": f"*:{listener.port}"}):
            pass


def test_a_link_local_address_with_its_interface() -> None:
    if (host := link_local()) is None:
        pytest.skip("no interface has a link-local address")
    with listening({"address": f"[{host}]:0"}) as (listener,):
        assert listener.socket.getsockname()[3] == socket.if_nametoindex(host.rpartition("%")[2])


def test_port_0_is_another_each_time() -> None:
    with listening({"address": "127.0.0.1:0", "name": "a"}, {"address": "127.0.0.1:0", "name": "b"}) as (
        a,
        b,
    ):
        assert a.port != b.port
        assert (a.name, a.number, b.name, b.number) == ("a", 1, "b", 2)


def test_listeners_are_nonblocking_and_not_inherited_by_other_programs() -> None:
    with listening({"address": "127.0.0.1:0"}) as (listener,):
        assert not listener.socket.getblocking()
        assert not listener.socket.get_inheritable()
        with pytest.raises(BlockingIOError):
            listener.socket.accept()


def test_a_port_whose_connections_linger_can_be_had_again() -> None:
    with listening({"address": "127.0.0.1:0"}) as (listener,):
        port = listener.port
        with socket.create_connection(("127.0.0.1", port or 0), 5) as client:
            sock, _ = listener.socket.accept()
            sock.close()  # this side closes first, so its port is in TIME_WAIT
            assert client.recv(1) == b""
    with listening({"address": f"127.0.0.1:{port}"}) as (again,):
        assert again.port == port


# Options.


def test_options_reach_accepted_sockets() -> None:
    bind = {"address": "127.0.0.1:0", "tcp_user_timeout": "31.5s", "keepalive": True}
    with listening(bind) as (listener,), accepted(listener, socket.socket()) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 31_500
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_options_that_are_not_asked_for_are_the_kernels() -> None:
    with (
        listening({"address": "127.0.0.1:0"}) as (listener,),
        accepted(listener, socket.socket()) as sock,
    ):
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


@pytest.mark.parametrize(("written", "milliseconds"), [("100us", 1), ("1ms", 1), ("20d", 20 * 86_400_000)])
def test_tcp_user_timeouts_from_the_shortest(written: str, milliseconds: int) -> None:
    with listening({"address": "127.0.0.1:0", "tcp_user_timeout": written}) as (listener,):
        assert listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == milliseconds


def test_a_tcp_user_timeout_longer_than_the_kernel_counts_is_its_longest() -> None:
    with listening({"address": "127.0.0.1:0", "tcp_user_timeout": "365d"}) as (listener,):
        assert listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 2**31 - 1


@pytest.mark.parametrize("backlog", [1, 7])
def test_the_backlog_is_what_the_kernel_keeps_waiting(backlog: int) -> None:
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
        assert waiting == backlog + 1  # listen(2): one more than asked for


def test_the_largest_backlog_is_taken() -> None:
    with listening({"address": "127.0.0.1:0", "backlog": 2**31 - 1}):
        pass


@needs_ipv6
def test_free_bind_takes_an_address_that_is_not_here_yet() -> None:
    absent = ("192.0.2.7:0", "[2001:db8::7]:0")
    for address in absent:
        assert "Cannot assign requested address" in fault_of({"address": address})[0]
    with listening(*({"address": address, "free_bind": True} for address in absent)) as listeners:
        assert [listener.address.rpartition(":")[0] for listener in listeners] == [
            "192.0.2.7",
            "[2001:db8::7]",
        ]


def test_fast_open_is_on() -> None:
    with listening({"address": "127.0.0.1:0", "fast_open": True}) as (listener,):
        assert listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN) > 0


@pytest.mark.skipif(not ROOT, reason="needs root: SO_BINDTODEVICE")
def test_an_interface_is_bound_to() -> None:
    with listening({"address": "*:0", "interface": "lo"}) as (listener,):
        device = listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
        assert device.rstrip(b"\0") == b"lo"
        with socket.create_connection(("127.0.0.1", listener.port or 0), 5):
            listener.socket.accept()[0].close()


# Unix sockets.


def test_a_unix_socket_is_there_while_it_listens(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    with listening({"address": f"unix:{path}"}) as (listener,):
        assert (listener.address, listener.port) == (f"unix:{path}", None)
        with accepted(listener, socket.socket(socket.AF_UNIX)):
            pass
    assert not path.exists()


@pytest.mark.parametrize("mode", ["0600", "660", "0777", "000"])
def test_permission_bits_of_a_unix_socket(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "imap.sock"
    with listening({"address": f"unix:{path}", "unix_mode": mode}):
        assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)


@pytest.mark.skipif(not ROOT, reason="needs root: chown")
def test_owner_of_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    group = grp.getgrgid(1).gr_name
    with listening({"address": f"unix:{path}", "unix_user": "nobody", "unix_group": group}):
        status = path.stat()
        assert (status.st_uid, status.st_gid) == (pwd.getpwnam("nobody").pw_uid, 1)
    with listening({"address": f"unix:{path}", "unix_user": "nobody"}):
        assert path.stat().st_gid == os.getegid()


def test_a_socket_that_a_dead_proxy_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
        left.listen()
    assert path.is_socket()
    with (
        listening({"address": f"unix:{path}"}) as (listener,),
        accepted(listener, socket.socket(socket.AF_UNIX)),
    ):
        pass


def test_a_living_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as client:
        living.bind(str(path))
        living.listen(0)
        assert fault_of({"address": f"unix:{path}"}) == [
            f"frontends.imap.bind[0]: cannot listen on unix:{path}: Address already in use"
        ]
        client.setblocking(False)
        client.connect_ex(str(path))  # now its queue may be full, which is a sign of life, too
        assert "Address already in use" in fault_of({"address": f"unix:{path}"})[0]
        assert path.is_socket()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    path.write_text("precious")
    assert fault_of({"address": f"unix:{path}"}) == [
        f"frontends.imap.bind[0]: cannot listen on unix:{path}: Address already in use"
    ]
    assert path.read_text() == "precious"


def test_a_unix_socket_needs_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "imap.sock"
    assert fault_of({"address": f"unix:{path}"}) == [
        f"frontends.imap.bind[0]: cannot listen on unix:{path}: No such file or directory"
    ]


def test_a_unix_socket_that_somebody_removed_can_be_closed(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    with listening({"address": f"unix:{path}"}):
        path.unlink()


# Inherited descriptors.


def test_an_inherited_socket_is_taken_over_and_stays_its_givers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        with listening({"address": f"fd:{given.fileno()}"}) as (listener,):
            assert listener.port == given.getsockname()[1]
            assert listener.address == f"127.0.0.1:{listener.port}"
            assert listener.name == f"fd:{given.fileno()}"
            with accepted(listener, socket.socket()) as sock:
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


def test_an_inherited_unix_socket_keeps_its_path(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(str(path))
        given.listen()
        with listening({"address": f"fd:{given.fileno()}"}) as (listener,):
            assert listener.address == f"unix:{path}"
        assert path.is_socket()


def test_what_cannot_be_taken_over_is_said_and_leaves_nothing_open(tmp_path: Path) -> None:
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
            assert fault_of({"address": f"fd:{fd}"}) == [
                f"frontends.imap.bind[0]: cannot listen on fd:{fd}: {reason}"
            ]
        assert descriptors() == before


# All or none.


def test_an_occupied_port_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert fault_of({"address": f"127.0.0.1:{port}"}) == [
            f"frontends.imap.bind[0]: cannot listen on 127.0.0.1:{port}: Address already in use"
        ]


def test_all_faults_come_at_once_and_nothing_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "imap.sock"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        before = descriptors()
        faults = fault_of(
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
def test_an_owner_that_is_nobody_leaves_nothing_behind(tmp_path: Path, key: str) -> None:
    path = tmp_path / "imap.sock"
    (fault,) = fault_of({"address": f"unix:{path}", key: "nobody-here"})
    assert fault.startswith(f"frontends.imap.bind[0]: cannot listen on unix:{path}: ")
    assert "nobody-here" in fault
    assert not path.exists()


@pytest.mark.skipif(not ROOT, reason="needs root, which is then given up in a child")
def test_an_owner_that_cannot_be_given_leaves_nothing_behind() -> None:
    program = """
import os, sys
from mailproxy import from_mapping
from mailproxy.errors import ConfigError
from mailproxy.net.listener import open_listeners
os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
try:
    open_listeners(from_mapping({"frontends": {"imap": {"bind": [{"address": "unix:" + sys.argv[1], "unix_user": "root"}]}}}), {})
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


def test_frontends_have_their_own_listeners_in_order() -> None:
    read = mailproxy.from_mapping(
        {
            "frontends": {
                "imap": {
                    "bind": [{"address": "127.0.0.1:0", "name": "a"}, {"address": "127.0.0.1:0", "name": "b"}]
                },
                "pop": {"bind": [{"address": "127.0.0.1:0"}]},
            }
        }
    )
    listeners = open_listeners(read, {})
    try:
        assert [(listener.frontend, listener.number, listener.name) for listener in listeners] == [
            ("imap", 1, "a"),
            ("imap", 2, "b"),
            ("pop", 1, listeners[2].address),
        ]
    finally:
        close_all(listeners)


# One socket for each of several workers.


def test_each_worker_has_a_socket_at_the_same_address() -> None:
    before = descriptors()
    slots = open_for_workers(config({"address": "127.0.0.1:0"}), {}, 3)
    addresses = {listener.address for (listener,) in slots}
    assert len(addresses) == 1
    assert len({listener.socket.fileno() for (listener,) in slots}) == 3
    for slot in slots:
        close_all(slot)
    assert descriptors() == before


def test_a_unix_socket_is_one_for_all_and_only_its_owner_removes_the_path(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    (first,), (second,) = open_for_workers(config({"address": f"unix:{path}"}), {}, 2)
    assert first is second
    copy = first.for_worker()
    copy.close()
    assert path.exists()


def test_who_shares_the_port_with_everybody_is_noticed_too() -> None:
    before = descriptors()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConfigError, match="Address already in use"):
            open_for_workers(config({"address": "127.0.0.1:0"}, {"address": address}), {}, 2)
    assert descriptors() == before
