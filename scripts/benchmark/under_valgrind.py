"""Runs mailproxy under valgrind, which keeps the signal SIGRTMAX for itself.

mailproxy takes another signal in its place. It is for handing sockets over, which does not happen here.
"""

from __future__ import annotations

import runpy
import signal
import sys

setattr(signal, "SIGRTMAX", signal.SIGRTMIN)  # noqa: B010 - mypy knows that it is constant
sys.argv[0] = "mailproxy"
runpy.run_module("mailproxy", run_name="__main__", alter_sys=True)
