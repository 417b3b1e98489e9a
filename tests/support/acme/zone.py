"""knot with a zone that takes updates signed with TSIG."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.ports import free_port
from tests.support.programs.program import find

SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlYw=="
_START_TIMEOUT_S = 20.0


class Zone:
    """The zone example.com on loopback, ended at the end of the `with` block."""

    def __init__(self, folder: Path, *records: str) -> None:
        self.port = free_port()
        self._folder = folder / "knot"
        self._folder.mkdir()
        self.key_file = folder / "update.key"
        self.key_file.write_text(f"{SECRET}\n")
        (self._folder / "example.com.zone").write_text(
            "\n".join(
                (
                    "$ORIGIN example.com.",
                    "@ 60 SOA ns.example.com. postmaster.example.com. 1 3600 600 86400 60",
                    "@ 60 NS ns.example.com.",
                    "ns 60 A 127.0.0.1",
                    "imap 60 A 127.0.0.1",
                    *records,
                    "",
                )
            )
        )
        self._file = self._folder / "knot.conf"
        self._file.write_text(f"""
server:
    rundir: {self._folder}
    listen: 127.0.0.1@{self.port}
database:
    storage: {self._folder}
key:
  - id: update.
    algorithm: hmac-sha256
    secret: {SECRET}
acl:
  - id: update
    key: update.
    action: update
template:
  - id: default
    storage: {self._folder}
    zonefile-sync: -1
zone:
  - domain: example.com
    acl: update
log:
  - target: stderr
    any: info
""")

    def __enter__(self) -> Self:
        self._output = (self._folder / "log").open("wb")
        self._process = subprocess.Popen(
            [find("knotd"), "-c", str(self._file)], stdout=self._output, stderr=self._output
        )
        end = time.monotonic() + _START_TIMEOUT_S
        while "server started" not in (log := (self._folder / "log").read_text()):
            assert self._process.poll() is None and time.monotonic() < end, log  # noqa: PT018
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._output.close()

    def texts(self, name: str) -> set[str]:
        """Return the TXT records of a name."""
        from mailproxy.acme.challenges.propagation import NameServer, query

        answer = query(name, "TXT", NameServer("127.0.0.1", self.port)).answer
        return {str(record).strip('"') for rrset in answer for record in rrset}
