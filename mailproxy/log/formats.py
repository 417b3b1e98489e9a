"""Writing sessions and events as lines: text for eyes, JSON for machines, HAProxy's tcplog for what parses that.

tcplog is ``%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq`` (HAProxy configuration manual,
section 8.2.2), measured against 2.6: the process's and the frontend's counts include the session, those of backend and
server do not any more; IPv6 addresses have no brackets; ``~`` marks a bind that ends TLS; a session that ends in its
PROXY header or TLS handshake has a line of its own form, ``client [date] frontend/bind: message``, and behind the message
the reason in parentheses where it is known, which HAProxy does not say.

A session's line has the date of its accepting, an event's that of its writing. Syslog writes its own date, so ``text`` has
none there, nor have the events of ``tcplog``.
"""

from __future__ import annotations

import encodings.unicode_escape  # noqa: F401 - looked for at its first use, when this process may have lost its rights
import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from mailproxy.address import join, unmapped
from mailproxy.log.events import Event
from mailproxy.log.record import SessionRecord

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

SessionLine = Callable[[SessionRecord], str]
EventLine = Callable[[Event, str, Mapping[str, object]], str]


class _Seconds:
    """The date of a second, formatted once: a busy proxy writes many lines with the same one."""

    def __init__(self, write: Callable[[int], str]) -> None:
        self._write = write
        self._second = -1
        self._text = ""

    def __call__(self, moment: float) -> str:
        second = int(moment)
        if second != self._second:
            self._second, self._text = second, self._write(second)
        return self._text


def _haproxy_date(second: int) -> str:
    # HAProxy writes English months whatever the locale is, so strftime would not do
    t = time.localtime(second)
    return f"{t.tm_mday:02}/{_MONTHS[t.tm_mon - 1]}/{t.tm_year}:{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}"


def _syslog_date(second: int) -> str:
    # RFC 3164 section 4.1.2: the day is padded with a space
    t = time.localtime(second)
    return f"{_MONTHS[t.tm_mon - 1]} {t.tm_mday:2} {t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}"


def _local_date(second: int) -> str:
    """Local time with its offset (RFC 3339); ``{}`` is where milliseconds go."""
    t = time.localtime(second)
    offset = time.strftime("%z", t)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', t)}.{{:03}}{offset[:3]}:{offset[3:]}"


