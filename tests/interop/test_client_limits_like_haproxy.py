"""Limits per client accept the same connections as HAProxy's `track-sc0 src` with `conn_cur` and `conn_rate`."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support.interop.scripted_session import GREETING, HOST
from tests.support.ports import free_ports
from tests.support.programs.greeting_server import greeting_server
from tests.support.programs.program import TIMEOUT_S, HAProxy, Mailproxy

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.peers

ONE, TWO = "192.0.2.1", "192.0.2.2"
SIX, NEIGHBOUR, SEVEN = "2001:db8:1:2::1", "2001:db8:1:2:ffff::1", "2001:db8:1:3::1"
FIRST_PORT = 40001

# For each step: a client that connects, or the number of the step whose client closes.
SESSIONS = [
    ONE,
    ONE,
    ONE,
    TWO,
    0,
    ONE,
    ONE,
    SIX,
    NEIGHBOUR,
    SIX,
    SEVEN,
    7,
    NEIGHBOUR,
    NEIGHBOUR,
    5,
    1,
    ONE,
    ONE,
    ONE,
]
RATES = [ONE, 0, ONE, TWO, 2, ONE, ONE, 3, TWO, SIX, NEIGHBOUR, 9, 10, SIX, NEIGHBOUR, SEVEN, ONE, TWO, TWO]  # fmt: skip


def haproxy(port: int, server: int, condition: str) -> str:
    return f"""
global
 log stdout format raw local0
 nbthread 1
defaults
 mode tcp
 log global
 option tcplog
 timeout client 30s
 timeout server 30s
 timeout connect 5s
frontend imap
 bind {HOST}:{port} accept-proxy
 stick-table type ipv6 size 1k expire 2d store conn_cur,conn_rate(1d)
 tcp-request session track-sc0 src,ipmask(32,64)
 tcp-request session reject if {{ {condition} }}
 default_backend mail
backend mail
 server s1 {HOST}:{server}
"""


def mailproxy(port: int, server: int, limit: str) -> str:
    return f"""
[log]
format = "tcplog"
to = "stdout"
[frontends.imap]
protocol = "tcp"
backend = "mail"
log_null = true
bind = [{{ address = "{HOST}:{port}", accept_proxy = ["{HOST}/32"] }}]
{limit}
[backends.mail]
check = "none"
servers = ["{HOST}:{server}"]
"""


def accepted(proxy: HAProxy | Mailproxy, port: int, steps: list[str | int]) -> list[bool | None]:
    """Return for each step whether the client was greeted, or None for a step in which one closes."""
    answers: list[bool | None] = []
    with ExitStack() as stack:
        clients: dict[int, socket.socket] = {}
        for number, step in enumerate(steps):
            if isinstance(step, int):
                clients[step].close()
                proxy.log.wait_for(re.compile(rf"\S+:{FIRST_PORT + step} \[.*"))
                answers.append(None)
                continue
            client = stack.enter_context(socket.create_connection((HOST, port), TIMEOUT_S))
            family, own = ("TCP6", "2001:db8::9") if ":" in step else ("TCP4", "203.0.113.9")
            client.sendall(f"PROXY {family} {step} {own} {FIRST_PORT + number} 143\r\n".encode())
            clients[number] = client
            try:
                answers.append(client.recv(len(GREETING), socket.MSG_WAITALL) == GREETING)
            except ConnectionResetError:
                answers.append(False)
    return answers


@pytest.mark.parametrize(
    ("condition", "limit", "steps"),
    [
        ("sc0_conn_cur gt 2", "max_sessions_per_client = 2", SESSIONS),
        ("sc0_conn_rate gt 3", 'max_session_rate_per_client = { count = 3, per = "1d" }', RATES),
        (
            "sc0_conn_cur gt 2 || sc0_conn_rate gt 4",
            'max_sessions_per_client = 2\nmax_session_rate_per_client = { count = 4, per = "1d" }',
            SESSIONS,
        ),
    ],
    ids=["sessions", "rate", "both"],
)
def test_same_connections_are_accepted(
    folder: Path, condition: str, limit: str, steps: list[str | int]
) -> None:
    condition = condition.replace(" || ", " } || { ")
    haproxy_port, mailproxy_port = free_ports(2, [HOST])
    with greeting_server() as (_, server):
        with HAProxy(haproxy(haproxy_port, server, condition), folder, [(HOST, haproxy_port)]) as proxy:
            expected = accepted(proxy, haproxy_port, steps)
        with Mailproxy(mailproxy(mailproxy_port, server, limit), folder, [(HOST, mailproxy_port)]) as proxy:
            result = accepted(proxy, mailproxy_port, steps)
    assert {True, False} <= set(expected), "some clients reach the limit, others do not"
    assert result == expected
