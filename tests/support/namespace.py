"""Run programs in a network namespace of their own, with the routes, ports and IPv6 that a test needs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio

_ROOT = Path(__file__).parents[2]
_TIMEOUT_S = 60.0


async def run_in_namespace(setup: str, program: str, *arguments: str) -> list[str]:
    """Run shell commands, then a Python program, and return the lines that it prints.

    The loopback interface is up. Any output on standard error fails the test. The test is skipped where namespaces are
    impossible.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root: a network namespace")
    script = f'ip link set lo up && {setup or "true"} && exec "$0" -c "$@"'
    command = ["unshare", "--net", "sh", "-c", script, sys.executable, program, *arguments]
    with trio.fail_after(_TIMEOUT_S):
        result = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False, cwd=_ROOT
        )
    error = result.stderr.decode()
    if result.returncode and "unshare" in error:
        pytest.skip(f"network namespaces are impossible here: {error.strip()}")
    assert (result.returncode, error) == (0, ""), f"exit code {result.returncode}: {error}"
    return result.stdout.decode().splitlines()
