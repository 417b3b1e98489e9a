"""The life cycle: obtains certificates that are missing, renews those that are due, and says how they are.

One task for each authority, in the control process or in the only process. What is obtained lies in the
storage like any TLS file, and is taken into use by the reload of TLS files: in all processes, without a
restart, and with the old certificate in use until then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import trio
from attrs import evolve

from mailproxy.acme.authority import FAILURES, Authority, Entry
from mailproxy.acme.challenges.http import HttpSocket
from mailproxy.acme.keys import Issued
from mailproxy.acme.storage import StorageError
from mailproxy.address import TcpAddress
from mailproxy.certificates.acme_status import AcmeStatus
from mailproxy.config import Config
from mailproxy.config.acme_plan import AcmePlan, ManagedCertificate
from mailproxy.log import Log
from mailproxy.log.events import ACME_FAILED, ACME_MUST_STAPLE, ACME_OBTAINED, ACME_STARTED
from mailproxy.net.tls.certificate import must_staple

# The longest sleep. Then the files are looked at again: the clock may have jumped, another machine or
# ``mailproxy certs`` may have obtained a certificate, and the configuration may have changed.
_MAX_SLEEP_S = 5.0
_MIN_SLEEP_S = 0.05


class AcmeService:
    """Keeps the certificates of a configuration up to date.

    Args:
        config: Returns the configuration in use, which a reload may replace.
        http: The sockets for http-01 by address, bound before privileges were given up.
        log: The log.
        on_stored: Called when a certificate was stored, to take it into use.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        *,
        http: Mapping[TcpAddress, HttpSocket],
        log: Log,
        on_stored: Callable[[], None],
    ) -> None:
        self._config = config
        self._http = dict(http)
        self._log = log
        self._on_stored = on_stored
        self._statuses: dict[ManagedCertificate, AcmeStatus] = {}
        self._in_use: dict[ManagedCertificate, str] = {}
        self._unreadable: dict[ManagedCertificate, str] = {}

    @property
    def statuses(self) -> list[AcmeStatus]:
        """How the certificates are: for lists, metrics and the status page."""
        return list(self._statuses.values())

    async def run(self) -> None:
        """Run until cancelled."""
        for sock in self._http.values():
            sock.stop()
        while True:
            config = self._config()
            plan = AcmePlan(config).certificates
            self._statuses = {each: self._statuses[each] for each in plan if each in self._statuses}
            async with trio.open_nursery() as nursery:
                for name in dict.fromkeys(each.acme.name for each in plan):
                    certificates = [each for each in plan if each.acme.name == name]
                    nursery.start_soon(self._maintain, certificates)
                await self._wait_for_change(config, plan)
                nursery.cancel_scope.cancel()

    async def _wait_for_change(self, config: Config, plan: Sequence[ManagedCertificate]) -> None:
        """Wait for a reload that changes certificates. Orders under way go on over others."""
        while True:
            await trio.sleep(_MAX_SLEEP_S)
            if self._config() is not config:
                config = self._config()
                if AcmePlan(config).certificates != plan:
                    return

    async def _maintain(self, certificates: Sequence[ManagedCertificate]) -> None:
        address = certificates[0].acme.http_address
        if isinstance(address, TcpAddress):
            self._http.setdefault(address, HttpSocket(address))
        authority = make_authority(certificates[0], self._http)
        while True:
            due: list[tuple[float, ManagedCertificate]] = []
            for certificate in certificates:
                try:
                    entry = await authority.ask_window(await authority.read(certificate))
                except StorageError as error:
                    self._log_unreadable(certificate, str(error))
                    due.append((time.time() + _MAX_SLEEP_S, certificate))
                    continue
                self._unreadable.pop(certificate, None)
                self._note(certificate, entry)
                due.append((entry.due_at(), certificate))
            # A certificate for which many failures are due does not keep the others waiting.
            at, first = min(due, key=lambda each: each[0])
            if at <= time.time():
                await self._obtain(authority, first)
            else:
                await trio.sleep(min(max(at - time.time(), _MIN_SLEEP_S), _MAX_SLEEP_S))

    def _note(self, certificate: ManagedCertificate, entry: Entry) -> None:
        """Remember how a certificate is. Take it into use if another process has stored it."""
        self._statuses[certificate] = entry.status()
        serial = entry.held.serial if entry.held is not None else ""
        before = self._in_use.get(certificate)
        self._in_use[certificate] = serial
        if before is not None and before != serial:
            self._on_stored()

    async def _obtain(self, authority: Authority, certificate: ManagedCertificate) -> None:
        self._log.event(
            ACME_STARTED, f"obtains {certificate} from acme.{certificate.acme.name}", **_keys(certificate)
        )
        if (status := self._statuses.get(certificate)) is not None:
            self._statuses[certificate] = evolve(status, last_attempt=time.time(), is_running=True)
        try:
            issued = await authority.obtain(certificate)
            entry = await authority.read(certificate)
        except FAILURES as error:
            self._log_failure(certificate, str(error))
            return
        if issued is None:
            self._note(certificate, entry)
            return
        self._in_use[certificate] = f"{issued.leaf.serial_number:x}"
        self._statuses[certificate] = entry.status()
        self._log_success(certificate, issued)
        self._on_stored()

    def _log_success(self, certificate: ManagedCertificate, issued: Issued) -> None:
        end = issued.leaf.not_valid_after_utc
        message = (
            f"obtained {certificate} from acme.{certificate.acme.name}, valid until {end:%Y-%m-%d %H:%M} UTC"
        )
        self._log.event(ACME_OBTAINED, message, until=f"{end:%Y-%m-%dT%H:%M:%SZ}", **_keys(certificate))
        if must_staple(issued.pem):
            self._log.event(
                ACME_MUST_STAPLE,
                f"{certificate} demands OCSP stapling, which this proxy cannot do: choose another profile",
                **_keys(certificate),
            )

    def _log_unreadable(self, certificate: ManagedCertificate, reason: str) -> None:
        """Log, once, that the storage cannot be read."""
        if self._unreadable.get(certificate) != reason:
            self._unreadable[certificate] = reason
            self._log_failure(certificate, reason)

    def _log_failure(self, certificate: ManagedCertificate, reason: str) -> None:
        status = self._statuses.get(certificate)
        self._log.event(
            ACME_FAILED,
            f"cannot obtain {certificate} from acme.{certificate.acme.name}: {reason}",
            reason=reason,
            expiry=_written(status.expiry) if status is not None else None,
            **_keys(certificate),
        )


def make_authority(
    certificate: ManagedCertificate,
    http: Mapping[TcpAddress, HttpSocket],
    on_wait: Callable[[str], None] = lambda _holder: None,
) -> Authority:
    """Return the authority of a certificate.

    Args:
        certificate: One of its certificates.
        http: The sockets that are bound already. For another address one is made.
        on_wait: Called with the name of the process that holds the storage's lock, when it is waited for.
    """
    address = certificate.acme.http_address
    sock = (http.get(address) or HttpSocket(address)) if isinstance(address, TcpAddress) else None
    return Authority(certificate.acme, sock, on_wait=on_wait)


def _keys(certificate: ManagedCertificate) -> dict[str, object]:
    return {
        "names": list(certificate.names),
        "key_type": certificate.key_type,
        "authority": certificate.acme.name,
    }


def _written(moment: float | None) -> str | None:
    return None if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"
