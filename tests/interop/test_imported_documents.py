"""Configurations from the documentation of Dovecot, HAProxy and Caddy: imported, they serve a real Dovecot.

Addresses, ports and files are put in. All of them run in one process.
"""

from __future__ import annotations

import imaplib
import ssl
from collections.abc import Iterator

import attrs
import pytest

from mailproxy.importers.run import import_texts
from tests.interop.conftest import Site
from tests.support.ports import free_ports
from tests.support.programs.dovecot import PASSWORD, USERS, Dovecot, Listener
from tests.support.programs.program import Mailproxy

pytestmark = [pytest.mark.peers, pytest.mark.slow]

HOST, SERVER = "127.0.0.1", "127.0.0.5"
DEFAULTS = "defaults\nmode tcp\ntimeout client 31m\ntimeout server 31m\ntimeout connect 5s\n"
TLS = "ssl crt {certificates}/proxy.pem"
# Bind and server of each layout. A layout whose name ends with "-tls" has TLS towards the client.
LAYOUTS = {
    "both-tls": (TLS, "{tls_proxied} ssl verify required ca-file {ca} send-proxy-v2-ssl"),
    "inside-tls": (TLS, "{proxied} send-proxy-v2-ssl"),
    "passthrough-tls": ("", "{tls_proxied} send-proxy-v2"),
    "continued-tls": (TLS, "{tls_proxied} ssl verify required \\\nca-file {ca} \\\nsend-proxy-v2-ssl"),
    "hello-tls": (TLS, "{tls} check ssl verify required ca-file {ca}\noption ssl-hello-chk"),
    "greeting": ("", "{proxied} check send-proxy-v2\noption tcp-check\ntcp-check expect string * OK"),
    "sticky": ("", "{proxied} send-proxy-v2\nbalance leastconn\nstick store-request src\nstick-table type ip size 200k expire 30m"),
    "exchange": ("name IMAP tcp-ut 30s", "{clear} check\noption tcp-check\ntcp-check connect port {clear_port}\ntcp-check expect string * OK\ntcp-check connect port {tls_port} ssl\ntcp-check expect string * OK"),
}  # fmt: skip
CADDYFILE = """{{
    layer4 {{
        {host}:{imaps} {{
            @imaps tls sni imap.example.com
            route @imaps {{
                tls
                proxy {{
                    proxy_protocol v1
                    upstream {host}:{imap}
                }}
            }}
        }}
        {host}:{imap} {{
            route {{
                proxy_protocol
                proxy {{
                    proxy_protocol v2
                    upstream {proxied}
                }}
            }}
        }}
    }}
}}

imap.example.com {{
    tls {certificates}/proxy.pem {certificates}/proxy.pem
    respond "OK" 200
}}
"""


@attrs.frozen
class Documents:
    """The ports on which each layout is served."""

    ports: dict[str, int]
    context: ssl.SSLContext

    def log_in(self, layout: str, user: str) -> imaplib.IMAP4:
        """Return a session that is logged in."""
        session: imaplib.IMAP4
        if layout.endswith("-tls"):
            session = imaplib.IMAP4_SSL(HOST, self.ports[layout], ssl_context=self.context, timeout=20)
        else:
            session = imaplib.IMAP4(HOST, self.ports[layout], timeout=20)
        session.login(user, PASSWORD)
        return session


@pytest.fixture(scope="module")
def documents(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Documents]:
    clear, tls, proxied, tls_proxied = free_ports(4, [SERVER])
    values = {
        "clear": f"{SERVER}:{clear}", "tls": f"{SERVER}:{tls}", "proxied": f"{SERVER}:{proxied}", "tls_proxied": f"{SERVER}:{tls_proxied}",
        "clear_port": clear, "tls_port": tls, "ca": site.servers.ca, "certificates": site.proxy.folder, "host": HOST,
    }  # fmt: skip
    *layout_ports, imaps, imap = free_ports(len(LAYOUTS) + 2, [HOST])
    ports = dict(zip(LAYOUTS, layout_ports, strict=True)) | {"caddy-tls": imaps, "caddy": imap}
    haproxy = DEFAULTS
    for name, (bind, server) in LAYOUTS.items():
        haproxy += f"frontend {name}\nbind {HOST}:{ports[name]} {bind}\ndefault_backend {name}\n"
        haproxy += f"backend {name}\nmode tcp\nserver dovecot1 {server}\n"
    folder = tmp_path_factory.mktemp("documents")
    first = import_texts("haproxy", [("haproxy.cfg", haproxy.format(**values))]).text
    second = import_texts("caddy", [("Caddyfile", CADDYFILE.format(imaps=imaps, imap=imap, **values))]).text
    context = ssl.create_default_context(cafile=str(site.proxy.ca))
    context.load_verify_locations(site.servers.ca)  # of TLS that passes through
    context.check_hostname = False
    listeners = (
        Listener(clear),
        Listener(tls, tls=True),
        Listener(proxied, proxied=True),
        Listener(tls_proxied, tls=True, proxied=True),
    )
    (folder / "haproxy").mkdir()
    (folder / "caddy").mkdir()
    with (
        Dovecot(SERVER, *listeners, users=USERS, store=site.store, certificate=site.servers.certificate),
        Mailproxy(first, folder / "haproxy", [(HOST, port) for port in layout_ports]),
        Mailproxy(second, folder / "caddy", [(HOST, imaps), (HOST, imap)]),
    ):
        yield Documents(ports, context)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_login(documents: Documents, user: str, layout: str) -> None:
    session = documents.log_in(layout, user)
    assert session.select()[0] == "OK"
    session.logout()


def test_name_of_caddys_route(documents: Documents, user: str) -> None:
    """The chain through port 993 is for one name, and others are refused."""
    raw = imaplib.IMAP4_SSL

    class Named(raw):  # type: ignore[misc, valid-type]  # imaplib always sends the address as name
        def _create_socket(self, timeout: float | None) -> ssl.SSLSocket:
            connection = imaplib.IMAP4._create_socket(self, timeout)  # type: ignore[attr-defined]  # private
            return documents.context.wrap_socket(connection, server_hostname="imap.example.com")

    session = Named(HOST, documents.ports["caddy-tls"], timeout=20)
    session.login(user, PASSWORD)
    session.logout()
    with pytest.raises(OSError, match="unrecognized name"):
        imaplib.IMAP4_SSL(HOST, documents.ports["caddy-tls"], ssl_context=documents.context, timeout=20)
