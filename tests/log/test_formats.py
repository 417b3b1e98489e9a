"""Log formats: HAProxy's tcplog byte for byte, JSON, and text.

The expected lines were written by HAProxy 2.6.12 (``mode tcp``, ``option tcplog``), except for the connect
time of a session. HAProxy's count starts at 1 there and includes the TLS handshake. Here it starts at 0, as
documented.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import attrs
import pytest

from mailproxy.log import END_REASONS, Phase, SessionRecord, end_reasons
from mailproxy.log.events import ACCEPT_PAUSED, LISTENING, SERVER_STATE
from mailproxy.log.fields import SESSION_FIELDS
from mailproxy.log.formats import (
    FORMATS,
    SYSLOG_FORMATS,
    haproxy_date,
    json_event,
    json_session,
    syslog_date,
    tcplog_event,
    tcplog_session,
    text_event,
    text_session,
)


@pytest.fixture(autouse=True)
def berlin_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A time zone that is not UTC, so that local time and UTC cannot be confused."""
    with monkeypatch.context() as zone:
        zone.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


def timestamp(date_text: str) -> float:
    """Parse local time as in HAProxy's lines, and add half a millisecond, because floats are not exact."""
    return datetime.strptime(date_text, "%d/%b/%Y:%H:%M:%S.%f").timestamp() + 0.0005  # noqa: DTZ007 - local


def session(**changes: Any) -> SessionRecord:
    """Return the record of a normal session, with changes."""
    record = SessionRecord(
        id=0x2A,
        accepted=0.0,
        frontend="fe",
        bind="B",
        tls=False,
        client="127.0.0.1:54550",
        backend="be",
        server="s",
        server_address="127.0.0.1:41143",
        queue_ms=0,
        connect_ms=0,
        total_ms=151,
        bytes_in=5,
        bytes_out=9,
        end=end_reasons.CLIENT_CLOSED,
        process_sessions=1,
        frontend_sessions=1,
    )
    date_text = changes.pop("accepted", "22/Nov/2026:16:45:57.224")
    return attrs.evolve(record, accepted=timestamp(date_text), **changes)


DATE = "[22/Nov/2026:16:45:57.224]"
START = f"127.0.0.1:54550 {DATE}"

