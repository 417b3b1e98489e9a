"""Sessions and events as lines: ``text`` for people, ``json`` for programs, ``tcplog`` as in HAProxy.

tcplog is ``%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq`` (HAProxy configuration
manual, section 8.2.2). These details are as measured with HAProxy 2.6:

- The counts of process and frontend include the session, those of backend and server do not.
- IPv6 addresses have no brackets.
- ``~`` marks a bind that terminates TLS.
- A session that ends in its PROXY header or TLS handshake has another form: ``client [date] frontend/bind:
  message``. Unlike HAProxy, mailproxy adds the cause in parentheses if it is known.

A session's line has the date of accept, an event's line the date of writing. Syslog adds its own date, so
``text`` and the events of ``tcplog`` have none there.
"""

from __future__ import annotations

import encodings.unicode_escape  # noqa: F401 - Python imports it at the first use, perhaps after the change of user
import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from mailproxy.address import join_host_port, unmap_ipv4
from mailproxy.log.events import Event
from mailproxy.log.record import SessionRecord

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# What formats a session, and an event with its message and data.
SessionLine = Callable[[SessionRecord], str]
EventLine = Callable[[Event, str, Mapping[str, object]], str]


class _Seconds:
    """Formats a date to the second, once for all lines of that second: a busy proxy writes many."""

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
    # HAProxy writes English months in every locale, which strftime does not.
    t = time.localtime(second)
    return f"{t.tm_mday:02}/{_MONTHS[t.tm_mon - 1]}/{t.tm_year}:{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}"


def _syslog_date(second: int) -> str:
    # The day is padded with a space (RFC 3164 section 4.1.2).
    t = time.localtime(second)
    return f"{_MONTHS[t.tm_mon - 1]} {t.tm_mday:2} {t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}"


def _local_date(second: int) -> str:
    """Return local time with its offset (RFC 3339), and a ``{:03}`` for the milliseconds."""
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
    """Return the line of a session in HAProxy's tcplog."""
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
    """Return the message of an event, with a date like that of sessions."""
    return _tcplog_event_at(time.time(), event, message, data)


def _tcplog_event_at(moment: float, event: Event, message: str, data: Mapping[str, object]) -> str:
    return f"[{haproxy_date(moment)}.{_ms(moment):03}] {sentence(event, message, data)}"


def sentence(_event: Event, message: str, _data: Mapping[str, object]) -> str:
    """Return the message of an event alone, as HAProxy writes its notices to syslog."""
    return _one_line(message)


def json_session(r: SessionRecord) -> str:
    """Return the line of a session as a JSON object."""
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
    """Return the line of an event as a JSON object."""
    return _json_event_at(time.time(), event, message, data)


def _json_event_at(moment: float, event: Event, message: str, data: Mapping[str, object]) -> str:
    return _json(
        {"time": _iso(moment), "event": event.name, "level": event.level, "message": message, **data}
    )


def text_session(r: SessionRecord) -> str:
    """Return the line of a session for people."""
    return f"{text_date(r.accepted)} {undated_session(r)}"


def undated_session(r: SessionRecord) -> str:
    """Return the line of a session for people, without its date."""
    assert r.end is not None  # noqa: S101 - lines are written at the end
    destination = f" -> {r.backend}/{r.server}" if r.server else f" -> {r.backend}" if r.backend else ""
    tls = f" {r.tls_version} {r.tls_cipher}" if r.tls_version else ""
    name = f" for {_quote(r.sni)}" if r.sni else ""
    via = f" by {_plain(r.peer)}" if r.peer else ""
    common_name = f" as {_quote(r.client_cn)}" if r.client_cn else ""
    detail = f" ({r.detail})" if r.detail else ""
    return _one_line(
        f"{r.frontend}{destination} {_plain(r.client)}{via}{tls}{name}{common_name} {r.end.name}{detail}"
        f" after {r.total_ms / 1000:.3f}s, {r.bytes_in} bytes from the client, {r.bytes_out} from the server"
    )


def text_event(event: Event, message: str, data: Mapping[str, object]) -> str:
    """Return the line of an event for people."""
    return _text_event_at(time.time(), event, message, data)


def _text_event_at(moment: float, event: Event, message: str, data: Mapping[str, object]) -> str:
    return f"{text_date(moment)} {undated_event(event, message, data)}"


def text_date(moment: float) -> str:
    """Return local time as in the lines for people."""
    return _text_date(moment).format(_ms(moment))


def undated_event(event: Event, message: str, _data: Mapping[str, object]) -> str:
    """Return the line of an event for people, without its date."""
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

EVENTS_AT: Mapping[str, Callable[[float, Event, str, Mapping[str, object]], str]] = {
    "text": _text_event_at,
    "json": _json_event_at,
    "tcplog": _tcplog_event_at,
}
"""What formats an event of another moment."""


def _iso(moment: float) -> str:
    return f"{_iso_date(moment)}.{_ms(moment):03}Z"


def _json(data: Mapping[str, object]) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def _one_line(text: str) -> str:
    """Escape what is not printable.

    Peers choose some words: a server name could hold a line end, or control a terminal.
    """
    return text if text.isprintable() else _escape(text)


def _quote(text: str) -> str:
    """Quote a word that the client chose, so that it cannot be taken for another part of the line."""
    text = _escape(text)
    return text if re.fullmatch(r"[A-Za-z0-9._@*:-]+", text) else '"' + text.replace('"', "'") + '"'


def _escape(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")


def _plain(client: str) -> str:
    """Return the address of an IPv4 client of a bind for both families as IPv4 (RFC 4291 section 2.5.5.2).

    HAProxy leaves it mapped, and so does tcplog.
    """
    if not client.startswith("[::ffff:"):
        return client
    # From a PROXY header the IPv4 part may be in hex digits.
    host, _, port = client[1:].rpartition("]:")
    return join_host_port(unmap_ipv4(host), int(port))
