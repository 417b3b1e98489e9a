"""What can end a run or a measurement other than a figure."""

from __future__ import annotations


class UsageError(Exception):
    """The command line asks for something impossible. One line, exit code 2."""


class MeasurementError(Exception):
    """A proxy or the load failed, so there is no figure. The run goes on, and its exit code is 1."""


class ServerEndedError(Exception):
    """The stub server has ended, so no figure can be measured any longer; exit code 1."""


class ProxyNotStartedError(MeasurementError):
    """The proxy never listened. It is not started again."""
