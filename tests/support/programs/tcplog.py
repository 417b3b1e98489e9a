"""Parse the log line that HAProxy's documentation calls `option tcplog`, of both programs.

The line is `%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq`. A connection that ends in the
client's TLS handshake has the line `%ci:%cp [%t] frontend/bind: message`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable

START = (
    r"(?P<client>[0-9a-f.:]+|unix):(?P<port>\d+) \[(?P<date>\d\d/[A-Z][a-z]{2}/\d{4}(?::\d\d){3}\.\d{3})\] "
)
SESSION = re.compile(
    START
    + r"(?P<frontend>[^ /]+) (?P<backend>[^ /]+)/(?P<server>[^ ]+) (?P<queue>-1|\d+)/(?P<connect>-1|\d+)/(?P<total>\d+)"
    r" (?P<bytes>\d+) (?P<state>[-CSPLRIDUKcs][-RQCHDLT])"
    r" (?P<process_sessions>\d+)/(?P<frontend_sessions>\d+)/(?P<backend_sessions>\d+)/(?P<server_sessions>\d+)/(?P<retries>\+?\d+)"
    r" (?P<server_queue>\d+)/(?P<backend_queue>\d+)"
)
# mailproxy adds the reason to HAProxy's message.
FAILED_START = re.compile(START + r"(?P<frontend>[^ /]+)/(?P<bind>[^ ]+): (?P<message>.*?)( \(.*\))?")


@attrs.frozen(kw_only=True)
class Session:
    """The fields that must be equal in both programs: all but the client's port and the time."""

    client: str
    frontend: str
    backend: str
    server: str
    was_chosen: bool
    was_connected: bool
    bytes: int
    state: str
    sessions: str
    retries: str
    queues: str
    total_ms: int = attrs.field(eq=False)


@attrs.frozen(kw_only=True)
class FailedStart:
    client: str
    frontend: str
    bind: str
    message: str


def end_matches(lines: Iterable[str]) -> list[re.Match[str]]:
    """Return the matches of lines of both forms. Other lines are skipped."""
    matches = (SESSION.fullmatch(line) or FAILED_START.fullmatch(line) for line in lines)
    return [match for match in matches if match]


def session(line: re.Match[str]) -> Session:
    return Session(
        client=line["client"],
        frontend=line["frontend"],
        backend=line["backend"],
        server=line["server"],
        was_chosen=line["queue"] != "-1",
        was_connected=line["connect"] != "-1",
        bytes=int(line["bytes"]),
        state=line["state"],
        sessions="/".join(
            line[f"{scope}_sessions"] for scope in ("process", "frontend", "backend", "server")
        ),
        retries=line["retries"],
        queues=f"{line['server_queue']}/{line['backend_queue']}",
        total_ms=int(line["total"]),
    )


def failed_start(line: re.Match[str]) -> FailedStart:
    return FailedStart(**{field: line[field] for field in ("client", "frontend", "bind", "message")})
