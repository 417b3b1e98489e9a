"""The lock of a storage folder, over processes and machines."""

# ruff: noqa: ASYNC240 - the files are local and small

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from mailproxy.acme import lock as lock_module
from mailproxy.acme.errors import AcmeError
from mailproxy.acme.lock import LockLostError, StorageLock
from mailproxy.acme.storage import StorageError
from tests.support.timeouts import TIMEOUT_S, wait_until

HOLDER = """
import sys, trio
from pathlib import Path
from mailproxy.acme.lock import StorageLock

async def job():
    print("held", flush=True)
    await trio.sleep(1000)

trio.run(StorageLock(Path(sys.argv[1])).run, job)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "_POLL_S", 0.02)
    monkeypatch.setattr(lock_module, "_BEAT_S", 0.05)


async def test_jobs_run_one_after_the_other(path: Path) -> None:
    running, most = 0, 0

    async def job() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(0.02)
        running -= 1

    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(StorageLock(path).run, job)
    assert most == 1
    assert not path.exists()


async def test_result_and_error_of_job_come_back(path: Path) -> None:
    async def good() -> int:
        await trio.lowlevel.checkpoint()
        return 7

    async def bad() -> int:
        await trio.lowlevel.checkpoint()
        raise AcmeError("no")

    assert await StorageLock(path).run(good) == 7
    with pytest.raises(AcmeError, match="no"):
        await StorageLock(path).run(bad)
    assert not path.exists()


async def test_lock_of_killed_process_is_broken(path: Path) -> None:
    with subprocess.Popen(  # noqa: ASYNC220 - it starts at once
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with trio.move_on_after(0.2) as waiting:
            await StorageLock(path).run(trio.sleep_forever)
        assert waiting.cancelled_caught  # the holder lives
        holder.send_signal(signal.SIGKILL)
    with trio.fail_after(TIMEOUT_S):
        await StorageLock(path).run(trio.lowlevel.checkpoint)
    assert list(path.parent.iterdir()) == []


async def test_silent_lock_of_other_machine_is_broken_after_its_time(path: Path) -> None:
    path.write_text(json.dumps({"token": "x", "beat": 3, "boot": "another", "namespace": "pid:[1]"}))
    with trio.fail_after(TIMEOUT_S):
        await StorageLock(path, stale_after=0.2).run(trio.lowlevel.checkpoint)


async def test_beating_lock_of_other_machine_is_respected(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its beats go on, so it is not stale after any time."""
    beats = itertools.count()

    def read(_: Path) -> dict[str, object]:
        return {"token": "x", "beat": next(beats), "boot": "another", "namespace": "pid:[1]"}

    monkeypatch.setattr(lock_module, "_read", read)
    path.write_text("{}")
    has_lock = False

    async def job() -> None:
        nonlocal has_lock
        has_lock = True
        await trio.lowlevel.checkpoint()

    with trio.move_on_after(1.0):
        await StorageLock(path, stale_after=0.0).run(job)
    assert not has_lock
    assert next(beats) > 5


async def test_damaged_lock_is_broken(path: Path) -> None:
    path.write_text("{")
    with trio.fail_after(TIMEOUT_S):
        await StorageLock(path, stale_after=0.2).run(trio.lowlevel.checkpoint)


async def test_lost_lock_cancels_the_job(path: Path) -> None:
    async def lose() -> None:
        path.write_text(json.dumps({"token": "other"}))
        await trio.sleep_forever()

    with trio.fail_after(TIMEOUT_S), pytest.raises(LockLostError):
        await StorageLock(path).run(lose)
    assert json.loads(path.read_text()) == {"token": "other"}  # it is not this process's to remove


async def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        await StorageLock(tmp_path / "none" / "lock").run(trio.lowlevel.checkpoint)


async def test_process_that_is_waited_for_is_named_once(path: Path) -> None:
    named: list[str] = []
    path.write_text(json.dumps({"token": "x", "pid": 7, "host": "other", "boot": "x"}))
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(StorageLock(path, on_wait=named.append).run, trio.lowlevel.checkpoint)
            await wait_until(lambda: named)
            await trio.sleep(0.1)
            path.unlink()
    assert named == ["process 7 on other"]
