"""``show info``: the figures of the process."""

from __future__ import annotations

import json
import os
import resource
import socket
import time
from collections.abc import Iterator

import trio

from mailproxy.admin.history import PROCESS
from mailproxy.admin.runtime.call import Call
from mailproxy.admin.runtime.formats import TypedValue, Value
from mailproxy.version import __version__

_NAME = "mailproxy"


async def show_info(call: Call, *words: str) -> str:
    """Answer ``show info [typed|json]``."""
    await call.target.refresh()
    call.history.look()
    values = [
        TypedValue(position, name, tags, kind, value)
        for position, (name, tags, kind, value) in enumerate(_figures(call))
    ]
    if "json" in words:
        return json.dumps([value.json() for value in values], separators=(",", ":")) + "\n"
    if "typed" in words:
        return "".join(f"{value.typed()}\n" for value in values)
    return "".join(f"{value.name}: {value.value}\n" for value in values)


def _figures(call: Call) -> Iterator[tuple[str, str, str, Value]]:
    """Yield name, tags, type and value of each field, in HAProxy's order and with its names."""
    target, trend = call.target, call.history.trend(PROCESS)
    uptime = int(call.history.clock() - call.history.started_at)
    traffics = [target.frontend(name).traffic for name in target.config.frontends]
    connections = trend.started
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    listeners = sum(len(frontend.bind) for frontend in target.config.frontends.values())
    yield "Name", "POS", "str", _NAME
    yield "Version", "POS", "str", __version__
    yield "Nbthread", "CGS", "u32", 1
    yield "Nbproc", "CGS", "u32", target.workers
    yield "Process_num", "KGP", "u32", 1
    yield "Pid", "SGP", "u32", os.getpid()
    yield "Uptime", "MDP", "str", _written_uptime(uptime)
    yield "Uptime_sec", "MDP", "u32", uptime
    yield "Ulimit-n", "CLP", "u32", descriptors
    yield "Maxsock", "CLP", "u32", descriptors
    yield "Maxconn", "CLP", "u32", target.max_sessions
    yield "Hard_maxconn", "CLP", "u32", target.max_sessions
    yield "CurrConns", "MGP", "u32", target.sessions
    yield "CumConns", "MCP", "u32", connections
    yield "CumReq", "MCP", "u32", connections
    yield "CumSslConns", "MCP", "u32", sum(traffic.tls_sessions for traffic in traffics)
    yield "ConnRate", "MRP", "u32", trend.rate
    yield "MaxConnRate", "MMP", "u32", trend.most_rate
    yield "SessRate", "MRP", "u32", trend.rate
    yield "MaxSessRate", "MRP", "u32", trend.most_rate
    yield "Tasks", "MGP", "u32", trio.lowlevel.current_statistics().tasks_living
    yield "node", "COS", "str", socket.gethostname()
    yield "Stopping", "MGP", "u32", int(target.is_stopping)
    yield "Jobs", "MGP", "u32", target.sessions + listeners
    yield "Listeners", "MGP", "u32", listeners
    yield "TotalBytesOut", "MGP", "u64", sum(traffic.bytes_out for traffic in traffics)
    yield "Start_time_sec", "MDP", "u32", int(time.time()) - uptime


def _written_uptime(seconds: int) -> str:
    """Return HAProxy's ``0d 0h00m02s``."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}d {hours}h{minutes:02}m{seconds:02}s"
