"""Shell completion, as a user of a real bash, zsh or fish gets it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mailproxy.admin.runtime.commands import COMMANDS
from mailproxy.cli import main
from tests.support.shells import Complete, Terminal, complete_in_fish

pytestmark = pytest.mark.slow

DOCS = Path(__file__).resolve().parent.parent / "docs" / "completion"
MAILPROXY = Path(sys.executable).with_name("mailproxy")
SHELLS = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed"))
    for name in ("bash", "zsh", "fish")
]  # fmt: skip
BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")


def print_script(shell: str) -> str:
    result = subprocess.run([MAILPROXY, "completion", shell], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files to complete."""
    folder = tmp_path / "folder"
    (folder / "sub folder").mkdir(parents=True)
    (folder / "mailproxy.toml").touch()
    return folder


@pytest.fixture(params=SHELLS)
def complete(request: pytest.FixtureRequest, tmp_path: Path, folder: Path) -> Iterator[Complete]:
    script = tmp_path / "script"
    script.write_text(print_script(request.param))
    if request.param == "fish":
        yield complete_in_fish(f"source {script}", folder)
        return
    terminal = Terminal(request.param, [f"source {script}"], folder)
    yield terminal.complete
    terminal.close()


def test_commands_are_completed(complete: Complete) -> None:
    assert complete("mailproxy ") == set(main.commands)
    assert complete("mailproxy c") == {name for name in main.commands if name.startswith("c")}
    assert complete("mailproxy nothing-like-this") == set()


def test_options_of_each_command_are_completed(complete: Complete) -> None:
    assert complete("mailproxy --") == {"--help", "--version"}
    for name, command in main.commands.items():
        options = {
            option for each in command.params if isinstance(each, click.Option)
            for option in each.opts if option.startswith("--")
        }  # fmt: skip
        # A single completion is followed by a space and nothing else: there is always --help.
        assert complete(f"mailproxy {name} --") == options | {"--help"}, name


def test_values_are_completed(complete: Complete) -> None:
    assert complete("mailproxy check --format ") == {"json", "text"}
    assert complete("mailproxy completion ") == {"bash", "fish", "zsh"}


@pytest.mark.parametrize("line", ["check ", "run ", "check --strict ", "ctl --config ", "ctl -c "])
def test_files_are_completed(complete: Complete, line: str) -> None:
    assert complete(f"mailproxy {line}mail") == {"mailproxy.toml"}


def test_nothing_is_completed_where_any_word_may_be(complete: Complete) -> None:
    assert complete("mailproxy demo --port-base ") == set()


def test_runtime_commands_are_completed_word_by_word(complete: Complete) -> None:
    """Also behind options, and if a word of them is the name of a command of the program."""
    words = [each.words for each in COMMANDS]
    assert complete("mailproxy ctl ") == {each[0] for each in words}
    assert complete("mailproxy ctl -s /run/admin.sock show ") == {
        each[1] for each in words if each[0] == "show"
    }
    assert complete("mailproxy ctl show servers ") == {"conn", "state"}
    assert complete("mailproxy ctl help check ") == set()
    assert complete("mailproxy ctl show stat ") == set()


@pytest.mark.parametrize("shell", SHELLS[:2])
def test_tab_completes_a_unique_word(shell: str, folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(print_script(shell))
    terminal = Terminal(shell, [f"source {script}"], folder)
    assert terminal.press_tab("mailproxy chec") == ["check"]
    assert terminal.press_tab("mailproxy check --str") == ["check", "--strict"]
    assert terminal.press_tab("mailproxy check sub")[-1].rstrip("/") == "sub folder"
    assert terminal.press_tab("mailproxy check --format=js") == ["check", "--format=json"]
    assert terminal.press_tab("mailproxy ctl show serv") == ["ctl", "show", "servers"]
    terminal.close()


# The files of the wheel, as each shell loads them.


@pytest.mark.skipif(not BASH_COMPLETION.exists(), reason="bash-completion is not installed")
def test_bash_loads_the_installed_file(folder: Path, tmp_path: Path) -> None:
    installed = tmp_path / "share" / "bash-completion" / "completions"
    installed.mkdir(parents=True)
    shutil.copy(DOCS / "mailproxy.bash", installed / "mailproxy")
    setup = [f"export XDG_DATA_DIRS={tmp_path / 'share'}", f"source {BASH_COMPLETION}"]
    terminal = Terminal("bash", setup, folder)
    assert terminal.press_tab("mailproxy chec") == ["check"]
    terminal.close()


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_loads_the_installed_file(folder: Path) -> None:
    terminal = Terminal("zsh", [f"fpath=({DOCS} $fpath); compinit -u -D"], folder)
    assert terminal.press_tab("mailproxy chec") == ["check"]
    assert terminal.press_tab("mailproxy chec") == ["check"]
    terminal.close()


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_loads_the_installed_file(folder: Path) -> None:
    complete = complete_in_fish(f"set fish_complete_path {DOCS}", folder)
    assert complete("mailproxy chec") == {"check"}


def test_unknown_shell_is_rejected() -> None:
    result = subprocess.run([MAILPROXY, "completion", "tcsh"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "'bash', 'zsh', 'fish'" in result.stderr