TCPLOG: dict[str, tuple[dict[str, Any], str]] = {
    "normal": (
        {},
        "127.0.0.1:54550 [22/Nov/2026:16:45:57.224] fe be/s 0/0/151 9 -- 1/1/0/0/0 0/0",
    ),
    "normal, TLS": ({"tls": True}, f"{START} fe~ be/s 0/0/151 9 -- 1/1/0/0/0 0/0"),
    "server closed": (
        {"end": end_reasons.SERVER_CLOSED, "total_ms": 1, "bytes_out": 14},
        f"{START} fe be/s 0/0/1 14 -- 1/1/0/0/0 0/0",
    ),
    "slow TLS with the server": ({"connect_ms": 301, "total_ms": 345}, f"{START} fe be/s 0/301/345 9 -- 1/1/0/0/0 0/0"),
    "client abort while the server pushes": (
        {"end": end_reasons.CLIENT_ABORTED, "total_ms": 1, "bytes_out": 3955721},
        f"{START} fe be/s 0/0/1 3955721 CD 1/1/0/0/0 0/0",
    ),
    "server abort": ({"end": end_reasons.SERVER_ABORTED, "total_ms": 0}, f"{START} fe be/s 0/0/0 9 SD 1/1/0/0/0 0/0"),
    "client silent": ({"end": end_reasons.CLIENT_TIMEOUT, "total_ms": 1002}, f"{START} fe be/s 0/0/1002 9 cD 1/1/0/0/0 0/0"),
    "server silent": (
        {"end": end_reasons.SERVER_TIMEOUT, "total_ms": 1002, "tls": True},
        f"{START} fe~ be/s 0/0/1002 9 sD 1/1/0/0/0 0/0",
    ),
    "stopped": ({"end": end_reasons.STOPPED, "total_ms": 1202}, f"{START} fe be/s 0/0/1202 9 K- 1/1/0/0/0 0/0"),
    "refused": (
        {"end": end_reasons.SERVER_REFUSED, "connect_ms": -1, "total_ms": 0, "bytes_out": 0},
        f"{START} fe be/s 0/-1/0 0 SC 1/1/0/0/0 0/0",
    ),
    "connect timeout": (
        {"end": end_reasons.CONNECT_TIMEOUT, "connect_ms": -1, "total_ms": 501, "bytes_out": 0},
        f"{START} fe be/s 0/-1/501 0 sC 1/1/0/0/0 0/0",
    ),
    "client left while connecting": (
        {"end": end_reasons.CLIENT_LEFT, "connect_ms": -1, "total_ms": 300, "bytes_out": 0},
        f"{START} fe be/s 0/-1/300 0 CC 1/1/0/0/0 0/0",
    ),
    "stopped while connecting": (
        {"end": end_reasons.STOPPED_CONNECTING, "connect_ms": -1, "total_ms": 1201, "bytes_out": 0},
        f"{START} fe be/s 0/-1/1201 0 KC 1/1/0/0/0 0/0",
    ),
    "no server can be used": (
        {"end": end_reasons.NO_SERVER, "server": "", "queue_ms": -1, "connect_ms": -1, "total_ms": 0, "bytes_out": 0},
        f"{START} fe be/<NOSRV> -1/-1/0 0 SC 1/1/0/0/0 0/0",
    ),
    "no backend": (
        {"end": end_reasons.NO_SERVER, "backend": "", "server": "", "queue_ms": -1, "connect_ms": -1, "total_ms": 0, "bytes_out": 0},
        f"{START} fe fe/<NOSRV> -1/-1/0 0 SC 1/1/0/0/0 0/0",
    ),
    "out of descriptors": (
        {"end": end_reasons.OUT_OF_RESOURCES, "connect_ms": -1, "total_ms": 0, "bytes_out": 0},
        f"{START} fe be/s 0/-1/0 0 RC 1/1/0/0/0 0/0",
    ),
    "one of three": (
        {"process_sessions": 3, "frontend_sessions": 3, "backend_sessions": 2, "server_sessions": 2},
        f"{START} fe be/s 0/0/151 9 -- 3/3/2/2/0 0/0",
    ),
    "the documented sample": (
        {
            "accepted": "22/Nov/2026:14:46:22.419", "client": "127.0.0.1:59892", "frontend": "imaps", "tls": True,
            "backend": "dovecot", "server": "d1", "connect_ms": 1, "total_ms": 2938, "bytes_out": 912,
            "process_sessions": 2, "backend_sessions": 1, "server_sessions": 1,
        },
        "127.0.0.1:59892 [22/Nov/2026:14:46:22.419] imaps~ dovecot/d1 0/1/2938 912 -- 2/1/1/1/0 0/0",
    ),
    "retried": ({"retries": 2}, f"{START} fe be/s 0/0/151 9 -- 1/1/0/0/2 0/0"),
    "redispatched": ({"retries": 1, "redispatched": True}, f"{START} fe be/s 0/0/151 9 -- 1/1/0/0/+1 0/0"),
    "IPv6": ({"client": "[::1]:59016"}, f"::1:59016 {DATE} fe be/s 0/0/151 9 -- 1/1/0/0/0 0/0"),
    "IPv4 at a bind for both": (
        {"client": "[::ffff:127.0.0.1]:57628"},
        f"::ffff:127.0.0.1:57628 {DATE} fe be/s 0/0/151 9 -- 1/1/0/0/0 0/0",
    ),
    "Unix socket": ({"client": "unix:1"}, f"unix:1 {DATE} fe be/s 0/0/151 9 -- 1/1/0/0/0 0/0"),
    "a day of one digit": (
        {"accepted": "01/Mar/2026:00:00:00.007"},
        "127.0.0.1:54550 [01/Mar/2026:00:00:00.007] fe be/s 0/0/151 9 -- 1/1/0/0/0 0/0",
    ),
    # A session that ends in its handshake has a line of another form, in which the bind has no "~".
    "handshake left": (
        {
            "accepted": "22/Nov/2026:16:46:02.345", "client": "127.0.0.1:37600", "tls": True,
            "end": end_reasons.HANDSHAKE_EMPTY,
        },
        "127.0.0.1:37600 [22/Nov/2026:16:46:02.345] fe/B: Connection closed during SSL handshake",
    ),
    "handshake left half-way": (
        {"tls": True, "end": end_reasons.HANDSHAKE_LEFT},
        f"{START} fe/B: Connection closed during SSL handshake",
    ),
    "clear text to a TLS bind": (
        {"tls": True, "end": end_reasons.HANDSHAKE_FAILED, "detail": "wrong version number"},
        f"{START} fe/B: SSL handshake failure (wrong version number)",
    ),
    "no reason known": ({"tls": True, "end": end_reasons.HANDSHAKE_FAILED}, f"{START} fe/B: SSL handshake failure"),
    "handshake timeout": ({"tls": True, "end": end_reasons.HANDSHAKE_TIMEOUT}, f"{START} fe/B: Timeout during SSL handshake"),
    "handshake, IPv6": (
        {"tls": True, "end": end_reasons.HANDSHAKE_FAILED, "client": "[::1]:37210"},
        f"::1:37210 {DATE} fe/B: SSL handshake failure",
    ),
    # A session that ends in its PROXY header has this form, too. Its client is the peer of the connection.
    "header left": (
        {"end": end_reasons.HEADER_EMPTY},
        f"{START} fe/B: Connection closed while waiting for PROXY protocol header",
    ),
    "header cut off": ({"end": end_reasons.HEADER_TRUNCATED}, f"{START} fe/B: Truncated PROXY protocol header received"),
    "header reset": (
        {"end": end_reasons.HEADER_ABORTED},
        f"{START} fe/B: Connection error while waiting for PROXY protocol header",
    ),
    "no header in time": ({"end": end_reasons.HEADER_TIMEOUT}, f"{START} fe/B: Timeout while waiting for PROXY protocol header"),
    "no PROXY header": (
        {"end": end_reasons.HEADER_MISSING},
        f"{START} fe/B: Received something which does not look like a PROXY protocol header",
    ),
    "invalid header": (
        {"end": end_reasons.HEADER_INVALID, "tls": True},
        f"{START} fe/B: Received an invalid PROXY protocol header",
    ),
    "header of UDP": (
        {"end": end_reasons.HEADER_UNHANDLED},
        f"{START} fe/B: Received an unhandled protocol in the PROXY protocol header",
    ),
    "client of a PROXY header": (
        {"client": "192.0.2.9:40000", "peer": "127.0.0.1:54550"},
        f"192.0.2.9:40000 {DATE} fe be/s 0/0/151 9 -- 1/1/0/0/0 0/0",
    ),
    "rejected by a route": (
        {"end": end_reasons.REJECTED, "backend": "", "server": "", "queue_ms": -1, "connect_ms": -1, "total_ms": 0, "bytes_out": 0},
        f"{START} fe fe/<NOSRV> -1/-1/0 0 PR 1/1/0/0/0 0/0",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "line"), TCPLOG.values(), ids=TCPLOG.keys())
