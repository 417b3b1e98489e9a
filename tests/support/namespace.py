"""Programs that run in a network namespace of their own, where routes, ports and IPv6 may be as a test needs them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio

_ROOT = Path(__file__).parents[2]
_PATIENCE_S = 60.0


async def run_in_namespace(setup: str, program: str, *arguments: str) -> list[str]:
    """Run shell commands, then a Python program; returns the lines that it prints. Skips where namespaces are impossible.

    The loopback interface is up. Whatever the program writes to standard error fails the test.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root: a network namespace")
    script = f'ip link set lo up && {setup or "true"} && exec "$0" -c "$@"'
    command = ["unshare", "--net", "sh", "-c", script, sys.executable, program, *arguments]
    with trio.fail_after(_PATIENCE_S):
        result = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False, cwd=_ROOT
        )
    error = result.stderr.decode()
    if result.returncode and "unshare" in error:
        pytest.skip(f"network namespaces are impossible here: {error.strip()}")
    assert (result.returncode, error) == (0, ""), f"exit code {result.returncode}: {error}"
    return result.stdout.decode().splitlines()
