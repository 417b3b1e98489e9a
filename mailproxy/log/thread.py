"""The thread of the log: it does what may block, and lives as long as the log.

A thread that is started for each line could not be started just when the log is needed most, at a limit of processes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue

import trio


class LogThread:
    """Runs one job after the other. ``is_busy`` while it has any."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._is_started = False
        self.is_busy = False

    def start(self) -> None:
        """Start it, unless that was done. Raises RuntimeError if the machine has no thread left."""
        if not self._is_started:
            # A target that blocks for ever must not keep the process from ending.
            threading.Thread(target=self._run, name="mailproxy log", daemon=True).start()
            self._is_started = True

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    async def run(self, job: Callable[[], object], *, patience: float) -> None:
        """Run a job in the started thread; raises what it raises. After ``patience`` seconds it is left to itself.

        Cancellation waits for that, so that no job is given up that the thread has begun.
        """
        done, token = trio.Event(), trio.lowlevel.current_trio_token()
        failures: list[Exception] = []

        def work() -> None:
            try:
                job()
            except Exception as error:  # noqa: BLE001 - raised again in the task that waits
                failures.append(error)
            finally:
                self.is_busy = False
                with contextlib.suppress(trio.RunFinishedError):
                    token.run_sync_soon(done.set)

        self.is_busy = True
        self._jobs.put(work)
        with trio.move_on_after(patience, shield=True):
            await done.wait()
        if failures:
            raise failures.pop()

    def stop(self) -> None:
        """Let the thread end after the jobs that it has."""
        if self._is_started:
            self._jobs.put(None)
