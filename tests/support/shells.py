"""Shells that complete what a user types, in a terminal of their own."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

TIMEOUT_S = 30.0
_PROMPT = "ready> "

# Each shell gets a key that inserts all completions of a word, where a user would see a list of them.
_ALL = {"bash": b"\x1b*", "zsh": b"\x18a"}
_START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
_SETUP = {
    "bash": "bind 'set bell-style none'; bind 'set enable-bracketed-paste off'",
    "zsh": """\
unsetopt beep prompt_sp
autoload -Uz compinit; compinit -u -D
zle -C all complete-word _generic; bindkey '^Xa' all
zstyle ':completion:all::::' completer _all_matches _complete
zstyle ':completion:all:*' insert true
""",
}  # fmt: skip
# In place of the program: shows the words of the line.
_SHOW = "mailproxy() { for word in \"$@\"; do printf '<%s>' \"$word\"; done; printf 'END\\n'; }"

Complete = Callable[[str], set[str]]
"""Returns the completions of the last word of a line."""


class Terminal:
    """A shell in a pseudo-terminal."""

    def __init__(self, shell: str, setup: Iterable[str], folder: Path) -> None:
        self._shell = shell
        self._fd, child = pty.openpty()
        environment = {**os.environ, "PS1": _PROMPT, "PROMPT": _PROMPT, "TERM": "dumb", "HOME": str(folder)}
        self._process = subprocess.Popen(
            _START[shell], stdin=child, stdout=child, stderr=child, cwd=folder, env=environment, start_new_session=True
        )  # fmt: skip
        os.close(child)
        file = folder / f"setup.{shell}"
        file.write_text("\n".join([_SETUP[shell], *setup, _SHOW, f"PS1='{_PROMPT}'; echo 'set' up\n"]))
        self._type(f"source {shlex.quote(str(file))}\n".encode())
        self._read_until(f"set up\r?\n[^<]*{_PROMPT}")

    def press_tab(self, line: str) -> list[str]:
        """Type a line, press Tab and Enter, and return the words that the line has then."""
        return self._words(line, b"\t")

    def complete(self, line: str) -> set[str]:
        """Return the completions of the last word of a line."""
        *before, word = line.split(" ")[1:]
        completed = self._words(line, _ALL[self._shell])[len(before) :]
        return set(completed) - {word}

    def _words(self, line: str, key: bytes) -> list[str]:
        self._type(line.encode() + key + b"\n")
        shown = self._read_until(rf"\n((?:<[^\n]*>)?)END\r?\n[^<]*{_PROMPT}")
        return re.findall(r"<([^>]*)>", shown)

    def _type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def _read_until(self, pattern: str) -> str:
        text, deadline = "", time.monotonic() + TIMEOUT_S
        while (match := re.search(pattern, text)) is None:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._fd], [], [], left)[0]:
                raise TimeoutError(f"{pattern!r} did not come, but: {text!r}")
            text += os.read(self._fd, 65536).decode("utf-8", "replace")
        return match[1] if match.groups() else ""

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)


def complete_in_fish(setup: str, folder: Path) -> Complete:
    """Return what completes in fish after this command. fish answers without a terminal."""

    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # it completes only programs that exist

    def complete(line: str) -> set[str]:
        command = f"{setup}; complete -C {shlex.quote(line)}"
        environment = {**os.environ, "HOME": str(folder), "PATH": path}
        result = subprocess.run(
            ["fish", "--no-config", "-c", command], capture_output=True, text=True, timeout=TIMEOUT_S, check=True,
            cwd=folder, env=environment,
        )  # fmt: skip
        return {each.partition("\t")[0] for each in result.stdout.splitlines()}

    return complete