def test_tcplog_matches_haproxy(changes: dict[str, Any], line: str) -> None:
    assert tcplog_session(session(**changes)) == line


def test_tcplog_dates_are_local_in_both_seasons() -> None:
    for date in ("05/Jan/2026:03:04:05.678", "05/Jul/2026:03:04:05.678"):
        assert tcplog_session(session(accepted=date)).split(" ")[1] == f"[{date}]"


def test_month_names_match_haproxy() -> None:
    dates = [haproxy_date(timestamp(f"15/{name}/2026:12:00:00.000")) for name in MONTHS]
    assert dates == [f"15/{name}/2026:12:00:00" for name in MONTHS]


MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def test_syslog_dates_are_padded_with_a_space() -> None:
    assert syslog_date(timestamp("22/Nov/2026:16:45:57.224")) == "Nov 22 16:45:57"
    assert syslog_date(timestamp("02/Nov/2026:06:05:07.000")) == "Nov  2 06:05:07"


def test_alternating_dates_are_not_mixed_up() -> None:
    first, second = timestamp("22/Nov/2026:16:45:57.000"), timestamp("22/Nov/2026:16:45:58.000")
    assert [haproxy_date(when)[-2:] for when in (first, second, first, first, second)] == [
        "57",
        "58",
        "57",
        "57",
        "58",
    ]


def test_tcplog_events_are_dated_except_for_syslog() -> None:
    message = "Server dovecot/d1 is UP/READY (leaving forced drain or maintenance). 3 sessions active."
    assert SYSLOG_FORMATS["tcplog"][1](SERVER_STATE, message, {"server": "d1"}) == message
    dated = re.fullmatch(r"\[(.*)\] (.*)", tcplog_event(SERVER_STATE, message, {"server": "d1"}))
    assert dated
    assert dated[2] == message
    assert abs(timestamp(dated[1]) - time.time()) < 10


def test_detail_in_tcplog_message_is_one_line() -> None:
    line = tcplog_session(session(tls=True, end=end_reasons.HANDSHAKE_FAILED, detail="a\nb"))
    assert line == f"{START} fe/B: SSL handshake failure (a\\nb)"


# JSON.

JSON_KEYS = {
    "time", "event", "level", "frontend", "bind", "backend", "server", "client", "server_address", "queue_ms", "connect_ms",
    "total_ms", "bytes_in", "bytes_out", "end", "phase", "state", "retries", "redispatched", "tls_version", "tls_cipher",
    "sni", "close_notify", "server_close_notify", "id", "peer", "alpn", "client_cn",
}  # fmt: skip


