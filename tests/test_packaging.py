"""Packaging: the wheel and the sdist, manual pages, shell completion and systemd units."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "config"
NOT_IN_SDIST = (".ci/", ".github/", ".dockerignore")
MAILPROXY = Path(sys.executable).with_name("mailproxy")


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")


# The wheel and the sdist.


@pytest.mark.slow
def test_wheel_ships_examples_units_and_manual(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    result = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    (file,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(file) as wheel:
        names = set(wheel.namelist())
        (data,) = {name.partition("/")[0] for name in names if ".data/" in name}
        share = f"{data}/data/share"
        for page in ("man1/mailproxy.1", "man5/mailproxy.toml.5"):
            assert f"{share}/man/{page}" in names
        for path in (path for path in CONFIG.rglob("*") if path.is_file()):
            assert wheel.read(f"{share}/mailproxy/config/{path.relative_to(CONFIG)}") == path.read_bytes()
        assert "mailproxy/py.typed" in names
        pages = [path for path in (ROOT / "mailproxy/admin/http/page").iterdir() if path.is_file()]
        assert {f"mailproxy/admin/http/page/{path.name}" for path in pages} <= names
        assert not [name for name in names if name.startswith(("tests/", "scripts/"))]


@pytest.mark.slow
def test_sdist_has_every_tracked_file(tmp_path: Path) -> None:
    """Packagers of distributions have only this archive."""
    pytest.importorskip("hatchling")
    result = run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    (file,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    git_files = run("git", "ls-files", cwd=ROOT)
    tracked = (
        set(git_files.stdout.splitlines()) if git_files.returncode == 0 else {"LICENSE", "mailproxy/py.typed"}
    )
    assert {name for name in tracked - names if not name.startswith(NOT_IN_SDIST)} == set()
    assert not [name for name in names if name.startswith(NOT_IN_SDIST)]


# The manual.


@pytest.mark.parametrize("page", ["mailproxy.1", "mailproxy.toml.5"])
@needs("groff")
def test_manual_page_has_no_faults(page: str) -> None:
    result = run("groff", "-man", "-ww", "-z", "-Tutf8", "-k", ROOT / "docs" / "man" / page)
    assert (result.returncode, result.stderr) == (0, "")


def test_help_names_the_documentation() -> None:
    words = run(MAILPROXY, "--help").stdout
    assert "man mailproxy" in words
    assert "share/mailproxy/config" in " ".join(words.split())


# Shell completion.


@needs("bash")
def test_bash_completes_commands_and_options() -> None:
    def completions(*words: str) -> set[str]:
        line = " ".join(map(shlex.quote, words))
        script = (
            f"source <({shlex.quote(str(MAILPROXY))} completion bash)\n"
            f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; compopt() {{ :; }}\n"
            '_mailproxy_completion "$0"\n'
            'printf "%s\\n" "${COMPREPLY[@]}"\n'
        )
        result = run("bash", "-c", script, MAILPROXY)
        assert result.returncode == 0, result.stderr
        return set(result.stdout.split())

    assert {"check", "completion", "run"} <= completions("mailproxy", "")
    assert completions("mailproxy", "ch") == {"check"}
    assert "--strict" in completions("mailproxy", "check", "--")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_completion(shell: str) -> None:
    result = run(MAILPROXY, "completion", shell)
    assert result.returncode == 0, result.stderr
    assert "_MAILPROXY_COMPLETE" in result.stdout
    if shutil.which(shell) is not None:
        checked = run(shell, "-n", input=result.stdout)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_unknown_shell_is_rejected() -> None:
    result = run(MAILPROXY, "completion", "tcsh")
    assert result.returncode == 2
    assert "'bash', 'zsh', 'fish'" in result.stderr


# Units.


def unit(name: str) -> dict[str, str]:
    """Return the settings of a unit that occur once."""
    text = (CONFIG / "systemd" / name).read_text()
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


@needs("systemd-analyze")
@pytest.mark.parametrize("name", ["mailproxy.service", "mailproxy.socket"])
def test_systemd_verifies_the_units(tmp_path: Path, name: str) -> None:
    for file in (CONFIG / "systemd").iterdir():  # systemd-analyze checks that the program exists
        text = file.read_text().replace("/opt/mailproxy/bin/mailproxy", str(MAILPROXY))
        text = text.replace("Type=notify-reload", "Type=notify")  # for systemd before 253
        (tmp_path / file.name).write_text(text)
    result = run("systemd-analyze", "verify", "--man=no", tmp_path / name)
    assert (result.returncode, result.stderr) == (0, "")


def test_service_stop_timeout_covers_the_drain() -> None:
    import mailproxy

    config = mailproxy.from_mapping({"frontends": {"imap": {"bind": ["127.0.0.1:0"]}}})
    # Workers are killed 12 s after the drain timeout.
    assert int(unit("mailproxy.service")["TimeoutStopSec"]) >= config.process.drain_timeout + 12


def test_socket_unit_matches_the_documentation() -> None:
    """The page and the unit name the same descriptor."""
    name = unit("mailproxy.socket")["FileDescriptorName"]
    assert f'address = "fd:{name}"' in (ROOT / "docs" / "install.md").read_text()


@needs("systemd-sysusers", "systemd-tmpfiles")
@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to give folders to the new user")
def test_user_and_folders_are_created(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    group = grp.getgrnam("adm")
    (tmp_path / "etc" / "group").write_text(f"root:x:0:\nadm:x:{group.gr_gid}:\n")
    (tmp_path / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    result = run("systemd-sysusers", f"--root={tmp_path}", CONFIG / "sysusers.d" / "mailproxy.conf")
    assert result.returncode == 0, result.stderr
    users = (tmp_path / "etc" / "passwd").read_text()
    uid, gid = re.findall(r"^mailproxy:x:(\d+):(\d+):", users, re.MULTILINE)[0]
    result = run(
        "systemd-tmpfiles", "--create", f"--root={tmp_path}", CONFIG / "tmpfiles.d" / "mailproxy.conf"
    )
    assert result.returncode == 0, result.stderr
    folders = {
        "etc/mailproxy": (0, int(gid), 0o750),
        "etc/mailproxy/certs": (0, int(gid), 0o750),
        "run/mailproxy": (int(uid), int(gid), 0o755),
        "var/lib/mailproxy": (int(uid), int(gid), 0o750),
        "var/log/mailproxy": (int(uid), group.gr_gid, 0o2750),
    }
    for folder, (owner, group_id, mode) in folders.items():
        status = (tmp_path / folder).stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (owner, group_id, mode), folder
    # The unit may write exactly to the folders that belong to the user.
    writable = unit("mailproxy.service")["ReadWritePaths"].replace("-/", "").split()
    assert set(writable) == {folder for folder, (owner, _, _) in folders.items() if owner == int(uid)}


@needs("logrotate")
@pytest.mark.skipif(os.getuid() != 0, reason="needs root, as logrotate does")
def test_logrotate_accepts_its_file(tmp_path: Path) -> None:
    text = (CONFIG / "logrotate.d" / "mailproxy").read_text()
    owner = pwd.getpwuid(0).pw_name
    file = tmp_path / "mailproxy"
    file.write_text(
        text.replace("mailproxy adm", f"{owner} adm").replace("/var/log/mailproxy", str(tmp_path))
    )
    (tmp_path / "sessions.log").write_text("a line\n")
    result = run("logrotate", "--force", "--debug", "--state", tmp_path / "state", file)
    assert result.returncode == 0, result.stderr
    assert "error" not in result.stderr


def test_container_runs_an_existing_program() -> None:
    text = (ROOT / "Containerfile").read_text()
    (program,) = re.findall(r'^ENTRYPOINT \["(.*)"\]$', text, re.MULTILINE)
    assert Path(program).name == MAILPROXY.name
    (command,) = re.findall(r"^CMD \[(.*)\]$", text, re.MULTILINE)
    assert command.split(", ")[0] == '"run"'
