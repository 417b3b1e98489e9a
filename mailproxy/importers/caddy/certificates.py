"""Certificates that Caddy obtains: the authority as ``[acme.NAME]``."""

from __future__ import annotations

from mailproxy.importers.caddy.model import Certificates
from mailproxy.importers.caddy.tls import ACME_NAME
from mailproxy.importers.complete import HMAC_FILE
from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table
from mailproxy.importers.place import Origin, show

_PORT_OF_TLS = ":443"
_HTTP_PORT = "80"


def write_certificates(certificates: Certificates, context: Context) -> None:
    """Write the authority that frontends obtain their certificates from, if they do."""
    authorities = context.draft.keys.get("acme")
    if not isinstance(authorities, Table):
        return
    table = authorities.table(ACME_NAME)
    options = certificates.options
    if (directory := options.get("acme_ca")) is not None:
        table.set("directory", directory.value, directory)
    if (root := options.get("acme_ca_root")) is not None:
        table.set("ca", root.value, root)
    if (email := options.get("email")) is not None and email.value:
        address = email.value if email.value.startswith("mailto:") else f"mailto:{email.value}"
        table.set("contact", [address], email)
    if (key_id := options.get("eab_key_id")) is not None and key_id.value:
        binding = table.table("eab")
        binding.set("key_id", key_id.value, key_id)
        binding.set("hmac_file", HMAC_FILE, Origin(key_id.place))
        context.report.loss(
            key_id.place, "mac_key", f"is read from a file: put its value, in base64url, into {HMAC_FILE}"
        )
    source = None if table.place is None else Origin(table.place)
    table.set("terms_agreed", value=True, source=source)
    if not _is_port_bound(context.draft, _PORT_OF_TLS) and table.place is not None:
        table.set("challenge", "http-01", source)
        number = _HTTP_PORT
        if (port := options.get("http_port")) is not None and port.value != _HTTP_PORT:
            number = show(port.value)
            table.set("http", f"*:{port.value}", port)
        fact = (
            f"Caddy answers the authority on port {number} or 443: "
            f"mailproxy does on port {number}, which must be free"
        )
        context.report.note(table.place, "tls", fact)
    table.set("storage", "/var/lib/mailproxy/acme", source)


def _is_port_bound(draft: Table, port: str) -> bool:
    """Whether a bind that terminates TLS is at a port, so that the authority's connections end there."""
    frontends = [each for each in draft.table("frontends").keys.values() if isinstance(each, Table)]
    binds = [row for frontend in frontends for row in frontend.rows("bind") if row.get("mode") == "tls"]
    return any(str(row.get("address")).endswith(port) for row in binds)
