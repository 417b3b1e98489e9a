"""``show info``: the figures of the process."""

from __future__ import annotations

import json
import os
import resource
import socket
import time
from pathlib import Path

import trio

from mailproxy.admin.history import PROCESS
from mailproxy.admin.runtime.call import Call
from mailproxy.admin.runtime.show.formats import TypedValue, Value
from mailproxy.metrics.process import FAILED_LOOK_UPS, LINES_LOST
from mailproxy.metrics.process import PROCESS as PROCESS_BLOCK
from mailproxy.version import __version__

# Programs that read the socket, such as haproxyadmin, accept no other name. "description" has ours.
# fmt: off
_FIELDS = (
    (0, "Name", "POS", "str"), (1, "Version", "POS", "str"), (2, "Release_date", "POS", "str"),
    (3, "Nbthread", "CGS", "u32"), (4, "Nbproc", "CGS", "u32"), (5, "Process_num", "KGP", "u32"),
    (6, "Pid", "SGP", "u32"), (7, "Uptime", "MDP", "str"), (8, "Uptime_sec", "MDP", "u32"),
    (9, "Memmax_MB", "CLP", "u32"), (10, "PoolAlloc_MB", "MGP", "u32"), (11, "PoolUsed_MB", "MGP", "u32"),
    (12, "PoolFailed", "MCP", "u32"), (13, "Ulimit-n", "CLP", "u32"), (14, "Maxsock", "CLP", "u32"),
    (15, "Maxconn", "CLP", "u32"), (16, "Hard_maxconn", "CLP", "u32"), (17, "CurrConns", "MGP", "u32"),
    (18, "CumConns", "MCP", "u32"), (19, "CumReq", "MCP", "u32"), (20, "MaxSslConns", "MMP", "u32"),
    (21, "CurrSslConns", "MGP", "u32"), (22, "CumSslConns", "MCP", "u32"), (23, "Maxpipes", "CLP", "u32"),
    (24, "PipesUsed", "MGP", "u32"), (25, "PipesFree", "MGP", "u32"), (26, "ConnRate", "MRP", "u32"),
    (27, "ConnRateLimit", "CLP", "u32"), (28, "MaxConnRate", "MMP", "u32"), (29, "SessRate", "MRP", "u32"),
    (30, "SessRateLimit", "CLP", "u32"), (31, "MaxSessRate", "MRP", "u32"), (32, "SslRate", "MRP", "u32"),
    (33, "SslRateLimit", "CLP", "u32"), (34, "MaxSslRate", "MMP", "u32"),
    (35, "SslFrontendKeyRate", "MGP", "u32"), (36, "SslFrontendMaxKeyRate", "MMP", "u32"),
    (37, "SslFrontendSessionReuse_pct", "MGP", "u32"), (38, "SslBackendKeyRate", "MRP", "u32"),
    (39, "SslBackendMaxKeyRate", "MMP", "u32"), (40, "SslCacheLookups", "MCP", "u32"),
    (41, "SslCacheMisses", "MCP", "u32"), (42, "CompressBpsIn", "MRP", "u32"),
    (43, "CompressBpsOut", "MRP", "u32"), (44, "CompressBpsRateLim", "CLP", "u32"),
    (47, "Tasks", "MGP", "u32"), (48, "Run_queue", "MGP", "u32"), (49, "Idle_pct", "MaP", "u32"),
    (50, "node", "COS", "str"), (51, "description", "COS", "str"), (52, "Stopping", "MGP", "u32"),
    (53, "Jobs", "MGP", "u32"), (54, "Unstoppable Jobs", "MGP", "u32"), (55, "Listeners", "MGP", "u32"),
    (56, "ActivePeers", "MGP", "u32"), (57, "ConnectedPeers", "MGP", "u32"),
    (58, "DroppedLogs", "MGP", "u32"), (59, "BusyPolling", "MGP", "u32"),
    (60, "FailedResolutions", "MGP", "u32"), (61, "TotalBytesOut", "MGP", "u64"),
    (62, "TotalSplicdedBytesOut", "MGP", "u64"), (63, "BytesOutRate", "MRP", "u64"),
    (64, "DebugCommandsIssued", "MGP", "u32"), (65, "CumRecvLogs", "MCP", "u32"),
    (66, "Build info", "POS", "str"), (67, "Memmax_bytes", "CLP", "u32"),
    (68, "PoolAlloc_bytes", "MGP", "u64"), (69, "PoolUsed_bytes", "MGP", "u64"),
    (70, "Start_time_sec", "MDP", "u32"), (71, "Tainted", "SGP", "str"),
)
# fmt: on
"""HAProxy's fields: position, name, tags and type."""

_NAME = "HAProxy"


async def show_info(call: Call, *words: str) -> str:
    """Answer ``show info [typed|json]``. What does not exist here is 0, since programs ask for HAProxy's fields."""
    await call.target.refresh()
    call.history.look()
    figures = info_figures(call)
    values = [
        TypedValue(position, name, tags, kind, figures.get(name, 0)) for position, name, tags, kind in _FIELDS
    ]
    if "json" in words:
        return json.dumps([value.json() for value in values], separators=(",", ":")) + "\n"
    if "typed" in words:
        return "".join(f"{value.typed()}\n" for value in values)
    return "".join(f"{value.name}: {value.value}\n" for value in values)


def info_figures(call: Call) -> dict[str, Value]:
    """Return the fields that are not 0."""
    target, trend = call.target, call.history.trend(PROCESS)
    uptime = int(call.history.clock() - call.history.started_at)
    total = target.figures.total()
    process = target.figures.sums.get((PROCESS_BLOCK,))
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    listeners = sum(len(frontend.bind) for frontend in target.config.frontends.values())
    return {
        "Name": _NAME, "Version": __version__, "Release_date": _installed_on(), "Build info": f"mailproxy {__version__}",
        "Nbthread": 1, "Nbproc": target.workers, "Process_num": 1, "Pid": os.getpid(),
        "Uptime": _written_uptime(uptime), "Uptime_sec": uptime, "Start_time_sec": int(time.time()) - uptime,
        "Ulimit-n": descriptors, "Maxsock": descriptors, "Maxconn": target.max_sessions, "Hard_maxconn": target.max_sessions,
        "CurrConns": target.sessions, "CumConns": total.sessions, "CumReq": total.sessions,
        "CumSslConns": total.tls_sessions, "DroppedLogs": process[LINES_LOST] if process is not None else 0,
        "FailedResolutions": sum(cells[0] for _, cells in target.figures.blocks(FAILED_LOOK_UPS)),
        "ConnRate": trend.rate, "MaxConnRate": trend.most_rate, "SessRate": trend.rate, "MaxSessRate": trend.most_rate,
        "Tasks": trio.lowlevel.current_statistics().tasks_living, "node": socket.gethostname(),
        "description": f"mailproxy {__version__}", "Stopping": int(target.is_stopping),
        "Jobs": target.sessions + listeners, "Listeners": listeners,
        "TotalBytesOut": total.bytes_out,
    }  # fmt: skip


def _installed_on() -> str:
    """Return the date of the program's files; HAProxy has that of its release here."""
    return time.strftime("%Y/%m/%d", time.gmtime(Path(__file__).stat().st_mtime))


def _written_uptime(seconds: int) -> str:
    """Return HAProxy's ``0d 0h00m02s``."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}d {hours}h{minutes:02}m{seconds:02}s"
