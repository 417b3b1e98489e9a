"""Log lines of checked servers: a check leaves those of a client that logs out, a bare connection leaves none.

Dovecot writes one line, `Aborted login by logging out`. Postfix writes its ordinary lines for a connection. LMTP is
not tested, because neither Postfix nor the installed packages of Dovecot have a server for it.
"""

from __future__ import annotations

import re
import smtplib
from collections import Counter
from typing import TYPE_CHECKING, Literal

import attrs
import pytest

from tests.interop.conftest import Authority
from tests.support.interop.scripted_session import HOST
from tests.support.ports import free_ports
from tests.support.programs.check_runner import LogWatcher, configuration, run_checks, to_toml
from tests.support.programs.dovecot import Dovecot, Listener, MailStore, relay_settings
from tests.support.programs.imap_clients import Endpoint, Imaplib, MailUser
from tests.support.programs.postfix import Postfix
from tests.support.programs.program import Mailproxy, wait_until
from tests.support.timeouts import TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.support.programs.check_runner import Table

pytestmark = pytest.mark.peers

ROUNDS = 5  # checks of each kind
# The user that logs in after the checks, and its source address.
GUARD = "guard"
GUARD_ADDRESS = "127.0.0.77"

Security = Literal["clear", "starttls", "tls"]
Protocol = Literal["imap", "pop3", "sieve", "submission", "smtp"]


@attrs.frozen
class CheckPath:
    """How a check connects to a server.

    Attributes:
        proxied: a PROXY header is sent first.
        screened: what Postfix's postscreen logs for clients of the port, or an empty string without postscreen.
    """

    protocol: Protocol
    security: Security
    proxied: bool = False
    screened: str = ""

    def __str__(self) -> str:
        check_keys = [self.protocol, self.security, "proxied" if self.proxied else "", self.screened]
        return "-".join(word for word in check_keys if word)

    @property
    def port_path(self) -> CheckPath:
        """Return the path of the same port without STARTTLS, which has no port of its own."""
        return attrs.evolve(self, security="clear") if self.security == "starttls" else self


SECURITIES: dict[Protocol, tuple[Security, ...]] = {
    "imap": ("clear", "starttls", "tls"),
    "pop3": ("clear", "starttls", "tls"),
    "sieve": ("clear", "starttls"),
    "submission": ("clear", "starttls"),
    "smtp": ("clear", "starttls", "tls"),
}
PATHS = [
    CheckPath(protocol, security, proxied)
    for protocol, securities in SECURITIES.items()
    for security in securities
    for proxied in (False, True)
]
DELAYED = CheckPath("smtp", "clear", screened="PASS NEW")  # postscreen delays this client for a second
SCREENED = [
    DELAYED,
    CheckPath("smtp", "clear", screened="ALLOWLISTED"),
    CheckPath("smtp", "clear", proxied=True, screened="ALLOWLISTED"),
]
PORTS = [path for path in PATHS if path.port_path == path]
TLS_PORTS = [path for path in PORTS if path.security == "tls"]
PROXIED_PORTS = [path for path in PORTS if path.proxied]

DIALOGUES = {path.protocol: path.protocol for path in PATHS} | {"submission": "smtp"}
# SMTP's greeting includes the blank, so that postscreen's `220-` does not match. With it postscreen tests whether
# the client waits.
GREETINGS = {"imap": "* OK", "pop3": "+OK", "sieve": "OK", "submission": "220 ", "smtp": "220 "}
GOODBYES = {"imap": "a1 LOGOUT", "pop3": "QUIT", "sieve": "LOGOUT", "submission": "QUIT", "smtp": "QUIT"}
SERVICES = {"imap": "imap", "pop3": "pop3", "sieve": "managesieve", "submission": "submission"}

# Postfix's summaries of the commands.
CAPABILITIES_ASKED = "ehlo=1 quit=1 commands=2"
STARTTLS_USED = "ehlo=2 starttls=1 quit=1 commands=4"
GREETING_ONLY = "quit=1 commands=1"
ABNORMAL_END = re.compile(r"Connection closed|TLS handshaking|reset by peer|lost connection|SSL_accept")

MASTER = """
{tls} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
{tls_proxied} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes -o smtpd_upstream_proxy_protocol=haproxy
{known} inet n - n - 1 postscreen
  -o postscreen_cache_map= -o smtpd_service_name=pass
{stranger} inet n - n - 1 postscreen
  -o postscreen_cache_map= -o smtpd_service_name=pass -o postscreen_access_list= -o postscreen_greet_wait=1s
{screened_proxied} inet n - n - 1 postscreen
  -o postscreen_cache_map= -o smtpd_service_name=pass -o postscreen_upstream_proxy_protocol=haproxy
pass pass - - n - - smtpd
tlsmgr unix - - n 1000? 1 tlsmgr
"""


