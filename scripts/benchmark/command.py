"""What the scale's commands have in common: one line for a mistake, exit codes, an end by signal that cleans up."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from faults import Mistake, ServerEndedError


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Mistake(message)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def exit_code(do: Callable[[], int]) -> int:
    signal.signal(signal.SIGTERM, interrupt)
    try:
        return do()
    except Mistake as mistake:
        print(f"bench: {mistake}", file=sys.stderr)
        return 2
    except ServerEndedError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
