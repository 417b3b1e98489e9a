"""The command `check --live` and the log, with servers that refuse logins or expect other PROXY headers."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trustme

from mailproxy.testing import ThrowAwayCA
from tests.support.ports import free_ports
from tests.support.programs.dovecot import Dovecot, Listener, MailStore
from tests.support.programs.postfix import Postfix
from tests.support.programs.program import Mailproxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.programs.dovecot import Protocol

pytestmark = [pytest.mark.peers, pytest.mark.slow]

PROXY, SERVER = "127.0.0.1", "127.0.0.5"  # different, because Dovecot trusts clients with its own address
PROTOCOLS: tuple[Protocol, ...] = ("imap", "pop3", "submission", "sieve")
OBSTACLES = {
    "imap": "announces LOGINDISABLED in clear text",
    "pop3": "announces neither USER nor a SASL mechanism for passwords in clear text",
    "submission": "announces STARTTLS but no AUTH in clear text",
    "sieve": "announces no SASL mechanism in clear text",
}
CONFIGURATION = """
[log]
format = "tcplog"
to = "stdout"
[process]
user = "root"
[frontends.f]
protocol = "{protocol}"
backend = "b"
bind = [{{ address = "127.0.0.1:{bind_port}", mode = "tls" }}]
tls = {{ certificates = ["{certificate}"] }}
[backends.b]
send_proxy = "{send_proxy}"
check = {{ interval = "200ms" }}
servers = [{{ name = "d1", address = "127.0.0.5:{port}"{tls} }}]
"""


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> ThrowAwayCA:
    return ThrowAwayCA(tmp_path_factory.mktemp("ca"))


def configuration(
    ca: ThrowAwayCA, protocol: str, port: int, send_proxy: str = "none", tls: bool = False
) -> tuple[str, int]:
    (bind_port,) = free_ports(1, [PROXY])
    pem = ca.issue("mail.example.com")
    tls_key = ', tls = { verify = "none" }' if tls else ""
    text = CONFIGURATION.format(
        protocol=protocol,
        bind_port=bind_port,
        certificate=pem,
        port=port,
        send_proxy=send_proxy,
        tls=tls_key,
    )
    return text, bind_port


def advice(text: str, folder: Path) -> str:
    file = folder / "mailproxy.toml"
    file.write_text(text)
    command = [sys.executable, "-m", "mailproxy", "check", "--live", str(file)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0
    return "\n".join(line for line in process.stdout.splitlines() if "servers[0]: d1" in line)


@pytest.fixture(scope="module")
def dovecot() -> Iterator[dict[tuple[str, str], int]]:
    """Run a stock Dovecot that refuses logins in clear text. Return its ports by protocol and kind."""
    ports = free_ports(3 * len(PROTOCOLS), [SERVER])
    port_by_kind: dict[tuple[str, str], int] = {}
    listeners = []
    for protocol in PROTOCOLS:
        for kind in ("clear", "proxied", "tls"):
            port_by_kind[protocol, kind] = port = ports.pop()
            listeners.append(Listener(port, protocol, tls=kind == "tls", proxied=kind == "proxied"))
    certificate = trustme.CA().issue_cert("mail.example.com")
    settings = {"disable_plaintext_auth": "yes"}
    with (
        MailStore() as store,
        Dovecot(SERVER, *listeners, users=["ann"], store=store, certificate=certificate, settings=settings),
    ):
        yield port_by_kind


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_clear_text_advice_for_stock_dovecot(
    dovecot: dict[tuple[str, str], int], ca: ThrowAwayCA, tmp_path: Path, protocol: str
) -> None:
    text, bind_port = configuration(ca, protocol, dovecot[protocol, "clear"])
    assert OBSTACLES[protocol] in advice(text, tmp_path)
    with Mailproxy(text, tmp_path, [(PROXY, bind_port)]) as proxy:
        proxy.log.wait_for(re.compile(re.escape(f"Server b/d1 {OBSTACLES[protocol]}") + ".*"))


@pytest.mark.parametrize("remedy", [("proxied", "v2-ssl", False), ("tls", "none", True)], ids=str)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_remedies_end_the_advice(
    dovecot: dict[tuple[str, str], int],
    ca: ThrowAwayCA,
    tmp_path: Path,
    protocol: str,
    remedy: tuple[str, str, bool],
) -> None:
    kind, send_proxy, tls = remedy
    text, _ = configuration(ca, protocol, dovecot[protocol, kind], send_proxy, tls)
    assert advice(text, tmp_path) == ""


def test_advice_for_usual_mistakes_with_dovecot(
    dovecot: dict[tuple[str, str], int], ca: ThrowAwayCA, tmp_path: Path
) -> None:
    def advice_for(kind: str, send_proxy: str, tls: bool) -> str:
        return advice(configuration(ca, "imap", dovecot["imap", kind], send_proxy, tls)[0], tmp_path)

    assert "taken the PROXY header for commands" in advice_for("clear", "v2", tls=False)
    assert "the listener may wait for a PROXY header" in advice_for("proxied", "none", tls=False)
    assert "the port may speak TLS from the first byte" in advice_for("tls", "none", tls=False)
    assert "the port speaks clear text first" in advice_for("clear", "none", tls=True)


def test_advice_for_postfix_that_demands_tls(ca: ThrowAwayCA, tmp_path: Path) -> None:
    pem = ca.issue("postfix.example")
    settings = (
        f"smtpd_tls_security_level = encrypt\nsmtpd_tls_cert_file = {pem}\nsmtpd_tls_key_file = {pem}\n"
        "smtpd_sasl_auth_enable = no"
    )
    plain, proxied = free_ports(2, [SERVER])
    with Postfix(SERVER, plain_port=plain, proxied_port=proxied, settings=settings):
        text = advice(configuration(ca, "submission", plain)[0], tmp_path)
        assert "announces STARTTLS but no AUTH in clear text" in text
        assert "smtpd_tls_wrappermode = yes" in text
        assert "LOGIN" not in advice(configuration(ca, "smtp", plain)[0], tmp_path)
