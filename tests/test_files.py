"""Files that a privileged process makes: whoever owns the folder cannot have it change a file elsewhere."""

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
from mailproxy.net.listener import close_all, open_listeners

ROOT = os.geteuid() == 0
NOBODY = 65534
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: what is tried is misusing its rights")


@contextmanager
def umask(bits: int) -> Iterator[None]:
    before = os.umask(bits)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the user of sessions owns, as for sockets and logs."""
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, NOBODY if ROOT else -1, -1)
        yield Path(name)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "shadow"
    file.write_text("secret")
    file.chmod(0o600)
    return file


def listening(path: Path, **bind: Any) -> mailproxy.Config:
    bind = {"address": f"unix:{path}", **bind}
    return mailproxy.from_mapping({"frontends": {"imap": {"bind": [bind]}}})


def owner_and_mode(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def swapping(monkeypatch: pytest.MonkeyPatch, name: str, swap: Callable[[], None]) -> None:
    """Just before the next call of ``os.NAME``, the folder's owner does something."""
    call = getattr(os, name)

    def swap_first(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(os, name, call)
        swap()
        return call(*args, **kwargs)

    monkeypatch.setattr(os, name, swap_first)


def put_link(path: Path, secret: Path) -> None:
    path.unlink()
    path.symlink_to(secret)


def put_hard_link(path: Path, secret: Path) -> None:
    path.unlink()
    os.link(secret, path)


def put_socket_of_another(path: Path, _: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
    os.chown(path, NOBODY, NOBODY)


@needs_root
@pytest.mark.parametrize("call", ["open", "chown", "chmod"])
@pytest.mark.parametrize("put", [put_link, put_hard_link])
def test_a_file_in_the_place_of_a_new_socket_stays_as_it_is(
    folder: Path, secret: Path, monkeypatch: pytest.MonkeyPatch, call: str, put: Callable[[Path, Path], None]
) -> None:
    path, before = folder / "imap.sock", owner_and_mode(secret)
    config = listening(path, unix_mode="0666", unix_user="nobody")
    swapping(monkeypatch, call, lambda: put(path, secret))
    try:
        close_all(open_listeners(config, {}))
    except ConfigError as error:
        assert "was replaced by another program" in str(error)  # noqa: PT017 - it may also listen
    assert owner_and_mode(secret) == before
    assert secret.read_text() == "secret"
    assert path.exists()  # what is not ours is not removed either


@needs_root
def test_a_socket_of_another_user_in_its_place_is_refused(
    folder: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "imap.sock"
    swapping(monkeypatch, "open", lambda: put_socket_of_another(path, secret))
    with pytest.raises(ConfigError, match="was replaced by another program while it was made"):
        open_listeners(listening(path, unix_mode="0666"), {})
    assert path.stat().st_uid == NOBODY


@pytest.mark.parametrize("bits", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("mode", ["0600", "0660", "0777", "0000"])
def test_a_socket_has_the_mode_that_is_asked_for_whatever_the_umask(
    folder: Path, bits: int, mode: str
) -> None:
    path = folder / "imap.sock"
    with umask(bits):
        listeners = open_listeners(listening(path, unix_mode=mode), {})
    assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
    close_all(listeners)
    assert not path.exists()


def test_a_socket_that_another_program_has_put_there_outlives_this_one(folder: Path) -> None:
    """As after a start of the next proxy while this one drains."""
    path = folder / "imap.sock"
    first = open_listeners(listening(path), {})
    path.unlink()
    second = open_listeners(listening(path), {})
    close_all(first)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    close_all(second)
    assert not path.exists()


def test_a_file_in_the_place_of_a_socket_outlives_it(folder: Path) -> None:
    path = folder / "imap.sock"
    listeners = open_listeners(listening(path), {})
    path.unlink()
    path.write_text("precious")
    close_all(listeners)
    assert path.read_text() == "precious"


def test_a_socket_that_cannot_listen_is_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("socket.socket.listen", fail)
    with pytest.raises(ConfigError, match="Cannot allocate memory"):
        open_listeners(listening(folder / "imap.sock"), {})
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("bits", [0o000, 0o022, 0o077])
def test_a_log_has_its_mode_whatever_the_umask(folder: Path, bits: int) -> None:
    path = folder / "mail.log"
    with umask(bits):
        open_target(str(path), None).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@needs_root
def test_a_log_of_another_owner_has_its_mode_whatever_the_umask(folder: Path) -> None:
    path = folder / "mail.log"
    with umask(0o077):
        open_target(str(path), None, (NOBODY, NOBODY)).close()
    assert owner_and_mode(path) == (NOBODY, NOBODY, 0o640)


@needs_root
def test_a_log_is_not_opened_through_a_link_of_its_owners(folder: Path, secret: Path) -> None:
    path, before = folder / "mail.log", owner_and_mode(secret)
    path.symlink_to(secret)
    with pytest.raises(OSError, match="symbolic link"):
        open_target(str(path), None, (NOBODY, NOBODY))
    path.unlink()
    path.symlink_to(secret.with_name("missing"))
    with pytest.raises(OSError, match="symbolic link"):
        open_target(str(path), None, (NOBODY, NOBODY))
    assert owner_and_mode(secret) == before
    assert not secret.with_name("missing").exists()


def test_a_link_of_the_administrators_is_followed_by_the_log(folder: Path, tmp_path: Path) -> None:
    (folder / "mail.log").symlink_to(tmp_path / "elsewhere.log")
    open_target(str(folder / "mail.log"), None).close()
    assert (tmp_path / "elsewhere.log").exists()


def test_a_new_file_takes_no_place_that_is_taken(folder: Path) -> None:
    (folder / "pid").symlink_to(folder / "nowhere")
    with pytest.raises(FileExistsError):
        create(folder / "pid", os.O_WRONLY, 0o644)


def test_only_what_was_made_is_removed(folder: Path) -> None:
    path = folder / "pid"
    os.close(create(path, os.O_WRONLY, 0o644))
    made = FileId.of(path)
    path.rename(folder / "moved")
    remove(path, made)  # it is gone
    path.write_text("another")
    remove(path, made)
    assert path.exists()
    remove(folder / "moved", made)
    assert not (folder / "moved").exists()
