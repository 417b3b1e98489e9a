"""The tls handler: TLS that is terminated, and the certificates for it."""

from __future__ import annotations

from mailproxy.importers.caddy.model import Certificates, Handler, Option
from mailproxy.importers.complete import CERTIFICATES
from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table
from mailproxy.importers.models import HAS_TLS13_SUITES
from mailproxy.importers.place import Origin

ACME_NAME = "caddy"
_VERSIONS = {"tls1.2": "1.2", "tls1.3": "1.3"}
_CLIENT_AUTH = {
    "request": "optional",
    "require": "required",
    "verify_if_given": "optional",
    "require_and_verify": "required",
}


def terminated_tls(handler: Handler, names: list[str], certificates: Certificates, context: Context) -> Table:
    """Return the TLS of a frontend.

    Args:
        handler: The tls handler.
        names: The server names of its routes.
        certificates: The certificates of the whole configuration.
        context: The import.
    """
    tls = Table(place=handler.place)
    for name, option in handler.options.items():
        context.settle(option.place)
        if not _option(
            tls, name.removeprefix("connection_policy").lstrip("."), option, context
        ) and name not in ("", "connection_policy"):
            context.report.loss(option.place, name, "is not here: left out")
    if certificates.files:
        for certificate, key, place in certificates.files:
            row = Table(place=place)
            row.set("certificate", certificate, Origin(place))
            if key and key != certificate:
                row.set("key", key, Origin(place))
            tls.rows("certificates").append(row)
            context.settle(place)
        return tls
    wanted = names or list(certificates.names)
    obtained = [name for name in wanted if name not in certificates.internal and not name.startswith("*.")]
    if obtained and len(obtained) == len(wanted):
        tls.set("acme", ACME_NAME, Origin(handler.place))
        tls.set("names", obtained, Origin(handler.place))
        context.draft.table("acme").table(ACME_NAME).place = handler.place
        context.report.note(
            handler.place,
            "tls",
            f"Caddy obtains the certificates of {', '.join(obtained)}: so does mailproxy, with terms_agreed = true",
        )
        return tls
    row = Table(place=handler.place)
    row.set("certificate", CERTIFICATES, Origin(handler.place))
    tls.rows("certificates").append(row)
    why = _why_not_obtained(wanted, certificates)
    context.report.loss(
        handler.place, "tls", f"Caddy obtains the certificates, and {why}: put them into {CERTIFICATES}"
    )
    return tls


def _why_not_obtained(wanted: list[str], certificates: Certificates) -> str:
    if certificates.internal.intersection(wanted):
        return "there is no CA of Caddy's own here"
    if not wanted:
        return "no route says which names they are for"
    return 'wildcards need challenge = "dns-01" with a program of yours'


def _option(tls: Table, name: str, option: Option, context: Context) -> bool:
    """Translate an option of a connection policy; return False if there is no key for it."""
    if name == "alpn":
        tls.set("alpn", list(option.values), option)
    elif name == "protocols":
        versions = [_VERSIONS[value] for value in option.values if value in _VERSIONS]
        for key, version in zip(("min_version", "max_version"), versions, strict=False):
            tls.set(key, version, Origin(option.place))
    elif name == "ciphers":
        context.report.loss(
            option.place, name, "Caddy's names of ciphers are not OpenSSL's: its defaults are used"
        )
    elif name == "curves" and (HAS_TLS13_SUITES or len(option.values) == 1):
        tls.set("curves", ":".join(option.values), option)
    elif name == "client_auth.mode" and option.value in _CLIENT_AUTH:
        tls.set("client_verify", _CLIENT_AUTH[option.value], option)
    elif name.startswith("client_auth") and (
        name.endswith(("trusted_ca_cert_file", "pem_file", "trust_pool.file", "pem_files"))
    ):
        tls.set("client_ca", option.values[-1] if option.values else "", option)
    elif name in (
        "client_auth",
        "client_auth.trust_pool",
        "client_auth.ca",
        "client_auth.ca.provider",
        "match",
        "match.sni",
        "default_sni",
    ):
        pass
    else:
        return False
    return True
