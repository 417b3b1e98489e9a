"""Impossible binds: ``check`` reports the error that ``run`` would fail with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailproxy.app import load_and_check
from mailproxy.errors import ConfigError
from tests.support.listening import open_listeners
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
    ("bind", "message"),
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
def test_missing_interface_is_reported(bind: dict[str, Any], message: str) -> None:
    assert bind_faults(bind) == [message]
    with pytest.raises(ConfigError):
        open_listeners(startup_config(frontends__imap__bind=[bind]))


def test_existing_interface_is_accepted() -> None:
    assert bind_faults({"address": "127.0.0.1:0", "interface": "lo"}) == []
    assert bind_faults({"address": "[fe80::1%lo]:0"}) == []
    assert bind_faults({"address": "[fe80::1]:0", "interface": "lo"}) == []


def socket_in_missing_folder(folder: Path) -> tuple[Path, str]:
    missing = folder / "missing"
    return (
        missing / "imap.sock",
        f"there is no folder {missing}: make it, below /run with RuntimeDirectory= of the service",
    )


def socket_below_a_file(folder: Path) -> tuple[Path, str]:
    (folder / "file").touch()
    return folder / "file" / "imap.sock", f"{folder / 'file'} is no folder"


def socket_path_is_a_file(folder: Path) -> tuple[Path, str]:
    (folder / "imap.sock").touch()
    return (
        folder / "imap.sock",
        f"{folder / 'imap.sock'} is there and is no socket: remove it, or give another path",
    )


@pytest.mark.parametrize("make_path", [socket_in_missing_folder, socket_below_a_file, socket_path_is_a_file])
def test_impossible_unix_socket_is_reported(
    make_path: Callable[[Path], tuple[Path, str]], tmp_path: Path
) -> None:
    file, message = make_path(tmp_path)
    bind = {"address": f"unix:{file}"}
    assert bind_faults(bind) == [f"{ADDRESS} unix:{file}: {message}"]
    with pytest.raises(ConfigError):
        open_listeners(startup_config(frontends__imap__bind=[bind]))


def test_unix_socket_in_existing_folder_is_accepted(tmp_path: Path) -> None:
    assert bind_faults({"address": f"unix:{tmp_path}/imap.sock"}) == []
