"""The files of `config/` as they would be deployed: the proxy, and the servers that their first comment asks for."""

from __future__ import annotations

import re
import signal
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Self

import attrs

import mailproxy
from mailproxy.address import TcpAddress
from tests.support.ports import are_listening, free_ports
from tests.support.programs.dovecot import USERS, Dovecot, Listener
from tests.support.programs.imap_clients import ClientAddress
from tests.support.programs.program import Mailproxy, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.interop.conftest import Site
    from tests.support.programs.dovecot import Login
    from tests.support.programs.imap_clients import Security

CONFIG = Path(__file__).parents[3] / "config"
SERVERS = {"192.0.2.11": "127.0.0.2", "192.0.2.12": "127.0.0.3"}
PORTS = re.compile(r"\b(25|110|143|465|587|993|995|1143|4190|10143)\b")
A_PROXYS_HEADER = b"PROXY TCP4 203.0.113.5 203.0.113.1 50000 993\r\n"
DOVECOT_LINE = re.compile(r"^#   (.*)\n", re.MULTILINE)


@attrs.frozen
class LayoutBind:
    """A way in for IMAP that a layout offers, who ends TLS there, and what Dovecot is to log of it: see `Login`."""

    number: Literal[143, 993]
    security: Security
    tls_ends_at: Literal["server", "proxy"] = "server"
    logged: str = attrs.field(default="", kw_only=True)
    name: str = attrs.field(default="127.0.0.1", kw_only=True)

    def __str__(self) -> str:
        return f"{self.number}-{self.security}" + (f"-at-{self.tls_ends_at}" if self.number == 993 else "")


@attrs.frozen
class Layout:
    """A file of `config/`, changed as it says itself that it can be."""

    file: str
    entrances: tuple[LayoutBind, ...] = ()
    changes: Mapping[str, str] = MappingProxyType({})
    variant: str = ""

    def __str__(self) -> str:
        return f"{self.file}-{self.variant}" if self.variant else self.file

    def text(self) -> str:
        text = (CONFIG / f"{self.file}.toml").read_text(encoding="utf-8")
        for old, new in self.changes.items():
            assert old in text
            text = text.replace(old, new)
        return text


@attrs.frozen
class RunningLayout:
    """One of them, running."""

    proxy: Mailproxy
    dovecots: tuple[Dovecot, ...]
    ports: Mapping[int, int]  # by the numbers in the file
    site: Site

    def client_address(self, entrance: LayoutBind) -> ClientAddress:
        authority = self.site.servers if entrance.tls_ends_at == "server" else self.site.proxy
        return ClientAddress(self.ports[entrance.number], entrance.security, authority.ca, entrance.name)

    def server_address(self, address: tuple[str, int], security: Security = "clear") -> ClientAddress:
        """What only the proxy is to speak to, spoken to as it does."""
        host, port = address
        return ClientAddress(
            port, security, self.site.servers.ca, "localhost", host=host, header=A_PROXYS_HEADER
        )

    @contextmanager
    def stop_server(self, number: int, at: int) -> Iterator[None]:
        """One of the servers listens at that port no longer, as after a change of its configuration."""
        dovecot, port = self.dovecots[at], self.ports[number]
        host, _ = dovecot.address
        file = dovecot.folder / "dovecot.conf"
        before = file.read_text(encoding="utf-8")

        def configure(text: str, *, listens: bool) -> None:
            file.write_text(text, encoding="utf-8")
            dovecot.process.send_signal(signal.SIGHUP)
            wait_until(lambda: are_listening([(host, port)]) == listens, f"{host}:{port} listens: {listens}")

        configure(before.replace(f"port = {port}\n", "port = 0\n"), listens=False)
        try:
            yield
        finally:
            configure(before, listens=True)

    def stop_gracefully(self) -> None:
        """Those that take their time; leaving the `with` waits for them."""
        for dovecot in self.dovecots:
            dovecot.stop_gracefully()

    def login(self, user: str) -> Login:
        """The first one of that user."""
        logins: list[Login] = []

        def is_there() -> bool:
            logins.extend(login for dovecot in self.dovecots for login in dovecot.logins(user))
            return bool(logins)

        wait_until(is_there, f"{user} logged in\n{[each.log for each in self.dovecots]}")
        return logins[0]


@contextmanager
def run_layout(layout: Layout, site: Site, folder: Path) -> Iterator[RunningLayout]:
    """As a reader would adapt it: other addresses, other ports, other certificates, nothing else."""
    numbers = sorted({int(number) for number in PORTS.findall(layout.text())})
    ports = dict(zip(numbers, free_ports(len(numbers), ("127.0.0.1", *SERVERS.values())), strict=True))
    text = adapted(layout.text(), ports, site)
    file = folder / f"{layout}.toml"
    file.write_text(text, encoding="utf-8")
    with ExitStack() as running:
        hosts = [here for there, here in SERVERS.items() if there in layout.text()] or ["127.0.0.1"]
        dovecots = [running.enter_context(_server(host, ports, _comment(text), site)) for host in hosts]
        proxy = running.enter_context(Mailproxy(text, folder, bound_addresses(file)))
        yield RunningLayout(proxy, tuple(dovecots), ports, site)


