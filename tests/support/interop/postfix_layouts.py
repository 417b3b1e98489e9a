"""The files of `config/` for Postfix as they would be deployed: the proxy, and the servers that their head describes."""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import attrs

from tests.support.interop.layouts import CONFIG, PORTS, SERVERS, adapted, bound_addresses
from tests.support.ports import free_ports
from tests.support.programs.dovecot import USERS, Dovecot, Listener
from tests.support.programs.imap_clients import ClientAddress
from tests.support.programs.postfix import Postfix
from tests.support.programs.program import Mailproxy, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.interop.conftest import Site
    from tests.support.programs.imap_clients import Security

SERVICE_PORTS = {"smtp": 25, "submission": 587, "submissions": 465}
PUBLIC_SERVICE = re.compile(r"^(smtp|submission|submissions)( +inet +n +- +)y", re.MULTILINE)
CHROOTED = re.compile(r"^(\w+ +(?:pass|unix) +- +- +)y", re.MULTILINE)


@attrs.frozen
class PostfixLayout:
    """A file of `config/`, and the part of its head that is master.cf."""

    file: str
    master: str = "master.cf"

    def __str__(self) -> str:
        return self.file + self.master.removeprefix("master.cf").replace(", ", "-").replace(" ", "-")


@attrs.frozen
class RunningPostfixLayout:
    """One of them, running."""

    proxy: Mailproxy
    servers: tuple[Postfix, ...]
    ports: Mapping[int, int]  # by the numbers in the file
    site: Site

    def client_address(
        self, number: int, security: Security, *, ends_at_proxy: bool = False
    ) -> ClientAddress:
        authority = self.site.proxy if ends_at_proxy else self.site.servers
        return ClientAddress(self.ports[number], security, authority.ca, "localhost")

    def wait_for(self, pattern: str) -> str:
        """Wait until one of the servers has logged this; returns the match."""
        found: list[str] = []

        def is_there() -> bool:
            for server in self.servers:
                found.extend(match[0] for match in re.finditer(pattern, server.log.text()))
            return bool(found)

        wait_until(is_there, f"{pattern}\n{[server.log for server in self.servers]}\n{self.proxy.log!r}")
        return found[0]


@contextmanager
def run_layout(layout: PostfixLayout, site: Site, folder: Path) -> Iterator[RunningPostfixLayout]:
    """As a reader would adapt it: other addresses, ports and certificates, and no chroot, which Debian would fill."""
    text = (CONFIG / f"{layout.file}.toml").read_text(encoding="utf-8")
    numbers = sorted({int(number) for number in PORTS.findall(text)})
    hosts = list(SERVERS.values())
    *own, imap, plain, proxied = free_ports(len(numbers) + 3, ("127.0.0.1", *hosts))
    ports = dict(zip(numbers, own, strict=True))
    parts = _head(adapted(text, ports, site))
    file = folder / f"{layout}.toml"
    file.write_text(adapted(text, ports, site), encoding="utf-8")
    with ExitStack() as running:
        servers = []
        for host in hosts:
            postfix = Postfix(
                host,
                plain_port=plain,
                proxied_port=proxied,
                settings=parts["main.cf"],
                services=_services(parts[layout.master], host, ports),
                certificate=site.servers.certificate,
            )
            if accounts := parts.get("Dovecot, which knows the passwords"):
                running.enter_context(_accounts(host, imap, accounts, postfix, site))
            servers.append(running.enter_context(postfix))
        proxy = running.enter_context(Mailproxy(file.read_text(), folder, bound_addresses(file)))
        yield RunningPostfixLayout(proxy, tuple(servers), ports, site)


def _accounts(host: str, port: int, configuration: str, postfix: Postfix, site: Site) -> Dovecot:
    """The Dovecot beside a Postfix that knows who may log in."""
    here = configuration.replace("/var/spool/postfix", f"{postfix.folder}/queue")
    return Dovecot(
        host,
        Listener(port),
        users=USERS,
        store=site.store,
        certificate=site.servers.certificate,
        written=f"disable_plaintext_auth = no\nauth_mechanisms = plain login\n{here}",
    )


def _services(master: str, host: str, ports: Mapping[int, int]) -> str:
    placed = PUBLIC_SERVICE.sub(lambda name: f"{host}:{ports[SERVICE_PORTS[name[1]]]}{name[2]}n", master)
    return CHROOTED.sub(r"\1n", placed)


def _head(text: str) -> dict[str, str]:
    """The parts of the head: what is indented, by the line above that announces it."""
    parts: dict[str, str] = {}
    title = ""
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if line.startswith("#   "):
            parts[title] = parts.get(title, "") + line[4:] + "\n"
        elif line.endswith(":"):
            title = line[2:-1]
    return parts


MX = PostfixLayout("postfix-mx")
MX_POSTSCREEN = PostfixLayout("postfix-mx", "master.cf, with postscreen")
SUBMISSION = PostfixLayout("postfix-submission")
SUBMISSION_PASSTHROUGH = PostfixLayout("postfix-submission-passthrough")
POSTFIX_LAYOUTS = [MX, MX_POSTSCREEN, SUBMISSION, SUBMISSION_PASSTHROUGH]
