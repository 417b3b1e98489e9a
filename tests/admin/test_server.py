"""The sockets: conversations, prompts, timeouts, and clients that mean no good."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
import trio

import mailproxy
from tests.admin.conftest import Administered, open_administered
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness


async def connect(administered: Administered) -> trio.SocketStream:
    return trio.SocketStream(await _connect(administered.path))


async def _connect(path: Path) -> trio.socket.SocketType:
    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.connect(str(path))
    return sock


async def test_connection_closes_behind_the_answers_to_all_lines(administered: Administered) -> None:
    answer = (await administered.talk(b"show cli level\nshow backend\n")).decode()
    assert answer == "admin\n\n# name\nb\n\n"


async def test_command_without_line_end_is_not_answered(administered: Administered) -> None:
    stream = await connect(administered)
    await stream.send_all(b"show version")
    await stream.send_eof()
    assert await stream.receive_some() == b""
    await stream.aclose()


async def test_prompt_keeps_the_connection_open(administered: Administered) -> None:
    answer = (await administered.talk(b"prompt\nshow cli level\nset weight b/s1 2\nquit\n")).decode()
    assert answer == "\n> admin\n\n> \n> "


async def test_silent_client_is_disconnected(administered: Administered) -> None:
    stream = await connect(administered)
    await stream.send_all(b"prompt;set timeout cli 50ms\n")
    with trio.fail_after(TIMEOUT_S):
        while await stream.receive_some():
            pass
    await stream.aclose()


@pytest.mark.parametrize(
    "noise",
    [
        b"\x00\xff\xfe\n",
        b"\n\n\n",
        b";;;;\n",
        b"show stat " + b"a " * 500 + b"\n",
        "sët sérver\n".encode(),
        b"<<\n",
    ],
    ids=["binary", "empty lines", "semicolons", "many words", "umlauts", "payload"],
)
async def test_garbage_is_answered_or_refused(administered: Administered, noise: bytes) -> None:
    await administered.talk(noise)
    assert await administered.ask("show cli level") == "admin"


async def test_endless_line_ends_the_connection(administered: Administered) -> None:
    stream = await connect(administered)
    with trio.fail_after(TIMEOUT_S), pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"a" * 100_000_000)
    await stream.aclose()
    assert await administered.ask("show cli level") == "admin"


async def test_hundred_clients_are_served_at_once(administered: Administered) -> None:
    streams = [await connect(administered) for _ in range(100)]
    for stream in streams:
        await stream.send_all(b"show cli level\n")
    with trio.fail_after(TIMEOUT_S):
        for stream in streams:
            assert await stream.receive_some(100) == b"admin\n\n"
            await stream.aclose()


async def test_clients_of_one_socket_keep_none_out_of_the_others(
    harness: ProxyHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.admin.runtime.server._CLIENTS_MAX", 2)
    crowded = tmp_path / "crowded.sock"
    sockets = [{"path": str(crowded), "level": "user"}]
    administered = await open_administered(harness, tmp_path, admin={"sockets": sockets})
    streams = [trio.SocketStream(await _connect(crowded)) for _ in range(3)]
    for stream in streams:
        await stream.send_all(b"prompt\n")
    for stream in streams[:2]:
        with trio.fail_after(TIMEOUT_S):
            assert await stream.receive_some() == b"\n> "
    with trio.move_on_after(0.05) as scope:
        await streams[2].receive_some()
    assert scope.cancelled_caught
    assert await administered.ask("show cli level") == "admin"
    for stream in streams:
        await stream.aclose()


async def test_client_that_never_reads_delays_no_other(administered: Administered) -> None:
    stream = await connect(administered)
    with trio.move_on_after(1.0):
        while True:
            await stream.send_all(b"show stat typed\n" * 200)
    assert await administered.ask("show cli level") == "admin"
    await stream.aclose()


async def test_socket_has_its_mode_and_is_removed_at_the_end(harness: ProxyHarness, tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    sockets = [{"path": str(path), "mode": "0600"}, {"address": "127.0.0.1:0", "level": "user"}]
    await open_administered(harness, tmp_path, admin={"sockets": sockets})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await harness.proxies[0].drain(0)
    with trio.fail_after(TIMEOUT_S):
        while path.exists():  # noqa: ASYNC110 - a file, not an event
            await trio.sleep(0.005)


async def test_stale_socket_is_replaced_and_a_live_one_is_not(harness: ProxyHarness, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
        stale.listen()
    assert path.exists()
    administered = await open_administered(harness, tmp_path)
    with pytest.raises(
        mailproxy.ConfigError, match=r"admin.socket: cannot listen on .*: Address already in use"
    ):
        await open_administered(harness, tmp_path)
    assert await administered.ask("show cli level") == "admin"


async def test_file_that_is_no_socket_is_not_replaced(harness: ProxyHarness, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("mine")
    with pytest.raises(mailproxy.ConfigError, match="is there and is no socket"):
        await open_administered(harness, tmp_path)
    assert path.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
async def test_socket_belongs_to_its_user_and_group(harness: ProxyHarness, tmp_path: Path) -> None:
    path = tmp_path / "owned.sock"
    await open_administered(
        harness, tmp_path, admin={"sockets": [{"path": str(path), "user": "#1234", "group": "#1235"}]}
    )
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1235)


async def test_faults_of_the_machine_are_found_before_anything_opens(
    harness: ProxyHarness, tmp_path: Path
) -> None:
    sockets = [
        {"path": str(tmp_path / "none" / "a.sock"), "user": "nobody-like-that", "group": "no-such-group"}
    ]
    with pytest.raises(mailproxy.ConfigError) as raised:
        await open_administered(harness, tmp_path, admin={"sockets": sockets})
    paths = [fault.path for fault in raised.value.faults]
    assert paths == ["admin.sockets[0].user", "admin.sockets[0].group", "admin.sockets[0]"]
