"""The files of `config/` for Postfix as users deploy them: the proxy, and the servers that their head describes."""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import attrs

from tests.support.interop.layouts import CONFIG, PORTS, SERVERS, adapted, bound_addresses
from tests.support.ports import free_ports
from tests.support.programs.dovecot import USERS, Dovecot, Listener
from tests.support.programs.imap_clients import Endpoint
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
    """A file of `config/`, and the title of the part of its head that is master.cf."""

    file: str
    master: str = "master.cf"

    def __str__(self) -> str:
        return self.file + self.master.removeprefix("master.cf").replace(", ", "-").replace(" ", "-")


@attrs.frozen
class RunningPostfixLayout:
    """A layout that runs."""

    proxy: Mailproxy
    servers: tuple[Postfix, ...]
    ports: Mapping[int, int]  # by the numbers in the file
    site: Site

    def client_endpoint(self, number: int, security: Security, *, ends_at_proxy: bool = False) -> Endpoint:
        authority = self.site.proxy if ends_at_proxy else self.site.servers
        return Endpoint(self.ports[number], security, authority.ca, "localhost")

    def wait_for(self, pattern: str) -> str:
        """Wait until one of the servers has logged the pattern, and return the match."""
        matches: list[str] = []

        def has_matched() -> bool:
            for server in self.servers:
                matches.extend(match[0] for match in re.finditer(pattern, server.log.text()))
            return bool(matches)

        wait_until(has_matched, f"{pattern}\n{[server.log for server in self.servers]}\n{self.proxy.log!r}")
        return matches[0]


@contextmanager
def run_layout(layout: PostfixLayout, site: Site, folder: Path) -> Iterator[RunningPostfixLayout]:
    """Run a layout as a reader adapts it: other addresses, ports and certificates.

    The chroot is switched off, because Debian's scripts would have to fill it.
    """
    text = (CONFIG / f"{layout.file}.toml").read_text(encoding="utf-8")
    numbers = sorted({int(number) for number in PORTS.findall(text)})
    hosts = list(SERVERS.values())
    *own, imap, plain, proxied = free_ports(len(numbers) + 3, ("127.0.0.1", *hosts))
    ports = dict(zip(numbers, own, strict=True))
    parts = head_of(adapted(text, ports, site))
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
                services=services_of(parts[layout.master], host, ports),
                certificate=site.servers.certificate,
            )
            if accounts := parts.get("Dovecot, which knows the passwords"):
                running.enter_context(_accounts(host, imap, accounts, postfix, site))
            servers.append(running.enter_context(postfix))
        proxy = running.enter_context(Mailproxy(file.read_text(), folder, bound_addresses(file)))
        yield RunningPostfixLayout(proxy, tuple(servers), ports, site)


def _accounts(host: str, port: int, configuration: str, postfix: Postfix, site: Site) -> Dovecot:
    """Return the Dovecot beside a Postfix, which authenticates its users."""
    text = configuration.replace("/var/spool/postfix", f"{postfix.folder}/queue")
    return Dovecot(
        host,
        Listener(port),
        users=USERS,
        store=site.store,
        certificate=site.servers.certificate,
        configuration=f"disable_plaintext_auth = no\nauth_mechanisms = plain login\n{text}",
    )


def services_of(master: str, host: str, ports: Mapping[int, int]) -> str:
    """Return the lines of master.cf with the addresses of this site, and without chroot."""
    placed = PUBLIC_SERVICE.sub(lambda name: f"{host}:{ports[SERVICE_PORTS[name[1]]]}{name[2]}n", master)
    return CHROOTED.sub(r"\1n", placed)


def head_of(text: str) -> dict[str, str]:
    """Return the parts of a head: indented text, by the title in the line above."""
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