def test_json_session_fields() -> None:
    line = json_session(
        session(
            frontend="imaps", bind="IMAPs", backend="dovecot", server="d1", connect_ms=1, total_ms=2938, bytes_in=77,
            bytes_out=912, tls=True, tls_version="TLSv1.3", tls_cipher="TLS_AES_256_GCM_SHA384", sni="imap.example.com",
            close_notify=True, server_close_notify=False, peer="10.0.0.7:40000", alpn="imap", client_cn="alice",
        )
    )  # fmt: skip
    assert json.loads(line) == {
        "time": "2026-11-22T15:45:57.224Z",
        "event": "session",
        "level": "info",
        "frontend": "imaps",
        "bind": "IMAPs",
        "backend": "dovecot",
        "server": "d1",
        "client": "127.0.0.1:54550",
        "peer": "10.0.0.7:40000",
        "server_address": "127.0.0.1:41143",
        "queue_ms": 0,
        "connect_ms": 1,
        "total_ms": 2938,
        "bytes_in": 77,
        "bytes_out": 912,
        "end": "client-closed",
        "by": "client",
        "phase": "data",
        "state": "--",
        "detail": None,
        "retries": 0,
        "redispatched": False,
        "tls_version": "TLSv1.3",
        "tls_cipher": "TLS_AES_256_GCM_SHA384",
        "sni": "imap.example.com",
        "alpn": "imap",
        "client_cn": "alice",
        "close_notify": True,
        "server_close_notify": False,
        "id": "2a",
    }
    assert set(json.loads(line)) >= JSON_KEYS


def test_json_fields_match_documented_order_and_types() -> None:
    parsed = json.loads(json_session(session()))
    assert list(parsed) == [field.name for field in SESSION_FIELDS]
    types = {str: "string", int: "number", bool: "true", type(None): "null"}
    for field in SESSION_FIELDS:
        assert types[type(parsed[field.name])] in field.kind, field.name
        assert types[type(json.loads(field.example))] in field.kind, field.name


def test_json_has_null_for_missing_facts() -> None:
    parsed = json.loads(
        json_session(
            session(
                tls=True, end=end_reasons.HANDSHAKE_FAILED, detail="unsupported protocol", backend="", server="",
                server_address="", queue_ms=-1, connect_ms=-1,
            )
        )
    )  # fmt: skip
    assert set(parsed) >= JSON_KEYS
    assert {name for name, value in parsed.items() if value is None} == {
        "backend", "server", "server_address", "state", "tls_version", "tls_cipher", "sni", "close_notify",
        "server_close_notify", "peer", "alpn", "client_cn",
    }  # fmt: skip
    assert (parsed["phase"], parsed["end"], parsed["detail"]) == (
        "handshake",
        "handshake-failed",
        "unsupported protocol",
    )
    assert (parsed["queue_ms"], parsed["connect_ms"]) == (-1, -1)


def test_json_unmaps_ipv4_clients() -> None:
    assert json.loads(json_session(session(client="[::ffff:192.0.2.9]:57628")))["client"] == "192.0.2.9:57628"
    assert json.loads(json_session(session(client="[2001:db8::1]:57628")))["client"] == "[2001:db8::1]:57628"


def test_json_unmaps_ipv4_peers() -> None:
    parsed = json.loads(json_session(session(client="[2001:db8::1]:40000", peer="[::ffff:10.0.0.7]:50000")))
    assert (parsed["client"], parsed["peer"]) == ("[2001:db8::1]:40000", "10.0.0.7:50000")


def test_json_state_is_null_before_routing() -> None:
    for end in END_REASONS:
        state = json.loads(json_session(session(end=end)))["state"]
        assert state == (None if end.phase in (Phase.HEADER, Phase.HANDSHAKE) else end.state)


def test_json_event_has_data_as_keys() -> None:
    before = time.time()
    parsed = json.loads(
        json_event(LISTENING, "frontend imap listens", {"frontend": "imap", "address": "[::]:993"})
    )
    date_text = datetime.fromisoformat(parsed.pop("time"))
    assert before - 0.001 <= date_text.timestamp() <= time.time()
    assert parsed == {
        "event": "listening",
        "level": "info",
        "message": "frontend imap listens",
        "frontend": "imap",
        "address": "[::]:993",
    }


# Text.


