"""Postfix as a server that is checked: it goes down with its program, and by what it says to those who come."""

from __future__ import annotations

import re
import smtplib
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.support.interop.scripted_session import HOST
from tests.support.ports import free_ports
from tests.support.programs.postfix import Postfix
from tests.support.programs.program import Mailproxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.peers, pytest.mark.slow]

SERVICES = """
{unfriendly} inet n - n - - smtpd
  -o smtpd_delay_reject=no
  -o smtpd_client_restrictions=reject
{narrow} inet n - n - - smtpd
  -o smtpd_client_connection_count_limit=1
  -o smtpd_client_event_limit_exceptions=
"""

CONFIGURATION = """
[log]
format = "tcplog"
to = "stdout"

[frontends.smtp]
protocol = "smtp"
backend = "postfix"
bind = [{{ address = "{host}:{door}" }}]

[backends.postfix]
check = {{ type = "smtp", interval = "200ms", timeout = "2s", fall = 2, rise = 2 }}
servers = [{{ name = "p1", address = "{host}:{port}" }}]
"""

PASSED = "Layer7 check passed, code: 0"


@attrs.frozen
class Server:
    """One Postfix; its ports take everybody, nobody, or one client at a time."""

    postfix: Postfix
    unfriendly: int
    narrow: int

    @property
    def friendly(self) -> int:
        return self.postfix.address[1]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    plain, proxied, unfriendly, narrow = free_ports(4, [HOST])
    services = SERVICES.format(unfriendly=f"{HOST}:{unfriendly}", narrow=f"{HOST}:{narrow}")
    with Postfix(HOST, plain_port=plain, proxied_port=proxied, services=services) as postfix:
        yield Server(postfix, unfriendly, narrow)


class Front(Mailproxy):
    """In front of one port of it."""

    def __init__(self, port: int, folder: Path) -> None:
        (self._door,) = free_ports(1, [HOST])
        text = CONFIGURATION.format(host=HOST, door=self._door, port=port)
        super().__init__(text, folder, [(HOST, self._door)])

    def wait_for(self, state: str) -> str:
        """The reason for the server to be in this state."""
        pattern = rf"Server postfix/p1 is {state}, reason: (.*), check duration: \d+ms\..*"
        return self.log.wait_for(re.compile(pattern))[1]

    def serves(self) -> bool:
        """Is there anybody who speaks SMTP?"""
        try:
            with smtplib.SMTP(HOST, self._door) as smtp:
                return smtp.noop()[0] == 250
        except smtplib.SMTPServerDisconnected:
            return False


def test_it_is_stopped_and_started_again(server: Server, folder: Path) -> None:
    with Front(server.friendly, folder) as front:
        assert front.serves()
        server.postfix.stop()
        assert front.wait_for("DOWN") == 'Layer4 connection problem, info: "Connection refused"'
        assert not front.serves()
        server.postfix.start()
        assert front.wait_for("UP") == PASSED
        assert front.serves()


def test_it_refuses_everybody(server: Server, folder: Path) -> None:
    with Front(server.unfriendly, folder) as front:
        assert front.wait_for("DOWN") == (
            "Layer7 wrong status, code: 554,"
            ' info: "554 5.7.1 <unknown[127.0.0.1]>: Client host rejected: Access denied"'
        )
        assert not front.serves()


def test_it_refuses_everybody_for_a_while(server: Server, folder: Path) -> None:
    with smtplib.SMTP(HOST, server.narrow) as only_one, Front(server.narrow, folder) as front:
        assert front.wait_for("DOWN") == (
            "Layer7 wrong status, code: 421,"
            ' info: "421 4.7.0 postfix.example Error: too many connections from 127.0.0.1"'
        )
        only_one.quit()
        assert front.wait_for("UP") == PASSED
