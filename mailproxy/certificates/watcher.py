"""The certificate watcher: reloads the TLS files at every interval, and logs the result."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from mailproxy.certificates.expiry import expiry_warnings
from mailproxy.certificates.reloader import CertificateReloader, ReloadResult
from mailproxy.errors import Fault
from mailproxy.log import Log
from mailproxy.log.events import CERTIFICATE_EXPIRES, CERTIFICATES_KEPT, CERTIFICATES_RENEWED

T = TypeVar("T")

_EXPIRY_LOG_INTERVAL_S = 24 * 3600.0


async def run_in_thread(job: Callable[[], T]) -> T:
    """Run a job that blocks on files in a thread.

    It has a limiter of its own: look-ups of host names without an answer may have taken all threads of trio's
    default one.

    Cancellation:
        The thread is abandoned: the disk may be slow, or not answer at all.
    """
    return await trio.to_thread.run_sync(job, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))


def log_rejected(log: Log, fault: Fault) -> None:
    """Log a fault of files whose previous content stays in use."""
    log.event(CERTIFICATES_KEPT, f"{fault}; not taken up", path=fault.path, fact=fault.fact)


def log_renewed(log: Log, applied: Mapping[Path, str]) -> None:
    """Log the files that were taken into use, each with its description. Does nothing without any."""
    _log_renewed(log, applied, dict.fromkeys(applied.values()))


def _log_renewed(log: Log, files: Collection[Path], descriptions: Iterable[str]) -> None:
    if files:
        message = f"taken up: {', '.join(descriptions)}"
        log.event(CERTIFICATES_RENEWED, message, files=[str(file) for file in files])


class CertificateWatcher:
    """Reloads the TLS files at every interval and on request.

    Attributes:
        reloader: Does the work; None while the configuration names no files.
        lock: Held while files are loaded. A reload of the configuration holds it, too, since it loads the
            same files.

    Args:
        reloader: Does the work; None while the configuration names no files.
        interval: Seconds between two scans.
        on_reload: Awaited with the result of a reload before it is logged, and with whether the reload was
            forced.
        log: Gets the result.
    """

    def __init__(
        self,
        reloader: CertificateReloader | None,
        *,
        interval: float,
        on_reload: Callable[[ReloadResult, bool], Awaitable[None]],
        log: Log,
    ) -> None:
        self.reloader = reloader
        self._interval = interval
        self._on_reload = on_reload
        self._log = log
        self._requested = trio.Event()
        self._pause = trio.CancelScope()  # until the next scan
        self.lock = trio.Lock()
        # Both stay set until a scan has succeeded: if a scan fails, the restarted task scans at once.
        self._is_due = self._is_forced = False
        self._logged_faults: tuple[Fault, ...] = ()
        self._expiry_due = -math.inf

    def scan_now(self) -> None:
        """Reload at once, even if nothing seems to have changed."""
        self._requested.set()

    def reconfigure(self, reloader: CertificateReloader | None, *, interval: float) -> None:
        """Watch the files of another configuration from now on. The caller holds ``lock``."""
        before, self.reloader, self._interval = self.reloader, reloader, interval
        self._is_due = self._is_forced = False
        self._logged_faults = ()
        self._pause.deadline = trio.current_time() + interval
        if reloader is not None:
            previous = before.store if before is not None else None
            self._log_expiring(expiry_warnings(reloader.store, previous))

    async def sync_silently(self) -> None:
        """Apply what has changed since the files were loaded, without logging it.

        For a control process that replaces another one, which has logged these changes, and what expires,
        already.
        """
        self._expiry_due = trio.current_time() + _EXPIRY_LOG_INTERVAL_S
        if self.reloader is None:
            return
        result = await run_in_thread(self.reloader.scan)
        if result is not None:
            await self._on_reload(self.reloader.apply_staged(result), False)
            self._logged_faults = result.faults

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            async with self.lock:
                await self._log_expiring_daily()
            if not self._is_due:
                with trio.CancelScope(deadline=trio.current_time() + self._interval) as self._pause:
                    await self._requested.wait()
                self._is_due = True
            if self._requested.is_set():
                self._requested, self._is_forced = trio.Event(), True
            async with self.lock:
                if self.reloader is not None:
                    await self._scan(self.reloader)
                self._is_due = self._is_forced = False

    async def _log_expiring_daily(self) -> None:
        if self.reloader is not None and trio.current_time() >= self._expiry_due:
            self._log_expiring(await run_in_thread(self.reloader.expiring))
            self._expiry_due = trio.current_time() + _EXPIRY_LOG_INTERVAL_S

    async def _scan(self, reloader: CertificateReloader) -> None:
        forced = self._is_forced
        result = await run_in_thread(partial(reloader.scan, force=forced))
        if result is not None:
            result = reloader.apply_staged(result)
            await self._on_reload(result, forced)
            self._log_result(result, forced=forced)

    def _log_result(self, result: ReloadResult, *, forced: bool) -> None:
        for fault in result.faults:
            # A fault that stays is logged once, and again when an operator asks for a reload.
            if forced or fault not in self._logged_faults:
                log_rejected(self._log, fault)
        self._logged_faults = result.faults
        _log_renewed(self._log, result.applied, result.descriptions)
        self._log_expiring(result.expiring)

    def _log_expiring(self, warnings: Iterable[Fault]) -> None:
        for warning in warnings:
            self._log.event(CERTIFICATE_EXPIRES, str(warning), path=warning.path, fact=warning.fact)
