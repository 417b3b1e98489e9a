"""What the benchmark's commands share: one-line errors, exit codes, and cleaning up after a signal."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from errors import ServerEndedError, UsageError


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print the usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def run_command(main: Callable[[], int]) -> int:
    """Run a command and return its exit code. SIGTERM ends it with a clean-up, like SIGINT."""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        return main()
    except UsageError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except ServerEndedError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
