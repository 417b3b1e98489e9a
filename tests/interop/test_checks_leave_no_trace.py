"""A check leaves no more in a server's log than a client that logs out, and a mere connection leaves nothing.

Dovecot has `Aborted login by logging out`, one line; Postfix has its ordinary lines for one that comes and goes. LMTP is
not here: neither Postfix nor Debian's packages of Dovecot that are wanted have a server for it.
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
from tests.support.programs.imap_clients import ClientAddress, Imaplib, MailUser
from tests.support.programs.postfix import Postfix
from tests.support.programs.program import Mailproxy, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.support.programs.check_runner import Table

pytestmark = pytest.mark.peers

ROUNDS = 5  # checks of each kind
GUARD = "guard"  # a user, and where that one comes from
GUARDS_ADDRESS = "127.0.0.77"

Security = Literal["clear", "starttls", "tls"]
Protocol = Literal["imap", "pop3", "sieve", "submission", "smtp"]


@attrs.frozen
class Way:
    """To a server: the protocol, how it comes to TLS, if a PROXY header comes before all else, and what Postfix's
    postscreen says of those who come to that port, if it is there.
    """

    protocol: Protocol
    security: Security
    proxied: bool = False
    screened: str = ""

    def __str__(self) -> str:
        words = [self.protocol, self.security, "proxied" if self.proxied else "", self.screened]
        return "-".join(word for word in words if word)

    @property
    def place(self) -> Way:
        """STARTTLS has no port of its own."""
        return attrs.evolve(self, security="clear") if self.security == "starttls" else self


SECURITIES: dict[Protocol, tuple[Security, ...]] = {
    "imap": ("clear", "starttls", "tls"),
    "pop3": ("clear", "starttls", "tls"),
    "sieve": ("clear", "starttls"),
    "submission": ("clear", "starttls"),
    "smtp": ("clear", "starttls", "tls"),
}
WAYS = [
    Way(protocol, security, proxied)
    for protocol, securities in SECURITIES.items()
    for security in securities
    for proxied in (False, True)
]
STRANGER = Way("smtp", "clear", screened="PASS NEW")  # whom postscreen lets wait for a second
SCREENED = [
    STRANGER,
    Way("smtp", "clear", screened="ALLOWLISTED"),
    Way("smtp", "clear", proxied=True, screened="ALLOWLISTED"),
]
PORTS = [way for way in WAYS if way.place == way]
TLS_PORTS = [way for way in PORTS if way.security == "tls"]
PROXIED_PORTS = [way for way in PORTS if way.proxied]

DIALOGUES = {way.protocol: way.protocol for way in WAYS} | {"submission": "smtp"}
# SMTP's with the blank, so that it is not met by the `220-` of postscreen, which then looks who cannot wait
GREETINGS = {"imap": "* OK", "pop3": "+OK", "sieve": "OK", "submission": "220 ", "smtp": "220 "}
GOODBYES = {"imap": "a1 LOGOUT", "pop3": "QUIT", "sieve": "LOGOUT", "submission": "QUIT", "smtp": "QUIT"}
SERVICES = {"imap": "imap", "pop3": "pop3", "sieve": "managesieve", "submission": "submission"}

# Postfix's words for what was said.
ASKED = "ehlo=1 quit=1 commands=2"
UPGRADED = "ehlo=2 starttls=1 quit=1 commands=4"
GREETED = "quit=1 commands=1"
NEVER = re.compile(r"Connection closed|TLS handshaking|reset by peer|lost connection|SSL_accept")

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
    """A Dovecot and a Postfix with a port for each way."""

    dovecot: Dovecot
    postfix: Postfix
    ports: Mapping[Way, int]
    ca: Path
    folder: Path

    def backend(self, way: Way, type_: str, **words: object) -> Table:
        """One whose server is checked on this way."""
        tls: Table = {"ca": str(self.ca)}
        if way.security == "starttls":
            tls["mode"] = "starttls"
        given: Table = {"tls": False if way.security == "clear" else tls}
        given["send_proxy"] = "v2" if way.proxied else "none"
        address = f"{HOST}:{self.ports[way.place]}"
        check = {"type": type_, "interval": "200ms", **given, **words}
        return {"protocol": way.protocol, "servers": [{"name": "s1", "address": address, "check": check}]}

    def assert_traces(self, way: Way, backend: Table, expected: Counter[str]) -> None:
        """Of so many checks, which all pass, just that is logged."""
        visits = max(expected.values(), default=0)

        def make() -> None:
            results = run_checks(backend, visits or ROUNDS)
            assert all("check passed" in result for result in results), results

        assert self.watch(way).trace(make, visits) == expected

    def watch(self, way: Way) -> LogWatcher:
        return self._over_postfix() if way.protocol == "smtp" else self._over_dovecot()

    def _over_dovecot(self) -> LogWatcher:
        door = ClientAddress(self.ports[Way("imap", "clear")], "clear", self.ca)
        return LogWatcher(
            self.dovecot.log,
            "Disconnected",
            lambda: _come_and_go(door, self.folder),
            re.compile(rf".* imap\({GUARD}\).*Disconnected: Logged out.*"),
            _of_dovecot,
        )

    def _over_postfix(self) -> LogWatcher:
        address = re.escape(GUARDS_ADDRESS)
        return LogWatcher(
            self.postfix.log,
            "disconnect from",
            lambda: _greet(self.ports[Way("smtp", "clear")]),
            re.compile(rf".*: disconnect from unknown\[{address}\].*"),
            _of_postfix,
        )


def _come_and_go(door: ClientAddress, folder: Path) -> None:
    Imaplib(door, MailUser(GUARD, folder)).session().logout()


def _greet(port: int) -> None:
    with smtplib.SMTP(HOST, port, source_address=(GUARDS_ADDRESS, 0)):
        pass


def _of_dovecot(line: str) -> str | None:
    if GUARD in line:
        return None
    line = re.sub(r"^\w+ +\d+ [\d:]+ ", "", line)
    line = re.sub(r"session=<[^>]*>", "session=<#>", line)
    return re.sub(r"in \d+ secs", "in # secs", line)


def _of_postfix(line: str) -> str | None:
    said = re.search(r"postfix/(smtpd|postscreen)\[\d+\]: (.*)", line)
    if not said or GUARDS_ADDRESS in line:
        return None
    return f"{said[1]}: " + re.sub(r"\]:\d+", "]:#", said[2])


def traces(way: Way, commands: str, rounds: int = ROUNDS) -> Counter[str]:
    """What a server has in its log of as many clients that come, say something, and leave in order."""
    if way.protocol == "smtp":
        lines = [f"smtpd: connect from unknown[{HOST}]", f"smtpd: disconnect from unknown[{HOST}] {commands}"]
        if way.screened:
            connect = f"postscreen: CONNECT from [{HOST}]:# to [{HOST}]:#"
            lines += [connect, f"postscreen: {way.screened} [{HOST}]:#"]
    else:
        safety = " TLS," if way.security != "clear" else "" if way.proxied else " secured,"
        said = "Info: Disconnected: Aborted login by logging out (no auth attempts in # secs): user=<>"
        lines = [f"{SERVICES[way.protocol]}-login: {said}, rip={HOST}, lip={HOST},{safety} session=<#>"]
    return Counter(dict.fromkeys(lines, rounds))


@pytest.fixture(scope="module")
def site(descriptors: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("checked")
    authority = Authority.new(folder)
    places = [*PORTS, *SCREENED]
    ports = dict(zip(places, free_ports(len(places), [HOST]), strict=True))
    with (
        MailStore() as store,
        _dovecot(ports, store, authority) as dovecot,
        _postfix(ports, authority) as postfix,
    ):
        yield Site(dovecot, postfix, ports, authority.ca, folder)


def _dovecot(ports: Mapping[Way, int], store: MailStore, authority: Authority) -> Dovecot:
    listeners = [
        Listener(ports[way], way.protocol, tls=way.security == "tls", proxied=way.proxied)
        for way in PORTS
        if way.protocol != "smtp"
    ]
    relay = relay_settings((HOST, ports[Way("smtp", "clear")]))
    return Dovecot(
        HOST, *listeners, users=[GUARD], store=store, certificate=authority.certificate, settings=relay
    )


def _postfix(ports: Mapping[Way, int], authority: Authority) -> Postfix:
    stranger, known, screened_proxied = (f"{HOST}:{ports[way]}" for way in SCREENED)
    return Postfix(
        HOST,
        plain_port=ports[Way("smtp", "clear")],
        proxied_port=ports[Way("smtp", "clear", proxied=True)],
        settings=f"smtpd_tls_chain_files = {authority.folder}/proxy.pem\nsmtpd_tls_security_level = may\n",
        services=MASTER.format(
            tls=f"{HOST}:{ports[Way('smtp', 'tls')]}",
            tls_proxied=f"{HOST}:{ports[Way('smtp', 'tls', proxied=True)]}",
            known=known,
            stranger=stranger,
            screened_proxied=screened_proxied,
        ),
    )


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_dialogue(site: Site, way: Way) -> None:
    commands = UPGRADED if way.security == "starttls" else ASKED
    site.assert_traces(way, site.backend(way, DIALOGUES[way.protocol]), traces(way, commands))


@pytest.mark.parametrize("way", TLS_PORTS, ids=str)
def test_tls_alone(site: Site, way: Way) -> None:
    site.assert_traces(way, site.backend(way, "tls"), traces(way, ASKED))


@pytest.mark.parametrize("polite", [True, False], ids=["with-goodbye", "without-goodbye"])
@pytest.mark.parametrize("way", PORTS, ids=str)
def test_a_script(site: Site, way: Way, polite: bool) -> None:
    steps = [{"expect": GREETINGS[way.protocol]}]
    if polite:
        steps.append({"send": f"{GOODBYES[way.protocol]}\r\n"})
    site.assert_traces(way, site.backend(way, "script", steps=steps), traces(way, GREETED))


@pytest.mark.parametrize("way", PORTS, ids=str)
def test_a_connection_leaves_nothing(site: Site, way: Way) -> None:
    site.assert_traces(way, site.backend(way, "tcp", send_proxy="none", tls=False), Counter())


@pytest.mark.parametrize("way", PROXIED_PORTS, ids=str)
def test_a_connection_that_is_introduced(site: Site, way: Way) -> None:
    site.assert_traces(way, site.backend(way, "tcp"), traces(way, ASKED))


def test_a_connection_that_is_introduced_to_a_server_of_tls(site: Site) -> None:
    """As sessions go over TLS, the check need not say so."""
    way = Way("imap", "tls", proxied=True)
    server: Table = {"name": "s1", "address": f"{HOST}:{site.ports[way]}", "tls": {"ca": str(site.ca)}}
    server["check"] = {"type": "tcp", "send_proxy": "v2"}
    site.assert_traces(way, {"protocol": "imap", "servers": [server]}, traces(way, ASKED, 1))


@pytest.mark.parametrize("way", SCREENED, ids=str)
def test_in_front_of_postscreen(site: Site, way: Way) -> None:
    rounds = 1 if way == STRANGER else ROUNDS
    steps = [{"expect": GREETINGS["smtp"]}]
    site.assert_traces(way, site.backend(way, "smtp"), traces(way, ASKED, rounds))
    site.assert_traces(way, site.backend(way, "script", steps=steps), traces(way, GREETED, rounds))
    site.assert_traces(way, site.backend(way, "tcp", send_proxy="none"), Counter())


def test_a_script_that_runs_out_of_time(site: Site) -> None:
    way = Way("imap", "clear")
    steps = [{"expect": "* OK"}, {"expect": "what never comes"}]
    backend = site.backend(way, "script", steps=steps, timeout="200ms")
    assert site.watch(way).trace(lambda: run_checks(backend, 1), 1) == traces(way, GREETED, 1)


def test_of_the_whole_program_nothing_else_is_left(site: Site, folder: Path) -> None:
    """As long as it runs: a check that its end cuts short says no goodbye."""
    backends = {f"b{n}": site.backend(way, DIALOGUES[way.protocol]) for n, way in enumerate(WAYS)}
    text = "\n".join(f"{key} = {to_toml(value)}" for key, value in configuration(backends).items())
    watches = [site.watch(Way("imap", "clear")), site.watch(Way("smtp", "clear"))]
    before = [len(watch.log.lines()) for watch in watches]

    def new_lines() -> list[list[str]]:
        return [watch.log.lines()[behind:] for watch, behind in zip(watches, before, strict=True)]

    with Mailproxy(text, folder, []) as proxy:
        wait_until(lambda: all(len(lines) > 100 for lines in new_lines()), "many checks")
        said = new_lines()
        assert "DOWN" not in proxy.log.text()
    assert [line for lines in said for line in lines if NEVER.search(line)] == []
    for watch in watches:
        watch.trace(lambda: None, 0)  # the checks that were cut short are none of the next test's
