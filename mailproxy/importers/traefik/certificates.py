"""TLS that ends at Traefik: its options, and certificates from files or authorities."""

from __future__ import annotations

from mailproxy.importers.complete import CERTIFICATES, HMAC_FILE
from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table
from mailproxy.importers.models import HAS_TLS13_SUITES
from mailproxy.importers.names import settled_name
from mailproxy.importers.node import Node
from mailproxy.importers.place import Origin
from mailproxy.importers.traefik.reader import entries, items, leaves, pick
from mailproxy.importers.traefik.services import own_name

_VERSIONS = {"VersionTLS12": "1.2", "VersionTLS13": "1.3"}
_CLIENT_AUTH = {
    "RequestClientCert": "optional",
    "RequireAnyClientCert": "required",
    "VerifyClientCertIfGiven": "optional",
    "RequireAndVerifyClientCert": "required",
}
_KEY_TYPES = {"EC256": "ecdsa-p256", "EC384": "ecdsa-p384", "RSA2048": "rsa-2048", "RSA4096": "rsa-4096"}
_STORAGE = "/var/lib/mailproxy/acme"
_CHALLENGES = {"tlsChallenge": "tls-alpn-01", "httpChallenge": "http-01", "dnsChallenge": "dns-01"}


def terminated_tls(tls: Node, names: list[str], root: Node, context: Context) -> Table:
    """Return the TLS of a frontend.

    Args:
        tls: The ``tls`` of its first router that ends TLS.
        names: The server names of its routers.
        root: The whole configuration.
        context: The import.
    """
    table = Table(place=tls.place)
    context.settle(tls.place)
    named = pick(tls, "options")
    if named is not None:
        context.settle(named.place)
    options = entries(root, "tls", "options").get("default" if named is None else own_name(named.text))
    if options is not None:
        _options(table, options, context)
    resolver = pick(tls, "certResolver")
    if resolver is not None:
        context.settle(resolver.place)
        if _obtained(table, resolver, _domains(tls, context) or names, root, context):
            return table
    for pair in (
        *items(root, "tls", "certificates"),
        pick(root, "tls", "stores", "default", "defaultCertificate"),
    ):
        certificate, key = pick(pair, "certFile"), pick(pair, "keyFile")
        if certificate is None or not certificate.text:
            continue
        row = Table(place=certificate.place)
        row.set("certificate", certificate.text, certificate)
        if key is not None and key.text:
            row.set("key", key.text, key)
        table.rows("certificates").append(row)
    if not table.rows("certificates"):
        row = Table(place=tls.place)
        row.set("certificate", CERTIFICATES, Origin(tls.place))
        table.rows("certificates").append(row)
        if resolver is None:
            fact = f"Traefik makes a certificate of its own: put one into {CERTIFICATES}"
            context.report.loss(tls.place, "tls", fact)
    return table


def _domains(tls: Node, context: Context) -> list[str]:
    names = []
    for domain in items(tls, "domains"):
        for _, node in leaves(domain):
            context.settle(node.place)
            names += node.texts
    return names


def _options(table: Table, options: Node, context: Context) -> None:
    for key, own in (("minVersion", "min_version"), ("maxVersion", "max_version")):
        if (node := pick(options, key)) is None:
            continue
        if node.text in _VERSIONS:
            table.set(own, _VERSIONS[node.text], node)
        else:
            context.report.loss(node.place, key, f"{node.text}: mailproxy speaks TLS 1.2 and 1.3 only")
    if (strict := pick(options, "sniStrict")) is not None:
        table.set("strict_sni", strict.value is True, strict)
    if (alpn := pick(options, "alpnProtocols")) is not None:
        table.set("alpn", alpn.texts, alpn)
    curves = pick(options, "curvePreferences")
    if curves is not None and (HAS_TLS13_SUITES or len(curves.texts) == 1):
        table.set("curves", ":".join(curves.texts), curves)
    if (suites := pick(options, "cipherSuites")) is not None:
        context.report.loss(
            suites.place, "cipherSuites", "the names are not OpenSSL's: its defaults are used"
        )
    if (prefer := pick(options, "preferServerCipherSuites")) is not None:
        context.report.note(prefer.place, "preferServerCipherSuites", "not needed")
    kind, authorities = pick(options, "clientAuth", "clientAuthType"), pick(options, "clientAuth", "caFiles")
    if kind is not None and kind.text in _CLIENT_AUTH:
        table.set("client_verify", _CLIENT_AUTH[kind.text], kind)
    if authorities is not None and authorities.texts:
        table.set("client_ca", authorities.texts[0], authorities)
        if len(authorities.texts) > 1:
            fact = "one file with all CAs is needed: the first is used"
            context.report.loss(authorities.place, "caFiles", fact)


def _obtained(table: Table, resolver: Node, names: list[str], root: Node, context: Context) -> bool:
    """Let mailproxy obtain the certificates; return False if it cannot."""
    authority = pick(entries(root, "certificatesResolvers").get(resolver.text), "acme")
    wildcards = [name for name in names if name.startswith("*.")]
    if authority is None or not names or wildcards:
        why = (
            "there is no such resolver in these files" if authority is None
            else "no rule says which names they are for" if not names
            else 'wildcards need challenge = "dns-01" with a program of yours'
        )  # fmt: skip
        context.report.loss(
            resolver.place,
            "certResolver",
            f"Traefik obtains the certificates, and {why}: put them into {CERTIFICATES}",
        )
        for _, node in leaves(authority) if authority is not None else ():
            context.settle(node.place)
        return False
    name = settled_name(resolver.text)
    table.set("acme", name, resolver)
    table.set("names", list(dict.fromkeys(names)), resolver)
    authorities = context.draft.table("acme")
    if name not in authorities:
        storage = f"{_STORAGE}-{name}" if authorities.keys else _STORAGE
        _authority(authorities.table(name), authority, storage, context)
    fact = "Traefik obtains the certificates: so does mailproxy, with terms_agreed = true"
    context.report.note(resolver.place, "certResolver", fact)
    return True


def _authority(table: Table, authority: Node, storage: str, context: Context) -> None:
    table.place = authority.place
    for key, own in (("caServer", "directory"), ("email", "contact"), ("keyType", "keys")):
        if (node := pick(authority, key)) is None or not node.text:
            continue
        if own == "directory":
            table.set(own, node.text, node)
        elif own == "contact":
            table.set(own, [f"mailto:{node.text}"], node)
        elif node.text in _KEY_TYPES:
            table.set(own, [_KEY_TYPES[node.text]], node)
    table.set("terms_agreed", value=True)
    for key, own in _CHALLENGES.items():
        if (challenge := pick(authority, key)) is None:
            continue
        for _, node in leaves(challenge):
            context.settle(node.place)
        if own == "dns-01":
            context.report.loss(
                challenge.place, key, 'give challenge = "dns-01" and a program: http-01 is written'
            )
        table.set_default("challenge", "http-01" if own == "dns-01" else own, challenge)
    if (key_id := pick(authority, "eab", "kid")) is not None:
        table.table("eab").set("key_id", key_id.text, key_id)
        table.table("eab").set("hmac_file", HMAC_FILE, Origin(key_id.place))
    if (hmac := pick(authority, "eab", "hmacEncoded")) is not None:
        fact = f"is read from a file: put its value, in base64url, into {HMAC_FILE}"
        context.report.loss(hmac.place, "hmacEncoded", fact)
    table.set("storage", storage)
    if (file := pick(authority, "storage")) is not None:
        context.report.note(file.place, "storage", f"mailproxy keeps a folder: {storage}")
