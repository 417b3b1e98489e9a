"""Commands that change frontends, and the limits of frontends and of the process."""

from __future__ import annotations

from mailproxy.admin.runtime.call import Call, CommandError
from mailproxy.admin.runtime.numbers import parse_number
from mailproxy.proxy.frontend import FrontendState

_LIMIT_MAX = 1 << 20


async def enable_frontend(call: Call, name: str = "", *_: str) -> str:
    """Answer ``enable frontend F``: resume it."""
    state = call.target.frontend(call.frontend(name)).state
    if state is FrontendState.STOPPED:
        raise CommandError("Frontend was previously shut down, cannot enable.")
    if state is FrontendState.OPEN:
        raise CommandError("All sockets are already enabled.")
    await call.target.set_frontend_state(name, FrontendState.OPEN)
    return ""


async def disable_frontend(call: Call, name: str = "", *_: str) -> str:
    """Answer ``disable frontend F``: refuse connections until it is enabled. Sessions go on."""
    state = call.target.frontend(call.frontend(name)).state
    if state is FrontendState.STOPPED:
        raise CommandError("Frontend was previously shut down, cannot disable.")
    if state is FrontendState.PAUSED:
        raise CommandError("All sockets are already disabled.")
    await call.target.set_frontend_state(name, FrontendState.PAUSED)
    return ""


async def shutdown_frontend(call: Call, name: str = "", *_: str) -> str:
    """Answer ``shutdown frontend F``: refuse connections until the proxy is started again. Sessions go on."""
    if call.target.frontend(call.frontend(name)).state is FrontendState.STOPPED:
        raise CommandError("Frontend was already shut down.")
    await call.target.set_frontend_state(name, FrontendState.STOPPED)
    return ""


async def set_maxconn_frontend(call: Call, name: str = "", number: str = "", *_: str) -> str:
    """Answer ``set maxconn frontend F N``."""
    call.frontend(name)
    await call.target.set_frontend_limit(name, _limit(number, "Integer value expected."))
    return ""


async def set_maxconn_global(call: Call, number: str = "", *_: str) -> str:
    """Answer ``set maxconn global N``; 0 is the limit of the configuration."""
    await call.target.set_process_limit(_limit(number, "Expects an integer value."))
    return ""


def _limit(text: str, missing: str) -> int:
    number = parse_number(text)
    if number is None:
        raise CommandError(missing)
    if not 0 <= number <= _LIMIT_MAX:
        raise CommandError("Value out of range.")
    return number
