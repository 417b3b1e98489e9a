"""Log targets: ``log`` lines as ``[log]``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import get_args

from mailproxy.config.model import Facility
from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table
from mailproxy.importers.haproxy.lexer import Line
from mailproxy.importers.haproxy.proxies import Proxy
from mailproxy.importers.haproxy.settings import Settings
from mailproxy.importers.place import VARIABLE_START, Origin

_LEVELS = {
    "emerg": "error", "alert": "error", "crit": "error", "err": "error", "warning": "warning", "notice": "warning", "info": "info", "debug": "debug",
}  # fmt: skip
_FACILITIES = get_args(Facility)
_STREAMS = {"stdout": "stdout", "stderr": "stderr", "fd@1": "stdout", "fd@2": "stderr"}


def translate_log(proxies: Sequence[Proxy], settings: Settings, context: Context) -> None:
    """Translate the log targets of the global section and of proxies."""
    lines = list(settings.log)
    known = {tuple(line.arguments) for line in lines}
    uses_global = False
    for proxy in proxies:
        for line in proxy.all("log"):
            if line.arguments[:1] == ["global"]:
                uses_global = True
            elif (words := tuple(line.arguments)) not in known:
                known.add(words)
                lines.append(line)
    formats = [proxy.option(name) for proxy in proxies for name in ("tcplog", "httplog", "httpslog")]
    if not lines:
        option = next(filter(None, formats), None)
        if option is not None:
            context.draft.table("log").set("format", "tcplog", Origin(option.place))
        return
    is_tcplog = any(formats)
    if settings.log and not uses_global and len(lines) == len(settings.log) and proxies:
        context.report.note(
            settings.log[0].place,
            "log",
            "no TCP section has log global, so HAProxy logs no session: mailproxy logs them",
        )
    rows: dict[str, Table] = {}
    for line in lines:
        _add_target(rows, line, settings, is_tcplog=is_tcplog, context=context)
    log = context.draft.table("log")
    targets = list(rows.values())
    if len(targets) == 1:
        log.keys = targets[0].keys
        log.place, log.comments = targets[0].place, targets[0].comments
    elif targets:
        log.rows("targets").extend(targets)


def _add_target(
    rows: dict[str, Table], line: Line, settings: Settings, *, is_tcplog: bool, context: Context
) -> None:
    """Add a target to the rows, which are by target."""
    words = line.arguments
    context.settle(line.place)
    target = _target(words[0]) if words else None
    if target is None:
        context.report.loss(
            line.place,
            "log",
            f"{words[0] if words else 'nothing'} is no target here: syslog over UDP or its socket, stdout or stderr",
        )
        return
    if target in rows:
        context.report.note(
            line.place, "log", "is the same target once more, which gets all lines already: left out"
        )
        return
    row = Table(place=line.place, comments=line.take_comments())
    row.set("to", target, Origin(line.place))
    rest = _without_options(words[1:])
    if target.startswith("syslog:"):
        if rest and rest[0] in _FACILITIES:
            row.set("facility", rest[0], Origin(line.place))
        elif rest and VARIABLE_START not in rest[0]:
            context.report.loss(line.place, "log", f"{rest[0]} is no facility here: local0")
        if settings.log_tag is not None and settings.log_tag.arguments:
            row.set("tag", settings.log_tag.arguments[0], Origin(settings.log_tag.place))
    if len(rest) > 1 and rest[1] in _LEVELS:
        row.set("level", _LEVELS[rest[1]], Origin(line.place))
    if is_tcplog:
        row.set("format", "tcplog", Origin(line.place))
    rows[target] = row


def _target(text: str) -> str | None:
    if text in _STREAMS:
        return _STREAMS[text]
    text = re.sub(r"^(udp|udp4|udp6|ipv4|ipv6|unix)@", "", text)
    if text.startswith("/"):
        return "syslog:/dev/log" if text.endswith("/dev/log") else f"syslog:{text}"
    if "@" in text or not text:
        return None
    if text.startswith(VARIABLE_START):
        return f"syslog:{text}"
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal():
        host, port = text.rstrip(":"), "514"
    host = host.strip("[]") or "127.0.0.1"
    return f"syslog:[{host}]:{port}" if ":" in host else f"syslog:{host}:{port}"


def _without_options(words: Sequence[str]) -> list[str]:
    """Return facility and levels, without ``len``, ``format``, ``sample`` and ``profile``."""
    rest, position = [], 0
    while position < len(words):
        if words[position] in ("len", "format", "sample", "profile"):
            position += 2
        else:
            rest.append(words[position])
            position += 1
    return rest
