"""The thread of a log writer: it runs what may block, and lives as long as the log.

Starting a thread for each batch would fail when the log is needed most: at a limit of processes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue

import trio


class LogThread:
    """Runs one job after the other.

    Attributes:
        is_busy: Whether a job is queued or running.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._is_started = False
        self.is_busy = False

    def start(self) -> None:
        """Start the thread, unless it was started before.

        Raises:
            RuntimeError: If the machine has no thread left.
        """
        if not self._is_started:
            # A daemon: a target that never returns must not keep the process from ending.
            threading.Thread(target=self._run, name="mailproxy log", daemon=True).start()
            self._is_started = True

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    async def run(self, job: Callable[[], object], *, deadline: float) -> None:
        """Run a job in the thread, which must be started. Raises what the job raises.

        Args:
            job: What may block.
            deadline: Until when to wait, in trio's clock. Then this method returns, and the job goes on alone.

        Cancellation:
            Waits for the job, until the deadline at most: the caller would not know how many lines it has
            written.
        """
        done, token = trio.Event(), trio.lowlevel.current_trio_token()
        failures: list[Exception] = []

        def run_job() -> None:
            try:
                job()
            except Exception as error:  # noqa: BLE001 - raised again in the task that waits
                failures.append(error)
            finally:
                self.is_busy = False
                with contextlib.suppress(trio.RunFinishedError):
                    token.run_sync_soon(done.set)

        self.is_busy = True
        self._jobs.put(run_job)
        with trio.CancelScope(deadline=deadline, shield=True):
            await done.wait()
        if failures:
            raise failures.pop()

    def stop(self) -> None:
        """End the thread after the jobs that are queued."""
        if self._is_started:
            self._jobs.put(None)
