"""The lock of a storage folder: of several processes or machines, one obtains certificates.

The lock is a file that says which process holds it. The holder counts a beat in it every 10 s. A lock is
stale, and is broken,

- if its process was on this machine and is gone, or
- if its beat was the same for a minute, measured with the clock of the process that waits. So clocks of
  machines need not agree.

``flock`` would do on one machine, but not on the network file systems that several machines share.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import trio
from attrs import define, field

from mailproxy.acme.storage import StorageError, replace_file

T = TypeVar("T")

_BEAT_S = 10.0
_STALE_S = 60.0
_POLL_S = 1.0


class LockLostError(Exception):
    """Another process has taken the lock, because this one was silent for too long."""


@define(eq=False)
class StorageLock:
    """The lock of one storage folder, as one process sees it.

    Attributes:
        path: The file.
        on_wait: Called with the name of the process that holds the lock, once for each that is waited for.
        stale_after: Seconds without a beat, after which a lock is broken.
    """

    path: Path
    on_wait: Callable[[str], None] = field(default=lambda _holder: None, kw_only=True)
    stale_after: float = field(default=_STALE_S, kw_only=True)
    _token: str = field(factory=lambda: os.urandom(16).hex(), init=False)
    _seen: tuple[object, float] | None = field(default=None, init=False)

    async def run(self, job: Callable[[], Awaitable[T]]) -> T:
        """Wait until the lock is this process's, and hold it while a job runs.

        Returns:
            The job's result.

        Raises:
            StorageError: If the file cannot be written.
            LockLostError: If the lock was broken by another process meanwhile. The job is cancelled then.
            Exception: What the job raises.
        """
        waits_for: object = None
        while not await trio.to_thread.run_sync(self._try_acquire):
            holder = await trio.to_thread.run_sync(_read, self.path)
            if holder and holder.get("token") != waits_for:
                waits_for = holder.get("token")
                self.on_wait(f"process {holder.get('pid')} on {holder.get('host')}")
            await trio.sleep(_POLL_S)
        result: list[T] = []
        failure: list[Exception] = []
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep, nursery.cancel_scope)
                try:
                    result.append(await job())
                except Exception as error:  # noqa: BLE001 - raised below, without the nursery's group around it
                    failure.append(error)
                nursery.cancel_scope.cancel()
        finally:
            self._release()
        if failure:
            raise failure[0]
        if not result:
            raise LockLostError(f"{self.path}: another process has taken the lock")
        return result[0]

    async def _keep(self, scope: trio.CancelScope) -> None:
        """Write a beat every 10 s. Cancel the job if the lock is lost."""
        beat = 0
        while await trio.to_thread.run_sync(self._beat, beat):
            await trio.sleep(_BEAT_S)
            beat += 1
        scope.cancel()

    def _content(self, beat: int) -> bytes:
        return json.dumps({"token": self._token, "beat": beat, **_this_process()}).encode()

    def _try_acquire(self) -> bool:
        temporary = self.path.with_name(f".lock.{self._token}.tmp")
        try:
            replace_file(temporary, self._content(0))
            try:
                os.link(temporary, self.path)  # fails if the lock exists, also on network file systems
            except FileExistsError:
                self._break_if_stale()
                return False
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror or error}") from None
        return True

    def _break_if_stale(self) -> None:
        holder = _read(self.path)
        if holder is None:
            return  # released meanwhile
        if not self._is_stale(holder):
            return
        # Of several processes that break it at once, one gets each file.
        grave = self.path.with_name(f".lock.{self._token}.stale")
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(grave)
            buried = _read(grave)
            if buried is not None and buried.get("token") != holder.get("token"):
                with contextlib.suppress(OSError):  # another process was faster, and this is its lock
                    os.link(grave, self.path)
            grave.unlink(missing_ok=True)
        self._seen = None

    def _is_stale(self, holder: dict[str, Any]) -> bool:
        me = _this_process()
        if all(holder.get(key) == me[key] for key in ("boot", "namespace")):
            return _start_of(holder.get("pid")) != holder.get("start")
        beat, now = (holder.get("token"), holder.get("beat")), time.monotonic()
        if self._seen is None or self._seen[0] != beat:
            self._seen = (beat, now)
        return now - self._seen[1] > self.stale_after

    def _beat(self, number: int) -> bool:
        """Write the beat. Return False if the lock is another process's."""
        holder = _read(self.path)
        if holder is None or holder.get("token") != self._token:
            return False
        with contextlib.suppress(OSError):  # a full disk: the holder is alive, and may free the lock in time
            replace_file(self.path, self._content(number))
        return True

    def _release(self) -> None:
        holder = _read(self.path)
        if holder is not None and holder.get("token") == self._token:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    """Return what a lock file says: nothing of use if it is damaged; None if there is none."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _this_process() -> dict[str, object]:
    return {
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "start": _start_of(os.getpid()),
        "boot": _first_line("/proc/sys/kernel/random/boot_id"),
        # Containers of one machine have process ids of their own.
        "namespace": _link("/proc/self/ns/pid"),
    }


def _start_of(pid: object) -> str | None:
    """Return when a process was started, which tells it from a later one with its id; None if there is none."""
    stat = _first_line(f"/proc/{pid}/stat") if isinstance(pid, int) else ""
    fields = stat.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else None  # field 22 of proc(5)


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115 - no path, but a name in the kernel
    except OSError:
        return ""
