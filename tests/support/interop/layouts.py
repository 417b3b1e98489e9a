"""The files of `config/` as users deploy them: the proxy, and the servers that their first comment describes."""

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
from tests.support.programs.imap_clients import Endpoint
from tests.support.programs.program import Mailproxy, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.interop.conftest import Site
    from tests.support.programs.dovecot import Login
    from tests.support.programs.imap_clients import Security

CONFIG = Path(__file__).parents[3] / "config"
SERVERS = {"192.0.2.11": "127.0.0.2", "192.0.2.12": "127.0.0.3"}
PORTS = re.compile(r"\b(25|110|143|465|587|993|995|1143|4190|10143)\b")
PROXY_HEADER = b"PROXY TCP4 203.0.113.5 203.0.113.1 50000 993\r\n"
DOVECOT_LINE = re.compile(r"^#   (.*)\n", re.MULTILINE)


@attrs.frozen
class LayoutBind:
    """A bind for IMAP in a layout.

    Attributes:
        tls_ends_at: the program that terminates TLS.
        logged: the security that Dovecot logs, see `Login`.
    """

    number: Literal[143, 993]
    security: Security
    tls_ends_at: Literal["server", "proxy"] = "server"
    logged: str = attrs.field(default="", kw_only=True)
    name: str = attrs.field(default="127.0.0.1", kw_only=True)

    def __str__(self) -> str:
        return f"{self.number}-{self.security}" + (f"-at-{self.tls_ends_at}" if self.number == 993 else "")


@attrs.frozen
class Layout:
    """A file of `config/`, perhaps changed as its comments describe."""

    file: str
    binds: tuple[LayoutBind, ...] = ()
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
    """A layout that runs."""

    proxy: Mailproxy
    dovecots: tuple[Dovecot, ...]
    ports: Mapping[int, int]  # by the numbers in the file
    site: Site

    def client_endpoint(self, bind: LayoutBind) -> Endpoint:
        authority = self.site.servers if bind.tls_ends_at == "server" else self.site.proxy
        return Endpoint(self.ports[bind.number], bind.security, authority.ca, bind.name)

    def server_endpoint(self, address: tuple[str, int], security: Security = "clear") -> Endpoint:
        """Return an endpoint of a server, for a client that connects to it as the proxy does."""
        host, port = address
        return Endpoint(port, security, self.site.servers.ca, "localhost", host=host, header=PROXY_HEADER)

    @contextmanager
    def stop_server(self, number: int, at: int) -> Iterator[None]:
        """Make one of the servers stop listening on a port for the block, by a change of its configuration."""
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
        """Ask the slow programs to exit. The end of the `with` block waits for them."""
        for dovecot in self.dovecots:
            dovecot.stop_gracefully()

    def login(self, user: str) -> Login:
        """Return the first login of a user."""
        logins: list[Login] = []

        def has_logged_in() -> bool:
            logins.extend(login for dovecot in self.dovecots for login in dovecot.logins(user))
            return bool(logins)

        wait_until(has_logged_in, f"{user} logged in\n{[each.log for each in self.dovecots]}")
        return logins[0]


@contextmanager
def run_layout(layout: Layout, site: Site, folder: Path) -> Iterator[RunningLayout]:
    """Run a layout as a reader adapts it: other addresses, ports and certificates, nothing else."""
    numbers = sorted({int(number) for number in PORTS.findall(layout.text())})
    ports = dict(zip(numbers, free_ports(len(numbers), ("127.0.0.1", *SERVERS.values())), strict=True))
    text = adapted(layout.text(), ports, site)
    file = folder / f"{layout}.toml"
    file.write_text(text, encoding="utf-8")
    with ExitStack() as running:
        hosts = [local for address, local in SERVERS.items() if address in layout.text()] or ["127.0.0.1"]
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
    """Return the configuration of Dovecot in the comment at the top of the file."""
    return "".join(f"{line}\n" for line in DOVECOT_LINE.findall(text))


def _server(host: str, ports: Mapping[int, int], configuration: str, site: Site) -> Dovecot:
    """Return a Dovecot with this configuration, or one in place of Exchange.

    The latter has a TLS port and a clear port, and no PROXY headers.
    """
    start = partial(Dovecot, host, users=USERS, store=site.store, certificate=site.servers.certificate)
    if configuration:
        return start(process_per_session=True, configuration=configuration)
    return start(*(Listener(port, tls=number == 993) for number, port in ports.items()))


def adapted(text: str, ports: Mapping[int, int], site: Site) -> str:
    """Return the text with the ports, addresses and certificates of the site."""
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
    """Layouts that are started on first use and run until the end, so that the order of tests does not matter."""

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
OFFLOADED = LayoutBind(993, "tls", "proxy")  # the server learns the client's address only
OFFLOADED_REPORTED = LayoutBind(993, "tls", "proxy", logged="secured")
OFFLOADED_REENCRYPTED = LayoutBind(993, "tls", "proxy", logged="TLS")
BY_NAME = LayoutBind(993, "tls", "proxy", name="imap.example.com")

CLEAR_INSIDE = "dovecot-clear-inside"
CLEAR_PORT = "dovecot-clear-port"
CLIENT_CERTIFICATES = Layout("dovecot-client-certificates", (OFFLOADED_REPORTED,))
MUTUAL_TLS = Layout("dovecot-mutual-tls", (OFFLOADED_REENCRYPTED,))
STARTTLS_REQUIRED = Layout(
    CLEAR_PORT,
    (STARTTLS, OFFLOADED_REPORTED),
    {"#   ssl = no": "#", "#   disable_plaintext_auth = no": "#"},
    "with-starttls",
)
# Without an authority: tests/interop/test_acme.py has one.
CHAIN = Layout(
    "caddy-imaps-chain",
    (BY_NAME,),
    changes={'acme = "letsencrypt", names = "routes"': 'certificates = ["/etc/mailproxy/certs/"]'},
)
POP3_SUBMISSION_SIEVE = Layout("dovecot-pop3-submission-sieve")
STICKY = Layout("dovecot-sticky", (STARTTLS,))
BOTH_FORWARD = Layout("exchange-both-forward", (CLEAR, STARTTLS, FORWARDED))
BOTH_FORWARD_IMPATIENT = Layout(
    BOTH_FORWARD.file, BOTH_FORWARD.binds, {'interval = "15s"': 'interval = "100ms"'}, "impatient"
)

EXCHANGE_LAYOUTS = [
    Layout("exchange-imap-forward", (CLEAR, STARTTLS)),
    Layout("exchange-imaps-forward", (FORWARDED,)),
    Layout("exchange-imaps-offload", (OFFLOADED,)),
    BOTH_FORWARD,
    Layout("exchange-forward-and-offload", (CLEAR, STARTTLS, OFFLOADED)),
]
DOVECOT_LAYOUTS = [
    Layout("dovecot-tls-both-sides", (OFFLOADED_REENCRYPTED,)),
    MUTUAL_TLS,
    Layout(CLEAR_INSIDE, (OFFLOADED_REPORTED,)),
    Layout(CLEAR_PORT, (CLEAR, OFFLOADED_REPORTED)),
    STARTTLS_REQUIRED,
    Layout("dovecot-passthrough", (FORWARDED,)),
    CLIENT_CERTIFICATES,
    CHAIN,
    STICKY,
]
