"""Mode and owner of every file that the program creates, whatever the umask."""

from __future__ import annotations

import grp
import os
import pwd
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.program import Program

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which is then given up in a child"),
]

USER = pwd.getpwnam("nobody")
GROUP = grp.getgrgid(1)

# Mode, user and group of each file, as the configuration below says or its defaults.
WHILE_IT_RUNS = {
    "pid": (0o644, 0, 0),
    "admin.sock": (0o660, 0, 0),
    "operators.sock": (0o620, USER.pw_uid, GROUP.gr_gid),
    "bind.sock": (0o666, USER.pw_uid, USER.pw_gid),
    "private.sock": (0o600, 0, GROUP.gr_gid),
    "own/sessions.log": (0o640, USER.pw_uid, USER.pw_gid),
    "own/sessions.json": (0o640, USER.pw_uid, USER.pw_gid),
}
AT_THE_END = {
    "own/state": (0o600, USER.pw_uid, USER.pw_gid),
    "own/sessions.log": (0o640, USER.pw_uid, USER.pw_gid),
    "own/sessions.log.1": (0o640, USER.pw_uid, USER.pw_gid),
    "own/sessions.json": (0o640, USER.pw_uid, USER.pw_gid),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of root's, with one of the user's in it."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        folder.chmod(0o755)
        (folder / "own").mkdir()
        os.chown(folder / "own", USER.pw_uid, USER.pw_gid)
        yield folder


def created(folder: Path) -> dict[str, tuple[int, int, int]]:
    files = {
        path: path.lstat() for path in folder.rglob("*") if path.name not in ("mailproxy.toml", "output")
    }
    return {
        str(path.relative_to(folder)): (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid)
        for path, info in files.items()
        if not path.is_dir()
    }


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("umask", [0, 0o077])
def test_mode_and_owner_are_the_configured_ones(folder: Path, umask: int, workers: int) -> None:
    text = f"""
        [process]
        workers = {workers}
        user = "{USER.pw_name}"
        pid_file = "pid"
        state_file = "own/state"
        [admin]
        socket = "admin.sock"
        [[admin.sockets]]
        path = "operators.sock"
        mode = "0620"
        user = "{USER.pw_name}"
        group = "{GROUP.gr_name}"
        level = "operator"
        [[log.targets]]
        to = "own/sessions.log"
        [[log.targets]]
        to = "own/sessions.json"
        format = "json"
        [frontends.imap]
        backend = "dovecot"
        [[frontends.imap.bind]]
        address = "unix:{folder}/bind.sock"
        unix_mode = "0666"
        unix_user = "{USER.pw_name}"
        unix_group = "#{USER.pw_gid}"
        [[frontends.imap.bind]]
        address = "unix:{folder}/private.sock"
        unix_mode = "0600"
        unix_group = "{GROUP.gr_name}"
        [backends.dovecot]
        servers = ["127.0.0.1:1143"]
        check = "none"
    """
    log = folder / "own" / "sessions.log"
    with Program(text, folder, umask=umask) as program:
        program.wait_for("mailproxy is ready", where=log)
        assert created(folder) == WHILE_IT_RUNS
        log.rename(f"{log}.1")
        program.send(signal.SIGUSR2)
        program.send(signal.SIGTERM)
        assert program.wait() == 0, program.text
        program.wait_for("mailproxy has stopped", where=log)
    left = created(folder)
    # The user that it has become cannot remove what it created in root's folder.
    in_roots_folder = {name: WHILE_IT_RUNS[name] for name in WHILE_IT_RUNS if not name.startswith("own/")}
    assert left == AT_THE_END | in_roots_folder
