"""Reload of TLS files in a worker.

The control process watches the files, and tells all workers when to load them (`control.reloads`). It logs
what was reloaded. A worker logs only what it alone could not take up, and retries that by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import trio

from mailproxy.certificates.reloader import CertificateReloader, ReloadResult
from mailproxy.certificates.store import CertificateStore
from mailproxy.certificates.watcher import log_rejected, run_in_thread
from mailproxy.errors import Fault
from mailproxy.log import Log
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.supervise import contained

WATCHER_HELPER = "certificate watcher"

_RETRY_S = 1.0  # after a worker alone could not take up a file: the control process does not ask again


class WorkerCertificates:
    """In a worker: reloads TLS files when the control process asks for it, and after a failure.

    Args:
        reloader: Finds out which files have changed, and loads them; None while the configuration names none.
        backends: The backends whose servers get new TLS contexts.
        log: For files that cannot be taken up here.
        interval: The configured seconds between two scans, an upper limit for the retries here.
    """

    def __init__(
        self, reloader: CertificateReloader | None, backends: Iterable[Backend], log: Log, *, interval: float
    ) -> None:
        self._reloader = reloader
        self._backends = list(backends)
        self._log = log
        self._retry_s = min(_RETRY_S, interval)
        # One thread at a time scans. A reload of the configuration, which loads the same files, holds it, too.
        self.lock = trio.Lock()
        self._rejected: tuple[Fault, ...] = ()
        self._is_due = self._is_force_due = False  # until a scan has succeeded

    @property
    def store(self) -> CertificateStore:
        """The files in use."""
        return self._reloader.store if self._reloader is not None else CertificateStore()

    def reconfigure(
        self, reloader: CertificateReloader | None, backends: Iterable[Backend], *, interval: float
    ) -> None:
        """Load the files of another configuration from now on. The caller holds ``lock``."""
        self._reloader, self._backends = reloader, list(backends)
        self._retry_s = min(_RETRY_S, interval)
        self._rejected = ()

    async def reload_contained(
        self, *, is_forced: bool = False, known_faults: Sequence[Fault] | None = None
    ) -> None:
        """Reload what has changed on disk. A failure is logged, and `run` tries again.

        Args:
            is_forced: Reload also files that look unchanged.
            known_faults: The faults that the control process has logged; None if it was not asked.
        """
        with contained(self._log, WATCHER_HELPER):
            await self._reload(is_forced=is_forced, known_faults=known_faults)

    async def run(self) -> None:
        """Retry what has failed in this worker, every second at most, until cancelled."""
        while True:
            await trio.sleep(self._retry_s)
            if self._rejected or self._is_due:
                await self._reload(is_forced=False)

    async def _reload(self, *, is_forced: bool, known_faults: Sequence[Fault] | None = None) -> None:
        async with self.lock:
            self._is_due, self._is_force_due = True, self._is_force_due or is_forced
            if self._reloader is not None:
                result = await run_in_thread(partial(self._reloader.scan, force=self._is_force_due))
                if result is not None:
                    self._apply(self._reloader.apply_staged(result), known_faults)
            self._is_due = self._is_force_due = False

    def _apply(self, result: ReloadResult, known_faults: Sequence[Fault] | None) -> None:
        for backend in self._backends:
            backend.reload_certificates(result.server_contexts)
        before = self._rejected
        own = [fault for fault in result.rejected if known_faults is not None and fault not in known_faults]
        self._rejected = (*own, *result.retry)
        for fault in self._rejected:
            if fault not in before:
                log_rejected(self._log, fault)
