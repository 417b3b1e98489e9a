"""Binds that this machine cannot have: ``check`` says what ``run`` would fail with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailproxy.app import load_and_check
from mailproxy.errors import ConfigError
from mailproxy.net.listener import open_listeners
from tests.support.startup_config import startup_config

ADDRESS = "frontends.imap.bind[0].address: cannot listen on"
INTERFACE = "frontends.imap.bind[0].interface:"


def bind_faults(bind: dict[str, Any]) -> list[str]:
    config = startup_config(frontends__imap__bind=[bind])
    try:
        load_and_check(config)
    except ConfigError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize(
    ("bind", "fact"),
    [
        ({"address": "[fe80::1%nope]:0"}, f"{ADDRESS} [fe80::1%nope]:0: there is no network interface nope"),
        (
            {"address": "[fe80::1%nope]:0", "free_bind": True},
            f"{ADDRESS} [fe80::1%nope]:0: there is no network interface nope",
        ),
        (
            {"address": "[fe80::1]:0"},
            f"{ADDRESS} [fe80::1]:0: a link-local address needs its interface, such as fe80::1%eth0",
        ),
        ({"address": "127.0.0.1:0", "interface": "nope"}, f"{INTERFACE} there is no network interface nope"),
        (
            {"address": "127.0.0.1:0", "interface": "an-interface-of-more-than-15"},
            f"{INTERFACE} there is no network interface an-interface-of-more-than-15",
        ),
    ],
)
def test_an_interface_that_is_not_there(bind: dict[str, Any], fact: str) -> None:
    assert bind_faults(bind) == [fact]
    with pytest.raises(ConfigError):
        open_listeners(startup_config(frontends__imap__bind=[bind]), {})


def test_an_interface_that_is_there() -> None:
    assert bind_faults({"address": "127.0.0.1:0", "interface": "lo"}) == []
    assert bind_faults({"address": "[fe80::1%lo]:0"}) == []
    assert bind_faults({"address": "[fe80::1]:0", "interface": "lo"}) == []


def in_no_folder(folder: Path) -> tuple[Path, str]:
    missing = folder / "missing"
    return (
        missing / "imap.sock",
        f"there is no folder {missing}: make it, below /run with RuntimeDirectory= of the service",
    )


def in_a_file(folder: Path) -> tuple[Path, str]:
    (folder / "file").touch()
    return folder / "file" / "imap.sock", f"{folder / 'file'} is no folder"


def at_a_file(folder: Path) -> tuple[Path, str]:
    (folder / "imap.sock").touch()
    return (
        folder / "imap.sock",
        f"{folder / 'imap.sock'} is there and is no socket: remove it, or give another path",
    )


@pytest.mark.parametrize("place", [in_no_folder, in_a_file, at_a_file])
def test_a_unix_socket_that_cannot_be_made(place: Callable[[Path], tuple[Path, str]], tmp_path: Path) -> None:
    file, fact = place(tmp_path)
    bind = {"address": f"unix:{file}"}
    assert bind_faults(bind) == [f"{ADDRESS} unix:{file}: {fact}"]
    with pytest.raises(ConfigError):
        open_listeners(startup_config(frontends__imap__bind=[bind]), {})


def test_a_unix_socket_that_can_be_made(tmp_path: Path) -> None:
    assert bind_faults({"address": f"unix:{tmp_path}/imap.sock"}) == []