@attrs.frozen
class Site:
    """A Dovecot and a Postfix with a port for each path."""

    dovecot: Dovecot
    postfix: Postfix
    ports: Mapping[CheckPath, int]
    ca: Path
    folder: Path

    def backend(self, path: CheckPath, type_: str, **check_keys: object) -> Table:
        """Return a backend whose server is checked on this path."""
        tls: Table = {"ca": str(self.ca)}
        if path.security == "starttls":
            tls["mode"] = "starttls"
        keys: Table = {"tls": False if path.security == "clear" else tls}
        keys["send_proxy"] = "v2" if path.proxied else "none"
        address = f"{HOST}:{self.ports[path.port_path]}"
        check = {"type": type_, "interval": "200ms", **keys, **check_keys}
        return {"protocol": path.protocol, "servers": [{"name": "s1", "address": address, "check": check}]}

    def assert_traces(self, path: CheckPath, backend: Table, expected: Counter[str]) -> None:
        """Assert that all checks pass and leave exactly these lines."""
        checks = max(expected.values(), default=0)

        def run() -> None:
            results = run_checks(backend, checks or ROUNDS)
            assert all("check passed" in result for result in results), results

        assert self.watch(path).trace(run, checks) == expected

    def watch(self, path: CheckPath) -> LogWatcher:
        return self._watch_postfix() if path.protocol == "smtp" else self._watch_dovecot()

    def _watch_dovecot(self) -> LogWatcher:
        endpoint = Endpoint(self.ports[CheckPath("imap", "clear")], "clear", self.ca)
        return LogWatcher(
            self.dovecot.log,
            "Disconnected",
            lambda: _log_in_and_out(endpoint, self.folder),
            re.compile(rf".* imap\({GUARD}\).*Disconnected: Logged out.*"),
            _mask_dovecot,
        )

    def _watch_postfix(self) -> LogWatcher:
        address = re.escape(GUARD_ADDRESS)
        return LogWatcher(
            self.postfix.log,
            "disconnect from",
            lambda: _greet(self.ports[CheckPath("smtp", "clear")]),
            re.compile(rf".*: disconnect from unknown\[{address}\].*"),
            _mask_postfix,
        )


def _log_in_and_out(endpoint: Endpoint, folder: Path) -> None:
    Imaplib(endpoint, MailUser(GUARD, folder)).session().logout()


def _greet(port: int) -> None:
    with smtplib.SMTP(HOST, port, source_address=(GUARD_ADDRESS, 0)):
        pass


def _mask_dovecot(line: str) -> str | None:
    if GUARD in line:
        return None
    line = re.sub(r"^\w+ +\d+ [\d:]+ ", "", line)
    line = re.sub(r"session=<[^>]*>", "session=<#>", line)
    return re.sub(r"in \d+ secs", "in # secs", line)


def _mask_postfix(line: str) -> str | None:
    match = re.search(r"postfix/(smtpd|postscreen)\[\d+\]: (.*)", line)
    if not match or GUARD_ADDRESS in line:
        return None
    return f"{match[1]}: " + re.sub(r"\]:\d+", "]:#", match[2])


