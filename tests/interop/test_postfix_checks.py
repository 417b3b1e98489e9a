"""Health checks of Postfix: it goes down when it is stopped or refuses connections."""

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
{refusing} inet n - n - - smtpd
  -o smtpd_delay_reject=no
  -o smtpd_client_restrictions=reject
{limited} inet n - n - - smtpd
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
bind = [{{ address = "{host}:{bind_port}" }}]

[backends.postfix]
check = {{ type = "smtp", interval = "200ms", timeout = "10s", fall = 2, rise = 2 }}
servers = [{{ name = "p1", address = "{host}:{port}" }}]
"""

PASSED = "Layer7 check passed, code: 0"


@attrs.frozen
class Server:
    """A Postfix whose ports accept all clients, none, or one at a time."""

    postfix: Postfix
    refusing: int
    limited: int

    @property
    def accepting(self) -> int:
        return self.postfix.address[1]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    plain, proxied, refusing, limited = free_ports(4, [HOST])
    services = SERVICES.format(refusing=f"{HOST}:{refusing}", limited=f"{HOST}:{limited}")
    with Postfix(HOST, plain_port=plain, proxied_port=proxied, services=services) as postfix:
        yield Server(postfix, refusing, limited)


class CheckedProxy(Mailproxy):
    """A mailproxy in front of one port of Postfix."""

    def __init__(self, port: int, folder: Path) -> None:
        (self._bind_port,) = free_ports(1, [HOST])
        text = CONFIGURATION.format(host=HOST, bind_port=self._bind_port, port=port)
        super().__init__(text, folder, [(HOST, self._bind_port)])

    def wait_for(self, state: str) -> str:
        """Wait for this state of the server and return its reason."""
        pattern = rf"Server postfix/p1 is {state}, reason: (.*), check duration: \d+ms\..*"
        return self.log.wait_for(re.compile(pattern))[1]

    def serves(self) -> bool:
        """Whether a client reaches a server that speaks SMTP."""
        try:
            with smtplib.SMTP(HOST, self._bind_port) as smtp:
                return smtp.noop()[0] == 250
        except smtplib.SMTPConnectError as refusal:
            return refusal.smtp_code != 421  # 421: the proxy's refusal
        except smtplib.SMTPServerDisconnected:
            return False


def test_stopped_postfix_goes_down_and_up(server: Server, folder: Path) -> None:
    with CheckedProxy(server.accepting, folder) as proxy:
        assert proxy.serves()
        server.postfix.stop()
        assert proxy.wait_for("DOWN") == 'Layer4 connection problem, info: "Connection refused"'
        assert not proxy.serves()
        server.postfix.start()
        assert proxy.wait_for("UP") == PASSED
        assert proxy.serves()


def test_refusing_postfix_goes_down(server: Server, folder: Path) -> None:
    with CheckedProxy(server.refusing, folder) as proxy:
        assert proxy.wait_for("DOWN") == (
            "Layer7 wrong status, code: 554,"
            ' info: "554 5.7.1 <unknown[127.0.0.1]>: Client host rejected: Access denied"'
        )
        assert not proxy.serves()


def test_postfix_at_connection_limit_goes_down_and_up(server: Server, folder: Path) -> None:
    with smtplib.SMTP(HOST, server.limited) as only_client, CheckedProxy(server.limited, folder) as proxy:
        assert proxy.wait_for("DOWN") == (
            "Layer7 wrong status, code: 421,"
            ' info: "421 4.7.0 postfix.example Error: too many connections from 127.0.0.1"'
        )
        only_client.quit()
        assert proxy.wait_for("UP") == PASSED
