"""A steady load of logins, and sessions that stay open."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from tests.support.worker_group import Client


class SteadyLogins:
    """Clients that connect, read the greeting, exchange a line and leave, at a steady rate until the block ends.

    Attributes:
        logins: How many have been served.
        faults: What went wrong, in words.
    """

    def __init__(self, address: tuple[str, int], *, rate: float = 200.0, threads: int = 8) -> None:
        self.logins = 0
        self.faults: list[str] = []
        self._address = address
        self._interval = threads / rate
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(each,), daemon=True) for each in range(threads)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        due = time.monotonic() + self._interval * number / len(self._threads)
        while not self._is_over.is_set():
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due + self._interval, time.monotonic() - 1.0)  # a busy machine is late
            try:
                self._log_in()
            except (OSError, AssertionError) as error:
                self.faults.append(f"{time.strftime('%T')} {error!r}")

    def _log_in(self) -> None:
        client = Client(self._address)
        try:
            assert client.greeting, "no greeting"
            assert client.echoes(), "no answer"
        finally:
            client.close()
        self.logins += 1

    def wait_for(self, logins: int) -> None:
        """Wait until this many more logins have been served."""
        goal, end = self.logins + logins, time.monotonic() + 30.0
        while self.logins < goal:
            assert time.monotonic() < end, f"{self.logins} of {goal}; {self.faults}"
            time.sleep(0.01)
