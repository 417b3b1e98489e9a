"""The file of `config/` for a whole mail host: the proxy, a Dovecot and a Postfix as its head describes them."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs

from tests.support.interop.layouts import CONFIG, PORTS, SERVERS, adapted, bound_addresses
from tests.support.interop.postfix_layouts import head_of, services_of
from tests.support.ports import free_ports
from tests.support.programs.dovecot import USERS, Dovecot
from tests.support.programs.postfix import Postfix
from tests.support.programs.program import Mailproxy, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.interop.conftest import Site


SCREENED = 26
"""The number of a port that is not in the file: mail to postscreen, behind STARTTLS at the proxy."""

SCREENED_FRONTEND = """
[frontends.screened]
protocol = "smtp"
backend = "screened"
bind = [{{ address = "127.0.0.1:{port}", mode = "starttls" }}]

[backends.screened]
send_proxy = "v2"
servers = [{{ name = "postscreen", address = "{host}:{screened}" }}]
"""

SCREENED_SERVICES = """
{host}:{screened} inet n - n - 1 postscreen
  -o postscreen_cache_map= -o smtpd_service_name=pass -o postscreen_upstream_proxy_protocol=haproxy
pass pass - - n - - smtpd
dnsblog unix - - n - 0 dnsblog
tlsproxy unix - - n - 0 tlsproxy
"""


@attrs.frozen
class MailHost:
    """A mail host that runs.

    Attributes:
        ports: The ports of the proxy, by the numbers in the file.
    """

    proxy: Mailproxy
    dovecot: Dovecot
    postfix: Postfix
    ports: Mapping[int, int]
    ca: Path

    def wait_for(self, program: Dovecot | Postfix, pattern: str) -> str:
        """Wait until a server has logged the pattern, and return the match."""
        matches: list[str] = []

        def has_matched() -> bool:
            matches.extend(match[0] for match in re.finditer(pattern, program.log.text()))
            return bool(matches)

        wait_until(has_matched, f"{pattern}\n{program.log!r}\n{self.proxy.log!r}")
        return matches[-1]


@contextmanager
def run_mail_host(site: Site, folder: Path) -> Iterator[MailHost]:
    """Run the mail host with the addresses and certificates of the site."""
    text = (CONFIG / "mail-host.toml").read_text(encoding="utf-8")
    numbers = sorted({int(number) for number in PORTS.findall(text)})
    dovecot_host, postfix_host = SERVERS.values()
    *own, port, screened, plain, proxied = free_ports(
        len(numbers) + 4, ("127.0.0.1", dovecot_host, postfix_host)
    )
    ports = dict(zip(numbers, own, strict=True))
    text = adapted(text, ports, site)
    parts = head_of(text)
    text += SCREENED_FRONTEND.format(host=postfix_host, port=port, screened=screened)
    file = folder / "mail-host.toml"
    file.write_text(text, encoding="utf-8")
    postfix = Postfix(
        postfix_host,
        plain_port=plain,
        proxied_port=proxied,
        settings=parts["The Postfix side, main.cf"],
        services=services_of(parts["master.cf"], postfix_host, ports)
        + SCREENED_SERVICES.format(host=postfix_host, screened=screened),
        certificate=site.servers.certificate,
    )
    accounts = parts["The Dovecot side, dovecot.conf"].replace(
        "/var/spool/postfix", f"{postfix.folder}/queue"
    )
    dovecot = Dovecot(
        dovecot_host,
        users=USERS,
        store=site.store,
        certificate=site.servers.certificate,
        configuration=f"auth_mechanisms = plain login\n{accounts}",
    )
    with dovecot, postfix, Mailproxy(text, folder, bound_addresses(file)) as proxy:
        yield MailHost(proxy, dovecot, postfix, {**ports, SCREENED: port}, site.proxy.ca)
