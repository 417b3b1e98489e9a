"""Follow a page block by block, in a shell with its own file system, network and processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Self

import pytest

from tests.support.pages import ROOT, Block

TIMEOUT_S = 90.0
FOLDERS = ("etc", "var", "opt", "home", "run", "root", "usr/local")

# Changes below these folders are kept in memory and discarded afterwards.
SETUP = """
set -e
mount --make-rprivate /
mkdir -p "$LAYERS"
mount -t tmpfs tmpfs "$LAYERS"
for folder in $FOLDERS; do
    mkdir -p "$LAYERS/$folder/upper" "$LAYERS/$folder/work"
    mount -t overlay overlay -o "lowerdir=/$folder,upperdir=$LAYERS/$folder/upper,workdir=$LAYERS/$folder/work" "/$folder"
done
ip link set lo up
# Debian's package ssl-cert makes these. It is not installed everywhere.
if [ ! -e /etc/dovecot/private/dovecot.pem ]; then
    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost \
        -keyout /etc/dovecot/private/dovecot.key -out /etc/dovecot/private/dovecot.pem 2>/dev/null
fi
set +e
trap 'echo "@failed: $BASH_COMMAND"' ERR
"""
# Programs that would change the machine or need the Internet. apt-get checks that the packages are there.
SUBSTITUTES = {
    "apt-get": """#!/bin/sh
        [ "$1" = install ] || exit 1
        shift
        for package; do
            if [ "$package" = python3-venv ]; then python3 -c 'import venv, ensurepip'; else dpkg -s "$package" >/dev/null; fi || exit 1
        done""",
    "systemctl": "#!/bin/sh\nexit 0",
    "python3": f'#!/bin/sh\nexec {sys.executable} "$@"',
}


class Walkthrough:
    """A shell in its own namespaces. The end of the `with` block ends all of its processes.

    Attributes:
        output: what the foreground program (`mailproxy run` or `mailproxy demo`) has written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.output = folder / "output"
        self._seen = 0  # lines of `output` before the last block of commands
        self._printed = ""  # by the last block of commands

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            pytest.skip("needs root: namespaces")
        programs = self._folder / "programs"
        programs.mkdir()
        for name, text in SUBSTITUTES.items():
            (programs / name).write_text(text + "\n")
            (programs / name).chmod(0o755)
        environment = {
            "PATH": f"{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LAYERS": str(self._folder / "layers"),
            "FOLDERS": " ".join(FOLDERS),
            # pip builds from the clone, without the package index. The dependencies are in this environment.
            "PYTHONPATH": sysconfig.get_path("purelib"),
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this as `--no-build-isolation`; "1" would turn isolation on
        }
        self._shell = subprocess.Popen(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment,
        )  # fmt: skip
        try:
            printed = self.run(SETUP)
            assert "@failed" not in printed, printed
        except BaseException:
            self._shell.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._shell.kill()
        self._shell.communicate()

    def run(self, commands: str) -> str:
        """Return the output of the commands, with a line `@failed: COMMAND` for each one that fails."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._seen = len(self.lines())
        self._shell.stdin.write(f"{{\n{commands}\n}} </dev/null\necho @end\n")
        self._shell.stdin.flush()
        printed = []
        for line in self._shell.stdout:
            if line == "@end\n":
                break
            printed.append(line)
        else:
            pytest.fail(f"the shell ended: {''.join(printed)}")
        self._printed = "".join(printed)
        return self._printed

    def lines(self) -> list[str]:
        return self.output.read_text(errors="replace").splitlines() if self.output.exists() else []

    def follow(self, block: Block) -> None:
        """Do what a reader does with the block: save it, run it, or compare it with the output."""
        if block.path:
            self.run(f"cat > {block.path} <<'@@'\n{block.text}@@")
            return
        match block.language:
            case "sh":
                self._run_block(block)
            case "text":
                for line in block.text.splitlines():
                    assert re.search(printed_pattern(line), self._printed, re.MULTILINE), (
                        str(block),
                        self._printed,
                    )
            case "log":
                for line in block.text.splitlines():
                    self.wait_for(log_pattern(line))

    def _run_block(self, block: Block) -> None:
        commands, foreground = block.text, ""
        *before, last = commands.rstrip().splitlines()
        if re.match(r"(/opt/mailproxy/bin/)?mailproxy (run|demo)\b", last):
            commands, foreground = "\n".join(before) or "true", last.partition(" #")[0]
        printed = self.run(commands)
        # A command that is followed by || may fail.
        assert "@failed" not in printed, f"{block}: {printed}"
        if foreground:
            self.run(f"{foreground} >{self.output} 2>&1 &\nFOREGROUND=$!")
            self._seen = 0

    def wait_for(self, pattern: str) -> str:
        """Return the first line of the foreground program since the last block that matches."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            for line in self.lines()[self._seen :]:
                if re.fullmatch(pattern, line):
                    return line
            time.sleep(0.05)
        pytest.fail(f"no line like {pattern} in\n" + "\n".join(self.lines()))

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End the foreground program as Ctrl-C does."""
        printed = self.run(f"kill -{number.name.removeprefix('SIG')} $FOREGROUND; wait $FOREGROUND")
        assert "@failed" not in printed, printed + "\n".join(self.lines())


def log_pattern(line: str) -> str:
    """Return a pattern for a line of the log: dates, ports of clients, times and counts may differ."""
    pattern = re.escape(line)
    pattern = re.sub(r"\\\[\d\d/.*?\\\]", lambda _: r"\[[^]]+\]", pattern, count=1)  # the date
    pattern = re.sub(r"\A([\d\\.]+):\d+", r"\1:\\d+", pattern)  # the client's port
    pattern = re.sub(
        r"(?<=\\ )(-?\d+|\\-\d+)/(-?\d+|\\-\d+)/\d+\\ \d+(?=\\ \S)", lambda match: numbers(match[0]), pattern
    )
    pattern = re.sub(r"(\d+/){4}", lambda _: r"(\d+/){4}", pattern)
    pattern = re.sub(r"duration:\\ \d+ms", lambda _: r"duration:\ \d+ms", pattern)
    # Either of two servers may come up first.
    return re.sub(r"\d+\\ active\\ and", lambda _: r"\d+\ active\ and", pattern)


def numbers(text: str) -> str:
    """Return a pattern for escaped text in which numbers may differ, but not their signs."""
    return re.sub(r"\d+", lambda _: r"\d+", text)


def printed_pattern(line: str) -> str:
    """Return a pattern for a line that a command prints: a number in a column of its own may differ."""
    words = [r"\d+" if word.isdigit() else re.escape(word) for word in line.split()]
    return r"^\s*" + r"\s+".join(words) + r"\s*$"
