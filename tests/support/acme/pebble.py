"""Pebble, Let's Encrypt's test authority, with its own DNS server."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from mailproxy.testing import ThrowAwayCA
from tests.support.ports import are_listening, free_port

_START_TIMEOUT_S = 20.0


class Pebble:
    """Pebble in strict mode on loopback, ended at the end of the `with` block.

    Args:
        folder: Where its files go.
        ca: Issues the certificate of its directory.
        http_port: Where it connects for http-01.
        tls_port: Where it connects for tls-alpn-01.
        dns: Another DNS server than its own, as HOST:PORT.
        validity: Seconds for which its certificates are valid.
        eab: Keys of external accounts by their identifier.
        blocked: Names that it does not issue for.
        environment: Its faults, such as PEBBLE_WFE_NONCEREJECT.
    """

    def __init__(
        self,
        folder: Path,
        ca: ThrowAwayCA,
        *,
        http_port: int = 0,
        tls_port: int = 0,
        dns: str = "",
        validity: int = 90 * 86400,
        eab: Mapping[str, str] | None = None,
        blocked: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.ca = ca
        self.port, self._management, self._dns_port, self.dns_management = (free_port() for _ in range(4))
        pem = ca.issue("127.0.0.1", "localhost", folder=folder)
        self._dns = dns or f"127.0.0.1:{self._dns_port}"
        self._file = folder / "pebble.json"
        self._log = folder / "pebble.log"
        settings = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": str(pem),
            "privateKey": str(pem),
            "httpPort": http_port or free_port(),
            "tlsPort": tls_port or free_port(),
            "ocspResponderURL": "",
            "externalAccountBindingRequired": eab is not None,
            "externalAccountMACKeys": dict(eab or {}),
            "domainBlocklist": list(blocked),
            "certificateValidityPeriod": validity,
        }
        self._file.write_text(json.dumps({"pebble": settings}))
        self._environment = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", **(environment or {})}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ignored = 0  # characters of its log

    @property
    def directory(self) -> str:
        """The URL of its directory."""
        return f"https://127.0.0.1:{self.port}/dir"

    def __enter__(self) -> Self:
        commands = [
            ["pebble-challtestsrv", "-dns01", f"127.0.0.1:{self._dns_port}", "-management",
             f"127.0.0.1:{self.dns_management}", "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""],
            ["pebble", "-strict", "-config", str(self._file), "-dnsserver", self._dns],
        ]  # fmt: skip
        with self._log.open("ab") as log:
            for command in commands:
                self._processes.append(
                    subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
                    )
                )
        end = time.monotonic() + _START_TIMEOUT_S
        addresses = [("127.0.0.1", port) for port in (self.dns_management, self._management, self.port)]
        while not are_listening(addresses):
            assert time.monotonic() < end, self._log.read_text()
            assert all(process.poll() is None for process in self._processes), self._log.read_text()
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    @property
    def log(self) -> str:
        """What it has written so far, or since the last call of `start_test`."""
        return self._log.read_text()[self._ignored :]

    def start_test(self) -> None:
        """Ignore what it has written so far, because another test uses it now."""
        self._ignored = len(self._log.read_text())

    def count(self, text: str) -> int:
        """Return how often a text is in its log."""
        return self.log.count(text)

    @property
    def orders(self) -> int:
        """How many orders it has had."""
        return self.count("Added order ")

    def root(self) -> bytes:
        """Return the CA certificate of its certificates, in PEM form."""
        return self._get(f"https://127.0.0.1:{self._management}/roots/0")

    def intermediate(self) -> bytes:
        """Return the certificate of its intermediate CA."""
        return self._get(f"https://127.0.0.1:{self._management}/intermediates/0")

    def client_context(self) -> ssl.SSLContext:
        """Return a client's TLS context that trusts only its certificates."""
        return ssl.create_default_context(cadata=self.root().decode())

    def status_of(self, serial: int) -> str:
        """Return whether it knows a certificate as Valid or Revoked."""
        answer = self._get(f"https://127.0.0.1:{self._management}/cert-status-by-serial/{serial:x}")
        return str(json.loads(answer)["Status"])

    def _get(self, url: str) -> bytes:
        context = ssl.create_default_context(cafile=self.ca.pem)
        with urllib.request.urlopen(url, context=context, timeout=10) as response:  # noqa: S310 - a constant scheme
            content: bytes = response.read()
        return content

    @property
    def dns_server(self) -> str:
        """The address of its DNS server."""
        return f"127.0.0.1:{self._dns_port}"