def traces(path: CheckPath, commands: str, rounds: int = ROUNDS) -> Counter[str]:
    """Return the lines that this number of clients leaves which connect, send commands and log out."""
    if path.protocol == "smtp":
        lines = [f"smtpd: connect from unknown[{HOST}]", f"smtpd: disconnect from unknown[{HOST}] {commands}"]
        if path.screened:
            connect = f"postscreen: CONNECT from [{HOST}]:# to [{HOST}]:#"
            lines += [connect, f"postscreen: {path.screened} [{HOST}]:#"]
    else:
        security = " TLS," if path.security != "clear" else "" if path.proxied else " secured,"
        event = "Info: Disconnected: Aborted login by logging out (no auth attempts in # secs): user=<>"
        lines = [f"{SERVICES[path.protocol]}-login: {event}, rip={HOST}, lip={HOST},{security} session=<#>"]
    return Counter(dict.fromkeys(lines, rounds))


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have checks wait for servers that are slow to close. After 1 s they close first, and servers log that."""
    monkeypatch.setattr("mailproxy.proxy.checks.probe_connection._CLOSE_TIMEOUT_S", TIMEOUT_S)


@pytest.fixture(scope="module")
def site(descriptors: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("checked")
    authority = Authority.new(folder)
    paths = [*PORTS, *SCREENED]
    ports = dict(zip(paths, free_ports(len(paths), [HOST]), strict=True))
    with (
        MailStore() as store,
        _dovecot(ports, store, authority) as dovecot,
        _postfix(ports, authority) as postfix,
    ):
        yield Site(dovecot, postfix, ports, authority.ca, folder)


def _dovecot(ports: Mapping[CheckPath, int], store: MailStore, authority: Authority) -> Dovecot:
    listeners = [
        Listener(ports[path], path.protocol, tls=path.security == "tls", proxied=path.proxied)
        for path in PORTS
        if path.protocol != "smtp"
    ]
    relay = relay_settings((HOST, ports[CheckPath("smtp", "clear")]))
    return Dovecot(
        HOST, *listeners, users=[GUARD], store=store, certificate=authority.certificate, settings=relay
    )


def _postfix(ports: Mapping[CheckPath, int], authority: Authority) -> Postfix:
    stranger, known, screened_proxied = (f"{HOST}:{ports[path]}" for path in SCREENED)
    return Postfix(
        HOST,
        plain_port=ports[CheckPath("smtp", "clear")],
        proxied_port=ports[CheckPath("smtp", "clear", proxied=True)],
        settings=f"smtpd_tls_chain_files = {authority.folder}/proxy.pem\nsmtpd_tls_security_level = may\n",
        services=MASTER.format(
            tls=f"{HOST}:{ports[CheckPath('smtp', 'tls')]}",
            tls_proxied=f"{HOST}:{ports[CheckPath('smtp', 'tls', proxied=True)]}",
            known=known,
            stranger=stranger,
            screened_proxied=screened_proxied,
        ),
    )


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_check_leaves_lines_of_a_logout(site: Site, path: CheckPath) -> None:
    commands = STARTTLS_USED if path.security == "starttls" else CAPABILITIES_ASKED
    site.assert_traces(path, site.backend(path, DIALOGUES[path.protocol]), traces(path, commands))


@pytest.mark.parametrize("path", TLS_PORTS, ids=str)
def test_tls_check_leaves_lines_of_a_logout(site: Site, path: CheckPath) -> None:
    site.assert_traces(path, site.backend(path, "tls"), traces(path, CAPABILITIES_ASKED))


@pytest.mark.parametrize("logs_out", [True, False], ids=["with-logout", "without-logout"])
@pytest.mark.parametrize("path", PORTS, ids=str)
def test_script_leaves_lines_of_a_logout(site: Site, path: CheckPath, logs_out: bool) -> None:
    steps = [{"expect": GREETINGS[path.protocol]}]
    if logs_out:
        steps.append({"send": f"{GOODBYES[path.protocol]}\r\n"})
    site.assert_traces(path, site.backend(path, "script", steps=steps), traces(path, GREETING_ONLY))


@pytest.mark.parametrize("path", PORTS, ids=str)
def test_bare_connection_leaves_no_line(site: Site, path: CheckPath) -> None:
    site.assert_traces(path, site.backend(path, "tcp", send_proxy="none", tls=False), Counter())


@pytest.mark.parametrize("path", PROXIED_PORTS, ids=str)
def test_connection_with_header_leaves_lines_of_a_logout(site: Site, path: CheckPath) -> None:
    site.assert_traces(path, site.backend(path, "tcp"), traces(path, CAPABILITIES_ASKED))


def test_header_to_tls_server_leaves_logout_lines(site: Site) -> None:
    """The check uses TLS without a key of its own, because sessions do."""
    path = CheckPath("imap", "tls", proxied=True)
    server: Table = {"name": "s1", "address": f"{HOST}:{site.ports[path]}", "tls": {"ca": str(site.ca)}}
    server["check"] = {"type": "tcp", "send_proxy": "v2"}
    site.assert_traces(path, {"protocol": "imap", "servers": [server]}, traces(path, CAPABILITIES_ASKED, 1))


@pytest.mark.parametrize("path", SCREENED, ids=str)
def test_checks_pass_postscreen(site: Site, path: CheckPath) -> None:
    rounds = 1 if path == DELAYED else ROUNDS
    steps = [{"expect": GREETINGS["smtp"]}]
    site.assert_traces(path, site.backend(path, "smtp"), traces(path, CAPABILITIES_ASKED, rounds))
    site.assert_traces(path, site.backend(path, "script", steps=steps), traces(path, GREETING_ONLY, rounds))
    site.assert_traces(path, site.backend(path, "tcp", send_proxy="none"), Counter())


def test_script_timeout_leaves_lines_of_a_logout(site: Site) -> None:
    path = CheckPath("imap", "clear")
    steps = [{"expect": "* OK"}, {"expect": "what never comes"}]
    backend = site.backend(path, "script", steps=steps, timeout="200ms")
    assert site.watch(path).trace(lambda: run_checks(backend, 1), 1) == traces(path, GREETING_ONLY, 1)


def test_running_program_leaves_only_lines_of_logouts(site: Site, folder: Path) -> None:
    """Only while the program runs. A check that is cut off by its end sends no logout."""
    backends = {f"b{n}": site.backend(path, DIALOGUES[path.protocol]) for n, path in enumerate(PATHS)}
    text = "\n".join(f"{key} = {to_toml(value)}" for key, value in configuration(backends).items())
    watches = [site.watch(CheckPath("imap", "clear")), site.watch(CheckPath("smtp", "clear"))]
    before = [len(watch.log.lines()) for watch in watches]

    def new_lines() -> list[list[str]]:
        return [watch.log.lines()[after:] for watch, after in zip(watches, before, strict=True)]

    with Mailproxy(text, folder, []) as proxy:
        wait_until(lambda: all(len(lines) > 100 for lines in new_lines()), "many checks")
        server_lines = new_lines()
        assert "DOWN" not in proxy.log.text()
    assert [line for lines in server_lines for line in lines if ABNORMAL_END.search(line)] == []
    for watch in watches:
        watch.trace(lambda: None, 0)  # lines of interrupted checks must not appear in the next test
