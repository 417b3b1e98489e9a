"""What a run needs around the proxies: load, certificates, stub server, ports and a folder."""

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
from configurations import ProxySetup
from errors import ServerEndedError, UsageError
from programs import Programs
from proxies import free_ports
from revision import with_revision

SOURCES = Path(__file__).parent
OPEN_FILES = 20_000  # the limit of every process here, so that it is the same for each proxy


@dataclass(frozen=True, slots=True)
class Environment:
    """What all measurements of a run share.

    Attributes:
        folder: Certificates, and a folder for each proxy.
        program: The compiled load.c.
        server: The stub server.
        server_ports: Its ports for sessions that begin with no preamble, with one, and with two.
        ports: Free ports.
        programs: The programs that are measured.
    """

    folder: Path
    program: Path
    server: subprocess.Popen[str]
    server_ports: tuple[int, int, int]
    ports: Iterator[int]
    programs: Programs

    def setup(self, name: str, *, server_port: int | None = None) -> ProxySetup:
        """Return folder and ports for a proxy in front of the stub server, or of another port."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        no_preamble, one_preamble, two_preambles = self.server_ports
        ports = {bind: next(self.ports) for bind in BINDS}
        return ProxySetup(
            folder,
            self.folder,
            ports,
            server_port or no_preamble,
            one_preamble,
            two_preambles,
            self.programs,
        )

    def check_server(self) -> None:
        if self.server.poll() is not None:
            raise ServerEndedError(f"the stub server ended with code {self.server.returncode}")


def make(what: str, command: list[str | Path]) -> None:
    """Run a command that makes something. Raises UsageError with the start of its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"cannot make {what}: {' / '.join(done.stderr.split(chr(10))[:3])}")


def compile_load(folder: Path, name: str) -> Path:
    """Compile ``load`` or ``mixed``. Both use wire.c."""
    program = folder / name
    sources = [SOURCES / f"{name}.c", SOURCES / "wire.c"]
    make(
        f"the program {name}",
        ["gcc", "-O2", "-Wall", "-Wextra", "-o", program, *sources, "-lssl", "-lcrypto", "-lm"],
    )
    return program


def make_certificate(folder: Path, name: str, key_options: list[str | Path]) -> None:
    key, certificate = folder / f"{name}.key", folder / f"{name}.crt"
    subject: list[str | Path] = [
        "-subj",
        "/CN=imap.example.com",
        "-addext",
        "subjectAltName=DNS:imap.example.com",
    ]
    request: list[str | Path] = ["openssl", "req", "-x509", "-nodes", "-days", "30", *key_options, *subject]
    make("a certificate", [*request, "-keyout", key, "-out", certificate])
    (folder / f"{name}.pem").write_text(certificate.read_text() + key.read_text())


def limit_open_files(max_sessions: int) -> None:
    """Give all processes the same limit, which must suffice for this number of sessions in a proxy."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if limit < 2 * max_sessions + 500:
        raise UsageError(
            f"{limit} open files are too few for {max_sessions} sessions at once; raise ulimit -Hn"
        )


@contextlib.contextmanager
def open_environment(
    *, keep: bool, programs: Programs | None = None, revision: str | None = None
) -> Iterator[Environment]:
    """Prepare a run, and clean up after it.

    Args:
        keep: Leaves the folder.
        programs: The programs that are measured. The default are those on the path.
        revision: Another version of mailproxy that is extracted for them.
    """
    folder = Path(tempfile.mkdtemp(prefix="mailproxy-bench-"))
    try:
        programs = with_revision(programs or Programs(), revision, folder)
        program = compile_load(folder, "load")
        make_certificate(folder, "ec", ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        make_certificate(folder, "rsa", ["-newkey", "rsa:2048"])
        # The server ends when the pipe to its stdin closes, even if this process is killed.
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
            no_preamble, one_preamble, two_preambles = map(int, line.split())
            yield Environment(
                folder, program, server, (no_preamble, one_preamble, two_preambles), free_ports(), programs
            )
    finally:
        if keep:
            print(f"logs and configurations are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
