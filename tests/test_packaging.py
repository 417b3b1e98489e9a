"""Packaging: the wheel and the sdist, manual pages and systemd units."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "config"
NOT_IN_SDIST = (".ci/", ".github/", ".dockerignore")
SHARED = {
    "man/man1/mailproxy.1": "man/mailproxy.1",
    "man/man5/mailproxy.toml.5": "man/mailproxy.toml.5",
    "bash-completion/completions/mailproxy": "completion/mailproxy.bash",
    "zsh/site-functions/_mailproxy": "completion/_mailproxy",
    "fish/vendor_completions.d/mailproxy.fish": "completion/mailproxy.fish",
}
"""What the wheel installs below share, and its source below docs."""
MAILPROXY = Path(sys.executable).with_name("mailproxy")


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")


# The wheel and the sdist.


def build(kind: str, folder: Path, source: Path = ROOT) -> Path:
    """Build a wheel or an sdist, and return its file."""
    pytest.importorskip("hatchling")
    result = run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder, cwd=source)
    assert result.returncode == 0, result.stderr
    (file,) = folder.iterdir()
    return file


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_wheel_ships_examples_units_manual_and_completion(wheel: Path) -> None:
    files = contents(wheel)
    (data,) = {name.partition("/")[0] for name in files if ".data/" in name}
    share = f"{data}/data/share"
    for name, source in SHARED.items():
        assert files[f"{share}/{name}"] == (ROOT / "docs" / source).read_bytes()
    for path in (path for path in CONFIG.rglob("*") if path.is_file()):
        assert files[f"{share}/mailproxy/config/{path.relative_to(CONFIG)}"] == path.read_bytes()
    assert "mailproxy/py.typed" in files
    pages = [path for path in (ROOT / "mailproxy/admin/http/page").iterdir() if path.is_file()]
    assert {f"mailproxy/admin/http/page/{path.name}" for path in pages} <= set(files)
    assert not [name for name in files if name.startswith(("tests/", "scripts/"))]


@pytest.mark.slow
def test_sdist_has_every_tracked_file_and_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """Packagers of distributions have only this archive."""
    (tmp_path / "sdist").mkdir()
    with tarfile.open(build("sdist", tmp_path / "sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(tmp_path / "unpacked", filter="data")
    git_files = run("git", "ls-files", cwd=ROOT)
    tracked = (
        set(git_files.stdout.splitlines()) if git_files.returncode == 0 else {"LICENSE", "mailproxy/py.typed"}
    )
    assert {name for name in tracked - names if not name.startswith(NOT_IN_SDIST)} == set()
    assert not [name for name in names if name.startswith(NOT_IN_SDIST)]
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    (tmp_path / "wheel").mkdir()
    assert contents(build("wheel", tmp_path / "wheel", unpacked)) == contents(wheel)


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


@needs("systemd-analyze")
def test_systemd_rates_the_service_as_safe() -> None:
    """The rating is for services: systemd-analyze refuses a unit of another type once it is installed."""
    result = run(
        "systemd-analyze",
        "security",
        "--offline=true",
        "--no-pager",
        CONFIG / "systemd" / "mailproxy.service",
    )
    (exposure,) = re.findall(r"Overall exposure level for mailproxy.service: ([\d.]+)", result.stdout)
    assert float(exposure) < 3.0


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
    service = unit("mailproxy.service")
    # The unit makes its folders as tmpfiles.d does.
    assert (service["RuntimeDirectory"], service["StateDirectory"]) == ("mailproxy", "mailproxy")
    assert int(service["StateDirectoryMode"], 8) == folders["var/lib/mailproxy"][2]
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


# The container. No engine is needed: its commands run here, in other folders.


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)


@pytest.mark.slow
def test_container_is_built_from_a_wheel(wheel: Path, tmp_path: Path) -> None:
    """Its files are those that the wheel installs, and its program starts."""
    assert instructions("COPY")[0] == "dist/mailproxy-*.whl /wheel/"
    assert (ROOT / ".dockerignore").read_text().splitlines() == ["*", "!dist/*.whl"]
    assert wheel.match("mailproxy-*.whl")
    prefix = tmp_path / "mailproxy"
    command = instructions("RUN")[0]
    for before, after in {
        "/opt/mailproxy": str(prefix),
        "/wheel/": f"{wheel.parent}/",
        "python -m venv": f"{sys.executable} -m venv",
        "pip install": "pip install --no-index --no-deps",  # the others are in this environment
    }.items():
        assert before in command
        command = command.replace(before, after)
    result = run("sh", "-euc", command)
    assert result.returncode == 0, result.stderr
    installed = {str(path.relative_to(prefix / "share")) for path in (prefix / "share").rglob("*")}
    assert installed >= {*SHARED, "mailproxy/config/systemd/mailproxy.service"}
    (program,) = re.findall(r'^\["(.*)"\]$', instructions("ENTRYPOINT")[0])
    program = program.replace("/opt/mailproxy", str(prefix))
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    for arguments in (["--version"], ["demo", "--help"], ["completion", "bash"]):
        result = run(program, *arguments, env=environment, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
    (command,) = re.findall(r"^\[(.*)\]$", instructions("CMD")[0])
    assert command.split(", ")[0] == '"run"'


@needs("useradd")
@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to add a user")
def test_container_makes_its_user(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group", "shadow", "gshadow"):
        (tmp_path / "etc" / name).touch()
    command = shlex.split(instructions("RUN")[1])
    result = run(command[0], "--prefix", tmp_path, *command[1:])
    assert result.returncode == 0, result.stderr
    (user,) = (tmp_path / "etc" / "passwd").read_text().splitlines()
    assert user.startswith(f"{instructions('USER')[0]}:x:967:")
