"""``drain`` and ``shutdown sessions``: end the sessions of a server or a frontend, not all at once."""

from __future__ import annotations

from mailproxy.admin.runtime.call import Call, CommandError
from mailproxy.admin.runtime.durations import parse_cli_duration
from mailproxy.proxy.drain import DrainTarget
from mailproxy.proxy.frontend import FrontendState


async def drain_server(call: Call, name: str = "", *words: str) -> str:
    """Answer ``drain server B/S [within D]``: no new sessions, and those that there are end within D."""
    backend, server = call.server(name)
    await call.target.drains.drain_server(backend, server, _seconds(call, *words))
    return ""


async def drain_frontend(call: Call, name: str = "", *words: str) -> str:
    """Answer ``drain frontend F [within D]``: refuse connections, and end the sessions within D."""
    seconds = _seconds(call, *words)
    if call.target.frontend(call.frontend(name)).state is FrontendState.OPEN:
        await call.target.set_frontend_state(name, FrontendState.PAUSED)
    await call.target.drains.drain_frontend(name, seconds)
    return ""


async def shutdown_sessions(call: Call, name: str = "", *_: str) -> str:
    """Answer ``shutdown sessions server B/S``: end them at ``process.drain_rate``, within ``drain_timeout``."""
    backend, server = call.server(name)
    target = DrainTarget(backend=backend.name, server=server.name)
    await call.target.drains.kill(target, call.target.config.process.drain_timeout)
    return ""


def show_drain(call: Call, *_: str) -> str:
    """Answer ``show drain``: a line for each drain that has not ended."""
    return "".join(f"{status}\n" for status in call.target.drains.statuses())


async def cancel_drain_server(call: Call, name: str = "", *_: str) -> str:
    """Answer ``cancel drain server B/S``: its sessions go on. Its state stays."""
    backend, server = call.server(name)
    return await _cancel(call, DrainTarget(backend=backend.name, server=server.name))


async def cancel_drain_frontend(call: Call, name: str = "", *_: str) -> str:
    """Answer ``cancel drain frontend F``: its sessions go on. It stays paused."""
    return await _cancel(call, DrainTarget(frontend=call.frontend(name)))


async def _cancel(call: Call, target: DrainTarget) -> str:
    if not await call.target.drains.cancel(target):
        raise CommandError("No such drain (use 'show drain').")
    return ""


def _seconds(call: Call, word: str = "", value: str = "", *_: str) -> float:
    """Return the duration behind ``within``, or ``process.drain_timeout`` without it."""
    if not word:
        return call.target.config.process.drain_timeout
    seconds = parse_cli_duration(value) if word == "within" else None
    if seconds is None:
        raise CommandError("Expects 'within' and a duration: a number with one of us, ms, s, m, h, d.")
    return seconds
