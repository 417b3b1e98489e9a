"""The programs that a run measures: which HAProxy, which Python, and which versions of mailproxy."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
QUERY = """
import importlib.metadata, json, ssl
from mailproxy.app.python_build import running_build
from mailproxy.version import __version__
build, openssl, trio = str(running_build()), ssl.OPENSSL_VERSION, importlib.metadata.version("trio")
print(json.dumps({"build": build, "openssl": openssl, "trio": trio, "mailproxy": __version__}))
"""


@dataclass(frozen=True, slots=True)
class Python:
    """The build of an interpreter and the versions of its packages.

    Attributes:
        build: Its version, and how it was built.
        openssl: The version of its OpenSSL.
        trio: The version of its trio.
        mailproxy: The version of the checked-out mailproxy.
    """

    build: str
    openssl: str
    trio: str
    mailproxy: str

    def __str__(self) -> str:
        return f"{self.build}, trio {self.trio}, {' '.join(self.openssl.split()[:2])}"


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs that a run measures.

    Attributes:
        haproxy: HAProxy's program.
        python: The interpreter that runs mailproxy.
        revision: The folder of the mailproxy that the checked-out one is compared with.
        revision_name: Its name for the report.
    """

    haproxy: str = "haproxy"
    python: str = sys.executable
    revision: Path | None = None
    revision_name: str = ""

    def environment(self, program: str) -> dict[str, str]:
        """Return the environment of a proxy, in which Python finds the right mailproxy."""
        source = (self.revision if program == "revision" else None) or ROOT
        return os.environ | {"PYTHONPATH": str(source)}


def output_of(command: list[str], environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Return exit code and output of a command. The code is 127 if it cannot be started.

    It runs in a folder without modules, because ``python -m`` searches the current folder first.
    """
    try:
        done = subprocess.run(
            command,
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        return 127, f"{command[0]}: {error.strerror}"
    return done.returncode, done.stdout + done.stderr


def last_line(output: str) -> str:
    return output.strip().rpartition("\n")[2] or "no output"


def find_haproxy(path: str | None) -> str:
    """Return the program of ``--haproxy``, or the installed one. Raises UsageError if it is not HAProxy."""
    if path is None:
        return "haproxy"
    file = Path(path).absolute()
    code, output = output_of([str(file), "-v"])
    if code or not output.startswith(("HAProxy ", "HA-Proxy ")):
        raise UsageError(f"--haproxy {path}: this is no HAProxy: {last_line(output)}")
    return str(file)


def find_python(path: str | None) -> str:
    """Return the interpreter of ``--python``, or this one. Raises UsageError if it cannot run mailproxy."""
    if path is None:
        return sys.executable
    # Not resolved: the link in a virtual environment is what makes it one.
    python = str(Path(path).absolute()) if "/" in path else shutil.which(path) or path
    ask(python)
    return python


@functools.cache
def ask(python: str) -> Python:
    """Ask an interpreter about itself. Raises UsageError if it cannot import the checked-out mailproxy."""
    code, output = output_of([python, "-c", QUERY], Programs().environment("mailproxy"))
    if code:
        raise UsageError(f"{python} cannot run mailproxy: {last_line(output)}")
    return Python(**json.loads(output))


def haproxy_version(program: str) -> str:
    match = re.search(r"\d+(\.\d+)+\S*", output_of([program, "-v"])[1])
    return f"HAProxy {match[0] if match else '(no version)'}"


def nginx_version() -> str:
    match = re.search(r"\d+(\.\d+)+\S*", output_of(["nginx", "-v"])[1])
    return f"nginx {match[0] if match else '(no version)'}"


def checkout_version(programs: Programs) -> str:
    """Return the version of the checked-out mailproxy, with its commit if Git knows it."""
    version = f"mailproxy {ask(programs.python).mailproxy}"
    git = ["git", "-C", str(ROOT)]
    code, commit = output_of([*git, "rev-parse", "--short=9", "HEAD"])
    if code:
        return version
    is_modified = bool(output_of([*git, "status", "--porcelain", "--", "mailproxy"])[1].strip())
    return f"{version} ({commit.strip()}{', modified' if is_modified else ''})"
