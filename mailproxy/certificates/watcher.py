"""The certificate watcher: has files looked at every now and then, and says what came of it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import trio
from attrs import evolve, field, frozen

from mailproxy.config import ServerTls
from mailproxy.errors import Fault
from mailproxy.log import Log
from mailproxy.log.events import CERTIFICATE_EXPIRES, CERTIFICATES_KEPT, CERTIFICATES_RENEWED
from mailproxy.net.tls.context import Context

T = TypeVar("T")

_DAY_S = 24 * 3600.0


@frozen(kw_only=True)
class ReloadResult:
    """What a look came to: the files that were taken up, what is wrong with others, TLS towards servers, and what takes up
    the rest, in the thread where handshakes begin, each with the path of its key.

    ``taken``: for each file what the log says of it. ``expiring``: what of the new ones is out of date, or soon will be.
    """

    files: tuple[Path, ...]
    taken: tuple[str, ...] = ()
    expiring: tuple[Fault, ...] = ()
    faults: tuple[Fault, ...]
    server_contexts: Mapping[ServerTls, Context] = field(repr=False)
    staged: tuple[tuple[str, Callable[[], None]], ...] = field(default=(), repr=False)


class Reloader(Protocol):
    """Looks at files; ``look`` and ``expiring`` block on them. ``find_again``: what the last look found is news to the next."""

    def scan(self, *, force: bool = False) -> ReloadResult | None: ...

    def forget_last_scan(self) -> None: ...

    def expiring(self) -> list[Fault]: ...


async def run_look(look: Callable[[], T]) -> T:
    """Run what blocks on files in a thread. Cancelled, it leaves the thread alone: the disk may be slow, or away.

    Not with trio's common limiter: look-ups of names that nobody answers may have taken all of its threads.
    """
    return await trio.to_thread.run_sync(look, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))


def apply_staged(looks: Reloader, renewed: ReloadResult) -> ReloadResult:
    """Take up what is prepared; what came of it. Where that fails, out of descriptors for one, what is known stays, and the
    next look finds everything again.
    """
    faults = []
    for path, prepared in renewed.staged:
        try:
            prepared()
        except OSError as error:
            faults.append(Fault(path, error.strerror or str(error)))
    if not faults:
        return renewed
    looks.forget_last_scan()
    return evolve(renewed, files=(), taken=(), expiring=(), faults=(*renewed.faults, *faults))


def log_rejected(log: Log, fault: Fault) -> None:
    """Tell what is not taken up."""
    log.event(CERTIFICATES_KEPT, f"{fault}; not taken up", path=fault.path, fact=fault.fact)


class Watcher:
    """Looks every ``interval`` seconds and when told to; ``take_up`` gets what is new, and whether it was told to."""

    def __init__(
        self,
        looks: Reloader,
        *,
        interval: float,
        take_up: Callable[[ReloadResult, bool], Awaitable[None]],
        log: Log,
    ) -> None:
        self._reloader = looks
        self._interval = interval
        self._apply = take_up
        self._log = log
        self._wanted = trio.Event()
        self._is_due = self._is_wanted = False  # until a look has succeeded
        self._logged_faults: tuple[Fault, ...] = ()
        self._expiry_due = -math.inf

    def scan_now(self) -> None:
        """Look at once, even where nothing seems to have changed."""
        self._wanted.set()

    async def sync_silently(self) -> None:
        """Take up what has changed since files were loaded, without a word: another watcher has said it, and what expires."""
        self._expiry_due = trio.current_time() + _DAY_S
        renewed = await run_look(self._reloader.scan)
        if renewed is not None:
            await self._apply(apply_staged(self._reloader, renewed), False)
            self._logged_faults = renewed.faults

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            if trio.current_time() >= self._expiry_due:
                self._log_expiring(await run_look(self._reloader.expiring))
                self._expiry_due = trio.current_time() + _DAY_S
            if not self._is_due:
                with trio.move_on_after(self._interval):
                    await self._wanted.wait()
                self._is_due = True
            if self._wanted.is_set():
                self._wanted, self._is_wanted = trio.Event(), True
            anyway = self._is_wanted
            renewed = await run_look(partial(self._reloader.scan, force=anyway))
            if renewed is not None:
                renewed = apply_staged(self._reloader, renewed)
                await self._apply(renewed, anyway)
                self._log_result(renewed, anyway=anyway)
            self._is_due = self._is_wanted = False

    def _log_result(self, renewed: ReloadResult, *, anyway: bool) -> None:
        for fault in renewed.faults:
            if anyway or fault not in self._logged_faults:  # not again with every other file that is renewed
                log_rejected(self._log, fault)
        self._logged_faults = renewed.faults
        files = [str(file) for file in renewed.files]
        if files:
            self._log.event(CERTIFICATES_RENEWED, f"taken up: {', '.join(renewed.taken)}", files=files)
        self._log_expiring(renewed.expiring)

    def _log_expiring(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            self._log.event(CERTIFICATE_EXPIRES, str(fault), path=fault.path, fact=fault.fact)
