"""The Caddyfile and the JSON of Caddy's layer4 documentation, imported, with a certificate from Pebble.

Addresses, ports and files are put in. A client that trusts only Pebble's root logs in to a real Dovecot.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mailproxy.cli import main
from mailproxy.testing import ThrowAwayCA
from tests.interop.conftest import Site
from tests.support.acme.pebble import Pebble
from tests.support.acme.site import NAME, eventually, verified_certificate
from tests.support.ports import free_ports
from tests.support.programs.dovecot import USERS, Dovecot, Listener
from tests.support.programs.imap_clients import Endpoint, Imaplib, MailUser
from tests.support.programs.program import Mailproxy

pytestmark = [pytest.mark.peers, pytest.mark.slow]

HOST, SERVER = "127.0.0.1", "127.0.0.6"
STORAGE = "/var/lib/mailproxy/acme"  # where an import has it
OPTIONS = """    email postmaster@example.com
    acme_ca {directory}
    acme_ca_root {ca}
    http_port {http}
"""
CADDYFILE = """{{
{options}    layer4 {{
        {host}:{imaps} {{
            @imaps tls sni imap.example.com
            route @imaps {{
                tls
                proxy {{
                    # send proxy protocol v1
                    proxy_protocol v1
                    upstream localhost:{imap}
                }}
            }}
        }}
        {host}:{imap} {{
            route {{
                # receive proxy protocol v1 or v2
                proxy_protocol
                proxy {{
                    # send proxy protocol v2
                    proxy_protocol v2
                    upstream {server}
                }}
            }}
        }}
    }}
}}

# automatically obtain SSL certificates
# used for TLS termination on port 993
imap.example.com {{
    respond "OK" 200
}}
"""


def caddyfile(values: dict[str, Any]) -> str:
    """Return the Caddyfile, with the authority in its global options."""
    return CADDYFILE.format(options=OPTIONS.format(**values), **values)


def caddy_json(values: dict[str, Any]) -> str:
    """Return the JSON, with the authority as ``caddy adapt`` writes these options."""
    answer = {"body": "OK", "handler": "static_response", "status_code": 200}
    site = {
        "match": [{"host": [NAME]}],
        "handle": [{"handler": "subroute", "routes": [{"handle": [answer]}]}],
        "terminal": True,
    }
    imaps = {
        "match": [{"tls": {"sni": [NAME]}}],
        "handle": [{"handler": "tls"}, _proxy("v1", f"localhost:{values['imap']}")],
    }
    imap = {"handle": [{"handler": "proxy_protocol"}, _proxy("v2", values["server"])]}
    issuer = {
        "module": "acme",
        "ca": values["directory"],
        "email": "postmaster@example.com",
        "trusted_roots_pem_files": [values["ca"]],
    }
    apps = {
        "http": {"http_port": values["http"], "servers": {"srv0": {"listen": [":443"], "routes": [site]}}},
        "layer4": {
            "servers": {
                "srv0": {"listen": [f"{HOST}:{values['imaps']}"], "routes": [imaps]},
                "srv1": {"listen": [f"{HOST}:{values['imap']}"], "routes": [imap]},
            }
        },
        "tls": {"automation": {"policies": [{"subjects": [NAME], "issuers": [issuer]}]}},
    }
    return json.dumps({"apps": apps}, indent=4)


def _proxy(version: str, address: str) -> dict[str, Any]:
    return {"handler": "proxy", "proxy_protocol": version, "upstreams": [{"dial": [address]}]}


DOCUMENTS = {"Caddyfile": caddyfile, "caddy.json": caddy_json}


def imported(file: Path) -> str:
    """Return what ``mailproxy import caddy`` prints for a file."""
    result = CliRunner().invoke(main, ["import", "caddy", str(file)])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def put_in(text: str, old: str, new: str) -> str:
    """Return a configuration with a value of this test instead of an imported one."""
    assert text.count(old) == 1, text
    return text.replace(old, new)


@pytest.mark.parametrize("challenge", ["http-01", "tls-alpn-01"])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_login_with_obtained_certificate(
    site: Site, user: str, tmp_path: Path, name: str, challenge: str
) -> None:
    """A port other than 443 gives http-01. Where 443 is forwarded to that port, tls-alpn-01 works as well."""
    imaps, imap, http = free_ports(3, [HOST])
    (proxied,) = free_ports(1, [SERVER])
    ca = ThrowAwayCA(tmp_path)
    dovecot = Dovecot(
        SERVER, Listener(proxied, proxied=True), users=USERS, store=site.store, certificate=site.servers.certificate
    )  # fmt: skip
    with dovecot, Pebble(tmp_path, ca, http_port=http, tls_port=imaps) as pebble:
        values = {
            "host": HOST, "imaps": imaps, "imap": imap, "http": http, "server": f"{SERVER}:{proxied}",
            "directory": pebble.directory, "ca": str(ca.pem),
        }  # fmt: skip
        file = tmp_path / name
        file.write_text(DOCUMENTS[name](values))
        text = put_in(imported(file), STORAGE, str(tmp_path / "acme"))
        text = put_in(text, f'"*:{http}"', f'"{HOST}:{http}"')
        if challenge == "tls-alpn-01":
            text = put_in(text, f'challenge = "http-01"\nhttp = "{HOST}:{http}"\n', "")
        root = tmp_path / "root.pem"
        root.write_bytes(pebble.root())
        with Mailproxy(text, tmp_path, [(HOST, imaps), (HOST, imap)]):
            context = pebble.client_context()
            eventually(lambda: verified_certificate(imaps, context))
            mailbox = Imaplib(Endpoint(imaps, "tls", root, NAME), MailUser(user, tmp_path))
            mailbox.append(b"Subject: imported\r\n\r\nText\r\n")
            assert b"Subject: imported" in mailbox.fetch()
        assert pebble.orders == 1