def bound_addresses(file: Path) -> list[tuple[str, int]]:
    frontends = mailproxy.load(file).frontends.values()
    addresses = [bind.address for frontend in frontends for bind in frontend.bind]
    return [
        (each.host, each.port) for each in addresses if isinstance(each, TcpAddress) and each.port is not None
    ]


def _comment(text: str) -> str:
    """What the file's head says that Dovecot is to be told."""
    return "".join(f"{line}\n" for line in DOVECOT_LINE.findall(text))


def _server(host: str, ports: Mapping[int, int], configuration: str, site: Site) -> Dovecot:
    """Without a word about it, one for Exchange: the port for TLS and the other, and no PROXY headers."""
    run = partial(Dovecot, host, users=USERS, store=site.store, certificate=site.servers.certificate)
    if configuration:
        return run(alone=True, written=configuration)
    return run(*(Listener(port, tls=number == 993) for number, port in ports.items()))


def adapted(text: str, ports: Mapping[int, int], site: Site) -> str:
    """The text with ports, addresses and certificates that are there."""
    text = PORTS.sub(lambda number: str(ports[int(number[0])]), text)
    replacements = SERVERS | {
        "192.0.2.1 ": "127.0.0.1 ",
        "/etc/mailproxy/certs/": f"{site.proxy.folder}/",
        "/etc/mailproxy/ca.pem": str(site.servers.ca),
        "/etc/mailproxy/client.pem": str(site.proxy.client("mailproxy")),
        "/etc/mailproxy/users-ca.pem": str(site.users.ca),
        "/etc/dovecot/ca.pem": str(site.proxy.ca),
        "imap.internal": "localhost",
        "mail.internal": "localhost",
        "smtp.internal": "127.0.0.1",
        '"*:': '"127.0.0.1:',
        '"[::]:': '"127.0.0.1:',
    }
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text


class RunningLayouts:
    """All that are asked for: each runs from then on until all are left, so that no order of tests is dear."""

    def __init__(self, site: Site, folder: Path) -> None:
        self._site = site
        self._folder = folder
        self._running: dict[str, RunningLayout] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for each in self._running.values():
            each.stop_gracefully()
        self._stack.close()

    def __getitem__(self, layout: Layout) -> RunningLayout:
        name = str(layout)
        if name not in self._running:
            folder = self._folder / name
            folder.mkdir()
            self._running[name] = self._stack.enter_context(run_layout(layout, self._site, folder))
        return self._running[name]


CLEAR = LayoutBind(143, "clear")
STARTTLS = LayoutBind(143, "starttls", logged="TLS")
FORWARDED = LayoutBind(993, "tls", logged="TLS")
OFFLOADED = LayoutBind(993, "tls", "proxy")  # says no more than where the client is
OFFLOADED_AND_SAID = LayoutBind(993, "tls", "proxy", logged="secured")
OFFLOADED_AND_ANEW = LayoutBind(993, "tls", "proxy", logged="TLS")
BY_NAME = LayoutBind(993, "tls", "proxy", name="imap.example.com")

CLEAR_INSIDE = "dovecot-clear-inside"
CLEAR_PORT = "dovecot-clear-port"
CLIENT_CERTIFICATES = Layout("dovecot-client-certificates", (OFFLOADED_AND_SAID,))
MUTUAL_TLS = Layout("dovecot-mutual-tls", (OFFLOADED_AND_ANEW,))
STARTTLS_DEMANDED = Layout(
    CLEAR_PORT,
    (STARTTLS, OFFLOADED_AND_SAID),
    {"#   ssl = no": "#", "#   disable_plaintext_auth = no": "#"},
    "with-starttls",
)
CHAIN = Layout("caddy-imaps-chain", (BY_NAME,))
POP3_SUBMISSION_SIEVE = Layout("dovecot-pop3-submission-sieve")
STICKY = Layout("dovecot-sticky", (STARTTLS,))
BOTH_FORWARD = Layout("exchange-both-forward", (CLEAR, STARTTLS, FORWARDED))
BOTH_FORWARD_IMPATIENT = Layout(
    BOTH_FORWARD.file, BOTH_FORWARD.entrances, {'interval = "15s"': 'interval = "100ms"'}, "impatient"
)

EXCHANGE_LAYOUTS = [
    Layout("exchange-imap-forward", (CLEAR, STARTTLS)),
    Layout("exchange-imaps-forward", (FORWARDED,)),
    Layout("exchange-imaps-offload", (OFFLOADED,)),
    BOTH_FORWARD,
    Layout("exchange-forward-and-offload", (CLEAR, STARTTLS, OFFLOADED)),
]
DOVECOT_LAYOUTS = [
    Layout("dovecot-tls-both-sides", (OFFLOADED_AND_ANEW,)),
    MUTUAL_TLS,
    Layout(CLEAR_INSIDE, (OFFLOADED_AND_SAID,)),
    Layout(CLEAR_PORT, (CLEAR, OFFLOADED_AND_SAID)),
    STARTTLS_DEMANDED,
    Layout("dovecot-passthrough", (FORWARDED,)),
    CLIENT_CERTIFICATES,
    CHAIN,
    STICKY,
]
