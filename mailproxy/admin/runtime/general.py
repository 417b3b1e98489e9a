"""Commands about the conversation and the program itself, and those that answer what other proxies are asked."""

from __future__ import annotations

import os
from datetime import datetime

from mailproxy.admin.handover.giver import RefusedError
from mailproxy.admin.runtime.call import Call, CommandError, Level
from mailproxy.admin.runtime.durations import parse_cli_duration
from mailproxy.log.formats import EVENTS_AT
from mailproxy.version import __version__

_TIMEOUT_MAX_S = 86400.0
_EVENTS_MAX = 1000
_SEVERITIES = ("none", "number", "string")


def prompt(call: Call, *_: str) -> str:
    """Answer ``prompt``: switch the prompt on or off."""
    call.client.is_interactive = not call.client.is_interactive
    return ""


def leave(call: Call, *_: str) -> str:
    """Answer ``quit``."""
    call.client.is_done = True
    return ""


def hand_over(call: Call, version: str = "", *_: str) -> str:
    """Answer ``hand-over VERSION``, which another mailproxy sends: its end of a channel comes with the answer."""
    client = call.client
    if client.credentials is None or call.handover is None:
        raise CommandError("hand-over needs a Unix socket.")
    pid, uid = client.credentials
    try:
        client.attachment = call.handover.start(version, pid=pid, uid=uid)
    except RefusedError as error:
        raise CommandError(str(error)) from None
    client.is_interactive = False
    return "ok\n"


def set_timeout(call: Call, name: str = "", value: str = "", *_: str) -> str:
    """Answer ``set timeout cli D``. D is in seconds, or has one of HAProxy's units."""
    if name != "cli":
        raise CommandError("'set timeout' only supports 'cli'.")
    if not value:
        raise CommandError("Expects an integer value.")
    seconds = parse_cli_duration(value)
    if not seconds:
        raise CommandError("Invalid timeout value.")
    call.client.timeout = min(seconds, _TIMEOUT_MAX_S)
    return ""


def set_severity_output(call: Call, value: str = "", *_: str) -> str:
    """Answer ``set severity-output none|number|string``: errors begin with ``[3]:`` or ``[error]:``."""
    if value not in _SEVERITIES:
        raise CommandError("one of 'none', 'number', 'string' is a required argument")
    call.client.severity = value
    return ""


def lower_to_operator(call: Call, *_: str) -> str:
    """Answer ``operator``."""
    call.client.level = min(call.client.level, Level.OPERATOR)
    return ""


def lower_to_user(call: Call, *_: str) -> str:
    """Answer ``user``."""
    call.client.level = Level.USER
    return ""


def show_cli_level(call: Call, *_: str) -> str:
    """Answer ``show cli level``."""
    return f"{call.client.level.name.lower()}\n"


def show_version(_call: Call, *_: str) -> str:
    """Answer ``show version``."""
    return f"{__version__}\n"


def show_env(_call: Call, name: str = "", *_: str) -> str:
    """Answer ``show env [NAME]``."""
    if not name:
        return "".join(f"{key}={value}\n" for key, value in os.environ.items())
    if name not in os.environ:
        raise CommandError("Variable not found")
    return f"{name}={os.environ[name]}\n"


def show_errors(call: Call, name: str = "", *_: str) -> str:
    """Answer ``show errors [PROXY]``: none, since no request or response of a session is parsed here."""
    config = call.target.config
    if name and name not in config.frontends and name not in config.backends:
        raise CommandError("No such proxy.")
    moment = datetime.now().astimezone().strftime("%d/%b/%Y:%H:%M:%S.%f")[:-3]
    return f"Total events captured on [{moment}] : 0\n"


async def show_events(call: Call, *_: str) -> str:
    """Answer ``show events``: the last events of the log, whatever its targets take."""
    recent = await call.target.recent(_EVENTS_MAX)
    line = EVENTS_AT["text"]
    return "".join(f"{line(each.time, each.event, each.message, each.data)}\n" for each in recent.events)


async def clear_counters(call: Call, which: str = "", *_: str) -> str:
    """Answer ``clear counters [all]``. The log counts on."""
    if which == "all" and call.client.level < Level.ADMIN:
        raise CommandError("Permission denied")
    await call.target.clear_maxima()
    if which == "all":
        call.history.clear()
    else:
        call.history.clear_highest()
    return ""