haproxy_date = _Seconds(_haproxy_date)
syslog_date = _Seconds(_syslog_date)
_text_date = _Seconds(_local_date)
_iso_date = _Seconds(lambda second: datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S"))


def _ms(moment: float) -> int:
    return int(moment * 1000) % 1000


def tcplog_session(r: SessionRecord) -> str:
    """One line in HAProxy's form."""
    assert r.end is not None  # noqa: S101 - lines are written at the end
    client, accepted = r.client, r.accepted
    if client.startswith("["):  # HAProxy writes IPv6 without brackets
        client = client.replace("[", "").replace("]", "")
    head = f"{client} [{haproxy_date(accepted)}.{int(accepted * 1000) % 1000:03}]"
    if r.end.has_message:
        detail = f" ({_one_line(r.detail)})" if r.detail else ""
        return f"{head} {r.frontend}/{r.bind}: {r.end.state}{detail}"
    return (
        f"{head} {r.frontend}{'~' if r.tls else ''} {r.backend or r.frontend}/{r.server or '<NOSRV>'} "
        f"{r.queue_ms}/{r.connect_ms}/{r.total_ms} {r.bytes_out} {r.end.state} "
        f"{r.process_sessions}/{r.frontend_sessions}/{r.backend_sessions}/{r.server_sessions}/"
        f"{'+' if r.redispatched else ''}{r.retries} {r.server_queue}/{r.backend_queue}"
    )


def tcplog_event(event: Event, message: str, data: Mapping[str, object]) -> str:
    """The sentence with a date like that of sessions."""
    now = time.time()
    return f"[{haproxy_date(now)}.{_ms(now):03}] {sentence(event, message, data)}"


def sentence(_event: Event, message: str, _data: Mapping[str, object]) -> str:
    """The bare sentence, as HAProxy writes its notices to syslog."""
    return _one_line(message)


def json_session(r: SessionRecord) -> str:
    """One JSON object."""
    assert r.end is not None  # noqa: S101 - lines are written at the end
    return _json(
        {
            "time": _iso(r.accepted), "event": "session", "level": "info", "frontend": r.frontend, "bind": r.bind,
            "backend": r.backend or None, "server": r.server or None, "client": _plain(r.client), "peer": _plain(r.peer) or None,
            "server_address": r.server_address or None, "queue_ms": r.queue_ms, "connect_ms": r.connect_ms,
            "total_ms": r.total_ms, "bytes_in": r.bytes_in, "bytes_out": r.bytes_out, "end": r.end.name,
            "by": r.end.by.value, "phase": r.end.phase.value,
            "state": None if r.end.has_message else r.end.state, "detail": r.detail or None,
            "retries": r.retries, "redispatched": r.redispatched, "tls_version": r.tls_version,
            "tls_cipher": r.tls_cipher, "sni": r.sni, "alpn": r.alpn, "client_cn": r.client_cn,
            "close_notify": r.close_notify,
            "server_close_notify": r.server_close_notify, "id": f"{r.id:x}",
        }
    )  # fmt: skip


def json_event(event: Event, message: str, data: Mapping[str, object]) -> str:
    """One JSON object."""
    return _json(
        {"time": _iso(time.time()), "event": event.name, "level": event.level, "message": message, **data}
    )


def text_session(r: SessionRecord) -> str:
    """One line for eyes."""
    return f"{_text_date(r.accepted).format(_ms(r.accepted))} {undated_session(r)}"


def undated_session(r: SessionRecord) -> str:
    """One line for eyes, less its date."""
    assert r.end is not None  # noqa: S101 - lines are written at the end
    place = f" -> {r.backend}/{r.server}" if r.server else f" -> {r.backend}" if r.backend else ""
    tls = f" {r.tls_version} {r.tls_cipher}" if r.tls_version else ""
    name = f" for {_quote(r.sni)}" if r.sni else ""
    via = f" by {_plain(r.peer)}" if r.peer else ""
    who = f" as {_quote(r.client_cn)}" if r.client_cn else ""
    detail = f" ({r.detail})" if r.detail else ""
    return _one_line(
        f"{r.frontend}{place} {_plain(r.client)}{via}{tls}{name}{who} {r.end.name}{detail}"
        f" after {r.total_ms / 1000:.3f}s, {r.bytes_in} bytes from the client, {r.bytes_out} from the server"
    )


def text_event(event: Event, message: str, data: Mapping[str, object]) -> str:
    """One line for eyes."""
    now = time.time()
    return f"{_text_date(now).format(_ms(now))} {undated_event(event, message, data)}"


def undated_event(event: Event, message: str, _data: Mapping[str, object]) -> str:
    """One line for eyes, less its date."""
    return _one_line(f"{event.level}: {message}")


FORMATS: Mapping[str, tuple[SessionLine, EventLine]] = {
    "text": (text_session, text_event),
    "json": (json_session, json_event),
    "tcplog": (tcplog_session, tcplog_event),
}
SYSLOG_FORMATS: Mapping[str, tuple[SessionLine, EventLine]] = {
    "text": (undated_session, undated_event),
    "json": (json_session, json_event),
    "tcplog": (tcplog_session, sentence),
}


def _iso(moment: float) -> str:
    return f"{_iso_date(moment)}.{_ms(moment):03}Z"


def _json(data: Mapping[str, object]) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def _one_line(text: str) -> str:
    """Peers have a say in some words (a server name may hold anything): nobody writes a second line, or to a terminal."""
    return text if text.isprintable() else _escape(text)


def _quote(text: str) -> str:
    """What a client chose, so that it cannot pass for another part of the line."""
    text = _escape(text)
    return text if re.fullmatch(r"[A-Za-z0-9._@*:-]+", text) else '"' + text.replace('"', "'") + '"'


def _escape(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")


def _plain(client: str) -> str:
    """An IPv4 client of a bind for both families, as IPv4 (RFC 4291 section 2.5.5.2); HAProxy leaves it mapped."""
    if not client.startswith("[::ffff:"):
        return client
    host, _, port = client[1:].rpartition("]:")  # a PROXY header's is not always written with dots
    return join(unmapped(host), int(port))
