"""The tables ``[log]`` and ``[[log.targets]]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import frozen

from mailproxy.config.model.setting import setting
from mailproxy.config.path import ROOT_PATH, ConfigPath
from mailproxy.config.values import LogTarget, SyslogTag

Facility = Literal[
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
]  # fmt: skip

_TARGET = "stderr, stdout, a path, syslog:/dev/log or syslog:HOST:514"


@frozen(kw_only=True)
class _LogKeys:
    """The keys that ``[log]`` and ``[[log.targets]]`` share."""

    level: Literal["debug", "info", "warning", "error"] = setting(
        "the lowest level of events that are logged", "info"
    )
    format: Literal["text", "json", "tcplog"] = setting(
        "text for people, json, or HAProxy's tcplog line", "text"
    )
    to: LogTarget = setting(_TARGET, LogTarget("stderr"))
    facility: Facility = setting("the syslog facility; for syslog only", "local0")
    tag: SyslogTag = setting("the program name in syslog; for syslog only", "mailproxy")


@frozen(kw_only=True)
class LogOutput(_LogKeys):
    """One of several targets of the log, with a format and a level of its own."""

    to: LogTarget = setting(_TARGET)


@frozen(kw_only=True)
class Log(_LogKeys):
    """Where log lines go, and their format.

    For several targets, give `[[log.targets]]` and no other key of `[log]`.
    """

    targets: tuple[LogOutput, ...] = setting("several targets at once", ())

    @property
    def outputs(self) -> Mapping[ConfigPath, LogOutput]:
        """The targets by the paths of their tables: those of ``[[log.targets]]``, or the one of ``[log]``."""
        path = ROOT_PATH / "log"
        if self.targets:
            return {path / "targets" / index: target for index, target in enumerate(self.targets)}
        own = LogOutput(
            to=self.to, format=self.format, level=self.level, facility=self.facility, tag=self.tag
        )
        return {path: own}
