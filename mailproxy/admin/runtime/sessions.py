"""``show sess`` and ``shutdown session``: the live sessions."""

from __future__ import annotations

from datetime import datetime

from mailproxy.admin.runtime.call import Call, CommandError
from mailproxy.admin.runtime.durations import parse_cli_duration
from mailproxy.admin.runtime.numbers import parse_session_id
from mailproxy.admin.runtime.show.numbering import backend_id, frontend_id
from mailproxy.config import Config
from mailproxy.proxy.session.summary import SessionFilter, SessionSummary

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


async def show_sess(call: Call, *words: str) -> str:
    """Answer ``show sess [ID|all|server B/S|frontend F|older D]``."""
    wanted, is_detailed = _filter(call, *words)
    sessions = await call.target.list_sessions(wanted)
    if wanted.id and not sessions:
        raise CommandError("Session not found.")
    if is_detailed:
        return "".join(_details(call.target.config, session) for session in sessions)
    return "".join(_line(session) for session in sessions)


async def shutdown_session(call: Call, text: str = "", *_: str) -> str:
    """Answer ``shutdown session ID``."""
    number = parse_session_id(text)
    if not number:
        raise CommandError("Session pointer expected (use 'show sess').")
    if not await call.target.end_session(number):
        raise CommandError("No such session (use 'show sess').")
    return ""


def _filter(call: Call, word: str = "", value: str = "", *_: str) -> tuple[SessionFilter, bool]:
    """Return which sessions are wanted, and whether with all details."""
    match word:
        case "" | "all":
            return SessionFilter(), word == "all"
        case "server":
            backend, server = call.server(value)
            return SessionFilter(backend=backend.name, server=server.name), False
        case "backend":
            return SessionFilter(backend=call.backend(value).name), False
        case "frontend":
            return SessionFilter(frontend=call.frontend(value)), False
        case "older":
            if (seconds := parse_cli_duration(value)) is None:
                raise CommandError("Invalid duration: a number with one of us, ms, s, m, h, d.")
            return SessionFilter(older_than=seconds), False
    number = parse_session_id(word)
    if not number:
        raise CommandError("Session not found.")
    return SessionFilter(id=number), True


def _line(session: SessionSummary) -> str:
    """Return HAProxy's line, without the states of its buffers, and with what is measured here behind it."""
    tail = f" tls={session.tls}" if session.tls else ""
    return (
        f"0x{session.id:x}: proto={_protocol(session)} src={session.client} fe={session.frontend} "
        f"be={session.backend or '<NONE>'} srv={session.server or '<none>'} ts=00 epoch=0 "
        f"age={written_age(session.age)} calls=0 rate=0 cpu=0 lat=0 idle={written_age(session.idle)} "
        f"bytes_in={session.bytes_in} bytes_out={session.bytes_out} dst={session.local or '-'} "
        f"srv_addr={session.server_address or '-'} phase={session.phase} rc={session.retries}{tail}\n"
    )


def _details(config: Config, session: SessionSummary) -> str:
    moment = datetime.fromtimestamp(session.accepted).astimezone()
    accepted = moment.strftime("%d/%b/%Y:%H:%M:%S.%f")
    ages = f"age={written_age(session.age)} idle={written_age(session.idle)}"
    listener = f"listener={session.bind} addr={session.local or '-'}"
    lines = [
        f"0x{session.id:x}: [{accepted}] id={session.id} proto={_protocol(session)} source={session.client}",
        f"  phase={session.phase} {ages} conn_retries={session.retries} tls={session.tls or '-'}",
        f"  frontend={session.frontend} (id={_frontend_id(config, session.frontend)} mode=tcp), {listener}",
        "  backend=<NONE> (id=-1 mode=-)",
        "  server=<NONE> (id=-1)",
        f"  req=(total={session.bytes_in})",
        f"  res=(total={session.bytes_out})",
    ]
    if session.backend:
        lines[3] = f"  backend={session.backend} (id={_backend_id(config, session.backend)} mode=tcp)"
    if session.server:
        number = _server_id(config, session.backend, session.server)
        lines[4] = f"  server={session.server} (id={number}) addr={session.server_address or '-'}"
    return "".join(f"{line}\n" for line in lines)


# A session may outlive its frontend, backend or server for as long as a reload drains it. Their number is -1 then.


def _frontend_id(config: Config, name: str) -> int:
    return frontend_id(list(config.frontends).index(name)) if name in config.frontends else -1


def _backend_id(config: Config, name: str) -> int:
    return backend_id(config, list(config.backends).index(name)) if name in config.backends else -1


def _server_id(config: Config, backend: str, name: str) -> int:
    servers = config.backends[backend].servers if backend in config.backends else ()
    return next((number for number, each in enumerate(servers, 1) if each.name == name), -1)


def _protocol(session: SessionSummary) -> str:
    if not session.local:
        return "unix_stream"
    return "tcpv6" if session.local.startswith("[") else "tcpv4"


def written_age(seconds: float) -> str:
    """Return a duration with its two largest units, as HAProxy's ``human_time`` does: ``1m5s``, ``2d3h``."""
    number = int(seconds)
    if number < _MINUTE:
        return f"{number}s"
    if number < _HOUR:
        return f"{number // _MINUTE}m{number % _MINUTE}s"
    if number < _DAY:
        return f"{number // _HOUR}h{number % _HOUR // _MINUTE}m"
    return f"{number // _DAY}d{number % _DAY // _HOUR}h"
