"""The certificate watcher: reloads the TLS files at every interval, and logs the result."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

import trio

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


class CertificateWatcher:
    """Reloads the TLS files at every interval and on request.

    Args:
        reloader: Does the work.
        interval: Seconds between two scans.
        on_reload: Awaited with the result of a reload before it is logged, and with whether the reload was
            forced.
        log: Gets the result.
    """

    def __init__(
        self,
        reloader: CertificateReloader,
        *,
        interval: float,
        on_reload: Callable[[ReloadResult, bool], Awaitable[None]],
        log: Log,
    ) -> None:
        self._reloader = reloader
        self._interval = interval
        self._on_reload = on_reload
        self._log = log
        self._requested = trio.Event()
        # Both stay set until a scan has succeeded: if a scan fails, the restarted task scans at once.
        self._is_due = self._is_forced = False
        self._logged_faults: tuple[Fault, ...] = ()
        self._expiry_due = -math.inf

    def scan_now(self) -> None:
        """Reload at once, even if nothing seems to have changed."""
        self._requested.set()

    async def sync_silently(self) -> None:
        """Apply what has changed since the files were loaded, without logging it.

        For a control process that replaces another one, which has logged these changes, and what expires,
        already.
        """
        self._expiry_due = trio.current_time() + _EXPIRY_LOG_INTERVAL_S
        result = await run_in_thread(self._reloader.scan)
        if result is not None:
            await self._on_reload(self._reloader.apply_staged(result), False)
            self._logged_faults = result.faults

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            if trio.current_time() >= self._expiry_due:
                self._log_expiring(await run_in_thread(self._reloader.expiring))
                self._expiry_due = trio.current_time() + _EXPIRY_LOG_INTERVAL_S
            if not self._is_due:
                with trio.move_on_after(self._interval):
                    await self._requested.wait()
                self._is_due = True
            if self._requested.is_set():
                self._requested, self._is_forced = trio.Event(), True
            forced = self._is_forced
            result = await run_in_thread(partial(self._reloader.scan, force=forced))
            if result is not None:
                result = self._reloader.apply_staged(result)
                await self._on_reload(result, forced)
                self._log_result(result, forced=forced)
            self._is_due = self._is_forced = False

    def _log_result(self, result: ReloadResult, *, forced: bool) -> None:
        for fault in result.faults:
            # A fault that stays is logged once, and again when an operator asks for a reload.
            if forced or fault not in self._logged_faults:
                log_rejected(self._log, fault)
        self._logged_faults = result.faults
        if result.applied:
            message = f"taken up: {', '.join(result.descriptions)}"
            self._log.event(CERTIFICATES_RENEWED, message, files=[str(file) for file in result.applied])
        self._log_expiring(result.expiring)

    def _log_expiring(self, warnings: Iterable[Fault]) -> None:
        for warning in warnings:
            self._log.event(CERTIFICATE_EXPIRES, str(warning), path=warning.path, fact=warning.fact)
