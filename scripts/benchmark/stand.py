"""The stand: what a run needs around the proxies. Compiled load, certificates, the stub server, ports, a folder."""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from cases import BINDS
from configurations import Place
from faults import Mistake, ServerEndedError
from proxies import free_ports

SOURCES = Path(__file__).parent
OPEN_FILES = 20_000  # for every process here: each proxy has to do with the same


@dataclass(frozen=True, slots=True)
class Stand:
    """What all weighings of a run share."""

    folder: Path
    program: Path  # load.c
    server: subprocess.Popen[str]
    server_ports: tuple[int, int, int]  # the others for sessions that begin with one preamble, or two
    ports: Iterator[int]

    def place(self, name: str, *, server_port: int | None = None) -> Place:
        """Where a proxy may stand, in front of the stub server or of something else."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        plain, preambled, twice = self.server_ports
        ports = {bind: next(self.ports) for bind in BINDS}
        return Place(folder, self.folder, ports, server_port or plain, preambled, twice)

    def check_server(self) -> None:
        if self.server.poll() is not None:
            raise ServerEndedError(f"the stub server ended with code {self.server.returncode}")


def make(what: str, command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Mistake(f"cannot make {what}: {' / '.join(done.stderr.split(chr(10))[:3])}")


def compile_load(folder: Path, name: str) -> Path:
    """``load`` or ``mixed``; both stand on wire.c."""
    program = folder / name
    sources = [SOURCES / f"{name}.c", SOURCES / "wire.c"]
    make(
        f"the program {name}",
        ["gcc", "-O2", "-Wall", "-Wextra", "-o", program, *sources, "-lssl", "-lcrypto", "-lm"],
    )
    return program


def make_certificate(folder: Path, name: str, kind: list[str | Path]) -> None:
    key, certificate = folder / f"{name}.key", folder / f"{name}.crt"
    names: list[str | Path] = [
        "-subj",
        "/CN=imap.example.com",
        "-addext",
        "subjectAltName=DNS:imap.example.com",
    ]
    fresh: list[str | Path] = ["openssl", "req", "-x509", "-nodes", "-days", "30", *kind, *names]
    make("a certificate", [*fresh, "-keyout", key, "-out", certificate])
    (folder / f"{name}.pem").write_text(certificate.read_text() + key.read_text())


def limit_open_files(most_sessions: int) -> None:
    """Give all processes of the run the same number, which must do for so many sessions in a proxy."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if limit < 2 * most_sessions + 500:
        raise Mistake(
            f"{limit} open files are too few for {most_sessions} sessions at once; raise ulimit -Hn"
        )


@contextlib.contextmanager
def standing(*, keep: bool) -> Iterator[Stand]:
    folder = Path(tempfile.mkdtemp(prefix="mailproxy-bench-"))
    try:
        program = compile_load(folder, "load")
        make_certificate(folder, "ec", ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        make_certificate(folder, "rsa", ["-newkey", "rsa:2048"])
        # the server ends with the pipe to it, so even if this process is killed
        with subprocess.Popen(
            [program, "server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as server:
            line = cast("IO[str]", server.stdout).readline()
            if not line:
                raise ServerEndedError("the stub server did not start")
            plain, preambled, twice = map(int, line.split())
            yield Stand(folder, program, server, (plain, preambled, twice), free_ports())
    finally:
        if keep:
            print(f"logs and configurations are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
