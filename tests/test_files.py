"""Files made by a privileged process: the owner of the folder cannot make it change other files."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import mailproxy
from mailproxy.errors import ConfigError
from mailproxy.files import FileId, create, remove
from mailproxy.log import open_target
from mailproxy.net.listener import close_all
from tests.support.listening import open_listeners

ROOT = os.geteuid() == 0
UNPRIVILEGED_ID = 65534
needs_root = pytest.mark.skipif(not ROOT, reason="needs root, whose rights an attacker would misuse")


@contextmanager
def umask(bits: int) -> Iterator[None]:
    before = os.umask(bits)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that belongs to the user of the sessions, as for sockets and logs."""
    with tempfile.TemporaryDirectory() as path:
        os.chown(path, UNPRIVILEGED_ID if ROOT else -1, -1)
        yield Path(path)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "shadow"
    file.write_text("secret")
    file.chmod(0o600)
    return file


def bind_config(path: Path, **bind: Any) -> mailproxy.Config:
    bind = {"address": f"unix:{path}", **bind}
    return mailproxy.from_mapping({"frontends": {"imap": {"bind": [bind]}}})


def owner_and_mode(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def swap_before_call(monkeypatch: pytest.MonkeyPatch, function: str, swap: Callable[[], None]) -> None:
    """Run ``swap`` just before the next call of ``os.FUNCTION``, as the owner of the folder could."""
    call = getattr(os, function)

    def swap_first(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(os, function, call)
        swap()
        return call(*args, **kwargs)

    monkeypatch.setattr(os, function, swap_first)


def replace_with_link(path: Path, secret: Path) -> None:
    path.unlink()
    path.symlink_to(secret)


def replace_with_hard_link(path: Path, secret: Path) -> None:
    path.unlink()
    os.link(secret, path)


def replace_with_foreign_socket(path: Path, _: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
    os.chown(path, UNPRIVILEGED_ID, UNPRIVILEGED_ID)


@needs_root
@pytest.mark.parametrize("call", ["open", "chown", "chmod"])
@pytest.mark.parametrize("replace", [replace_with_link, replace_with_hard_link])
def test_file_replacing_new_socket_is_unchanged(
    folder: Path,
    secret: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    replace: Callable[[Path, Path], None],
) -> None:
    path, before = folder / "imap.sock", owner_and_mode(secret)
    config = bind_config(path, unix_mode="0666", unix_user="nobody")
    swap_before_call(monkeypatch, call, lambda: replace(path, secret))
    try:
        close_all(open_listeners(config))
    except ConfigError as error:
        assert "was replaced by another program" in str(error)  # noqa: PT017 - it may also listen
    assert owner_and_mode(secret) == before
    assert secret.read_text() == "secret"
    assert path.exists()  # a foreign file is not removed


@needs_root
def test_foreign_socket_replacing_new_socket_is_refused(
    folder: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "imap.sock"
    swap_before_call(monkeypatch, "open", lambda: replace_with_foreign_socket(path, secret))
    with pytest.raises(ConfigError, match="was replaced by another program while it was made"):
        open_listeners(bind_config(path, unix_mode="0666"))
    assert path.stat().st_uid == UNPRIVILEGED_ID


@pytest.mark.parametrize("bits", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("mode", ["0600", "0660", "0777", "0000"])
def test_socket_mode_is_independent_of_umask(folder: Path, bits: int, mode: str) -> None:
    path = folder / "imap.sock"
    with umask(bits):
        listeners = open_listeners(bind_config(path, unix_mode=mode))
    assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
    close_all(listeners)
    assert not path.exists()


def test_replaced_socket_is_not_removed(folder: Path) -> None:
    """This happens when the next proxy starts while this one drains."""
    path = folder / "imap.sock"
    first = open_listeners(bind_config(path))
    path.unlink()
    second = open_listeners(bind_config(path))
    close_all(first)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    close_all(second)
    assert not path.exists()


def test_file_replacing_socket_is_not_removed(folder: Path) -> None:
    path = folder / "imap.sock"
    listeners = open_listeners(bind_config(path))
    path.unlink()
    path.write_text("precious")
    close_all(listeners)
    assert path.read_text() == "precious"


def test_socket_failing_to_listen_is_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("socket.socket.listen", fail)
    with pytest.raises(ConfigError, match="Cannot allocate memory"):
        open_listeners(bind_config(folder / "imap.sock"))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("bits", [0o000, 0o022, 0o077])
def test_log_mode_is_independent_of_umask(folder: Path, bits: int) -> None:
    path = folder / "mail.log"
    with umask(bits):
        open_target(str(path), None).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@needs_root
def test_log_mode_with_owner_is_independent_of_umask(folder: Path) -> None:
    path = folder / "mail.log"
    with umask(0o077):
        open_target(str(path), None, (UNPRIVILEGED_ID, UNPRIVILEGED_ID)).close()
    assert owner_and_mode(path) == (UNPRIVILEGED_ID, UNPRIVILEGED_ID, 0o640)


@needs_root
def test_log_with_owner_follows_no_link(folder: Path, secret: Path) -> None:
    path, before = folder / "mail.log", owner_and_mode(secret)
    path.symlink_to(secret)
    with pytest.raises(OSError, match="symbolic link"):
        open_target(str(path), None, (UNPRIVILEGED_ID, UNPRIVILEGED_ID))
    path.unlink()
    path.symlink_to(secret.with_name("missing"))
    with pytest.raises(OSError, match="symbolic link"):
        open_target(str(path), None, (UNPRIVILEGED_ID, UNPRIVILEGED_ID))
    assert owner_and_mode(secret) == before
    assert not secret.with_name("missing").exists()


def test_log_without_owner_follows_links(folder: Path, tmp_path: Path) -> None:
    (folder / "mail.log").symlink_to(tmp_path / "elsewhere.log")
    open_target(str(folder / "mail.log"), None).close()
    assert (tmp_path / "elsewhere.log").exists()


def test_create_fails_if_the_path_exists(folder: Path) -> None:
    (folder / "pid").symlink_to(folder / "nowhere")
    with pytest.raises(FileExistsError):
        create(folder / "pid", os.O_WRONLY, 0o644)


def test_remove_deletes_only_the_created_file(folder: Path) -> None:
    path = folder / "pid"
    os.close(create(path, os.O_WRONLY, 0o644))
    created = FileId.of(path)
    path.rename(folder / "moved")
    remove(path, created)  # the file is gone
    path.write_text("another")
    remove(path, created)
    assert path.exists()
    remove(folder / "moved", created)
    assert not (folder / "moved").exists()
