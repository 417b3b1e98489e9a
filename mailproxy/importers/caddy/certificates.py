"""Certificates that Caddy obtains: the authority as ``[acme.NAME]``."""

from __future__ import annotations

from mailproxy.importers.caddy.model import Certificates
from mailproxy.importers.caddy.tls import ACME_NAME
from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table
from mailproxy.importers.models import has_acme
from mailproxy.importers.place import Origin


def write_certificates(certificates: Certificates, context: Context) -> None:
    """Write the authority that frontends obtain their certificates from, if they do."""
    authorities = context.draft.keys.get("acme")
    if not has_acme() or not isinstance(authorities, Table):
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
    source = None if table.place is None else Origin(table.place)
    table.set("terms_agreed", value=True, source=source)
    table.set("storage", "/var/lib/mailproxy/acme", source)