def test_text_session_line() -> None:
    record = session(
        frontend="imaps", backend="dovecot", server="d1", total_ms=2938, bytes_in=77, bytes_out=912, tls=True,
        tls_version="TLSv1.3", tls_cipher="TLS_AES_256_GCM_SHA384", sni="imap.example.com", end=end_reasons.SERVER_ABORTED,
        detail="connection reset by peer",
    )  # fmt: skip
    assert text_session(record) == (
        "2026-11-22 16:45:57.224+01:00 imaps -> dovecot/d1 127.0.0.1:54550 TLSv1.3 TLS_AES_256_GCM_SHA384 for imap.example.com"
        " server-aborted (connection reset by peer) after 2.938s, 77 bytes from the client, 912 from the server"
    )


def test_text_names_peer_and_client_certificate() -> None:
    record = session(
        tls=True, tls_version="TLSv1.3", tls_cipher="x", sni="imap.example.com", client="192.0.2.9:40000",
        peer="[::ffff:10.0.0.7]:50000", client_cn="alice@example.com",
    )  # fmt: skip
    assert (
        " fe -> be/s 192.0.2.9:40000 by 10.0.0.7:50000 TLSv1.3 x for imap.example.com as alice@example.com client-closed"
        in text_session(record)
    )


@pytest.mark.parametrize(
    ("changes", "destination"),
    [({}, " -> be/s"), ({"server": ""}, " -> be"), ({"server": "", "backend": ""}, "")],
)
def test_text_names_backend_and_server(changes: dict[str, Any], destination: str) -> None:
    assert f" fe{destination} 127.0.0.1:54550 client-closed after " in text_session(session(**changes))


def test_text_escapes_sni() -> None:
    line = text_session(
        session(tls=True, tls_version="TLSv1.3", tls_cipher="x", sni="a\n\u00e9", detail="\u00e9")
    )
    assert ' for "a\\n\\xe9" client-closed (\u00e9) after ' in line


def test_text_quotes_names_with_spaces() -> None:
    line = text_session(session(tls=True, sni="x as root client-closed", client_cn='bob" as root'))
    assert ' for "x as root client-closed" as "bob\' as root" ' in line


def test_text_unmaps_ipv4_clients() -> None:
    assert " 192.0.2.9:57628 " in text_session(session(client="[::ffff:192.0.2.9]:57628"))


def test_text_event_has_date_level_and_message() -> None:
    line = text_event(ACCEPT_PAUSED, "frontend imap cannot accept", {"frontend": "imap"})
    assert line[29:] == " warning: frontend imap cannot accept"
    assert abs(datetime.fromisoformat(line[:29]).timestamp() - time.time()) < 10


@pytest.mark.parametrize(("month", "offset"), [("01", "+01:00"), ("07", "+02:00")])
def test_text_dates_are_local_with_offset(month: str, offset: str) -> None:
    when = datetime.fromisoformat(f"2026-{month}-05 03:04:05.678+00:00").timestamp() + 0.0005
    line = text_session(attrs.evolve(session(), accepted=when))
    assert line[23:29] == offset
    assert datetime.fromisoformat(line[:29]).timestamp() == pytest.approx(when, abs=0.001)


def test_text_for_syslog_has_no_date() -> None:
    format_session, format_event = SYSLOG_FORMATS["text"]
    assert format_session(session()).startswith("fe -> be/s 127.0.0.1:54550 client-closed after 0.151s")
    assert (
        format_event(ACCEPT_PAUSED, "frontend imap cannot accept", {})
        == "warning: frontend imap cannot accept"
    )


# All formats.


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("end", END_REASONS, ids=lambda end: end.name)
def test_every_end_reason_in_every_format(format_name: str, end: end_reasons.EndReason) -> None:
    line = FORMATS[format_name][0](session(end=end, detail="why"))
    assert line.isprintable()
    end_text = end.state if format_name == "tcplog" else end.name
    assert end_text in line
    if format_name == "tcplog":
        assert line.endswith(f": {end.state} (why)") == (end.phase in (Phase.HEADER, Phase.HANDSHAKE))


@pytest.mark.parametrize("format_name", FORMATS)
def test_client_names_cannot_inject_lines(format_name: str) -> None:
    """The client chooses these names, and OpenSSL accepts any byte except zero in them."""
    name = "a\n2026-11-22 16:45:57.224 error: all is lost\r\x1b[2J"
    line = FORMATS[format_name][0](
        session(tls=True, tls_version="TLSv1.3", tls_cipher="x", sni=name, alpn=name, client_cn=name)
    )
    assert line.isprintable()


def test_time_zone_of_these_tests_is_not_utc() -> None:
    assert time.localtime(0).tm_hour == 1, os.environ["TZ"]
