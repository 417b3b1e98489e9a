"""Certificates of ``crt-store`` sections, and those that the authorities of ``acme`` sections issue."""

from __future__ import annotations

from collections.abc import Sequence

from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table
from mailproxy.importers.haproxy.lexer import Line
from mailproxy.importers.haproxy.reader import Section, path_of
from mailproxy.importers.haproxy.settings import Settings, Stored
from mailproxy.importers.names import settled_name
from mailproxy.importers.place import Origin, Word

_STORAGE = "/var/lib/mailproxy/"
_CURVES = {
    "P-256": "ecdsa-p256", "prime256v1": "ecdsa-p256", "secp256r1": "ecdsa-p256", "P-384": "ecdsa-p384", "secp384r1": "ecdsa-p384",
}  # fmt: skip
_RSA = {"2048": "rsa-2048", "3072": "rsa-3072", "4096": "rsa-4096"}
_NOT_NEEDED = {
    "account-key": "mailproxy makes an account of its own",
    "map": "not needed: mailproxy answers the authority itself",
    "acme-vars": "is for HAProxy's data plane: give a hook in dns",
    "provider-name": "is for HAProxy's data plane: give a hook in dns",
}


def read_store(section: Section, settings: Settings, context: Context) -> None:
    """Read the certificates that a ``crt-store`` section names."""
    bases = {"crt-base": settings.crt_base, "key-base": ""}
    for line in section.lines:
        keyword, words = line.words[0].text, line.arguments
        context.settle(line.place)
        if keyword in bases and words:
            bases[keyword] = words[0]
        elif keyword == "load":
            stored = _stored(words, bases["crt-base"], bases["key-base"])
            if stored is None:
                context.report.loss(line.place, "load", "has no crt, which HAProxy refuses: left out")
                continue
            options = _options(words)
            for name in {options.get("alias", options["crt"]), options["crt"]}:
                settings.stored[f"@{section.name}/{name}"] = stored
                if not section.name:
                    settings.stored[name] = stored
        else:
            context.report.loss(line.place, keyword, "is no word of a crt-store that is known here: left out")


def _options(words: Sequence[str]) -> dict[str, str]:
    return dict(zip(words[::2], words[1::2], strict=False))


def _stored(words: Sequence[str], crt_base: str, key_base: str) -> Stored | None:
    options = _options(words)
    if "crt" not in options:
        return None
    key = options.get("key", "")
    return Stored(
        path_of(options["crt"], crt_base),
        path_of(key, key_base or crt_base) if key else "",
        options.get("acme", ""),
        tuple(name for name in options.get("domains", "").split(",") if name),
    )


def use_words(tls: Table, words: Sequence[Word], settings: Settings, context: Context, word: Word) -> None:
    """Use the certificate of ``ssl-f-use``, or of a line of a ``crt-list``.

    Args:
        tls: The TLS of a bind.
        words: Pairs such as ``crt FILE``, ``key FILE``, ``acme NAME`` and ``domains NAMES``.
        settings: The global section, with the stores and authorities.
        context: The import.
        word: What is reported.
    """
    stored = _stored([each.text for each in words], settings.crt_base, "")
    if stored is None:
        context.report.loss(word.place, word.text, "has no crt: left out")
        return
    known = settings.stored.get(_options([each.text for each in words])["crt"])
    use_stored(tls, stored if known is None or stored.authority else known, settings, context, word)
    for each in words[::2]:
        if each.text not in ("crt", "key", "acme", "domains"):
            context.report.loss(each.place, f"{word.text} {each.text}", "is not here for single certificates")


def use_stored(tls: Table, stored: Stored, settings: Settings, context: Context, word: Word) -> None:
    """Use a certificate: its file, or the authority that issues it."""
    source = Origin(word.place)
    if stored.authority and _is_obtained(tls, stored, settings, context, word):
        known = tls.get("names")
        names = [*(known if isinstance(known, list) else []), *stored.domains]
        tls.set("acme", settled_name(stored.authority), source)
        tls.set("names", list(dict.fromkeys(names)), source)
        return
    row = Table(place=word.place)
    row.set("certificate", stored.certificate, source)
    if stored.key:
        row.set("key", stored.key, source)
    tls.rows("certificates").append(row)


def _is_obtained(tls: Table, stored: Stored, settings: Settings, context: Context, word: Word) -> bool:
    """Whether mailproxy obtains a certificate as HAProxy does; if it does not, that is reported."""
    name = settled_name(stored.authority)
    section = settings.authorities.get(stored.authority)
    why = (
        f"there is no acme section {stored.authority}" if section is None
        else "no domains say which names it is for" if not stored.domains
        else 'wildcards need challenge = "dns-01" with a program of yours' if any(each.startswith("*.") for each in stored.domains)
        else "one bind has certificates of one authority here" if tls.get("acme") not in (None, name)
        else ""
    )  # fmt: skip
    if section is None or why:
        fact = f"HAProxy obtains the certificate, and {why}: mailproxy reads {stored.certificate}"
        context.report.loss(word.place, "acme", fact)
        return False
    authorities = context.draft.table("acme")
    if name not in authorities:
        _write_authority(authorities.table(name), name, section, context)
    fact = f"HAProxy obtains the certificates of {', '.join(stored.domains)}: so does mailproxy, with terms_agreed = true"
    context.report.note(word.place, "acme", fact)
    return True


def _write_authority(table: Table, name: str, section: Section, context: Context) -> None:
    head = section.head
    table.place, table.comments = head.place, head.take_comments()
    given = {line.words[0].text: line for line in section.lines if line.arguments}
    if (line := given.get("directory")) is not None:
        table.set("directory", line.arguments[0], line)
    if (line := given.get("contact")) is not None:
        address = line.arguments[0]
        table.set("contact", [address if ":" in address else f"mailto:{address}"], line)
    table.set("terms_agreed", value=True, source=head)
    _write_keys(table, given, context)
    challenge = given.get("challenge")
    if challenge is not None and challenge.arguments[0].lower() != "http-01":
        fact = 'give challenge = "dns-01" and a program: http-01 is written'
        context.report.loss(challenge.place, "challenge", fact)
    table.set("challenge", "http-01", challenge or head)
    fact = "mailproxy answers the authority on port 80, which must be free while a certificate is obtained"
    context.report.note(head.place, "acme", fact)
    if (line := given.get("reuse-key")) is not None:
        table.set("reuse_key", line.arguments[0] == "on", line)
    if (line := given.get("profile")) is not None:
        table.set("profile", line.arguments[0], line)
    table.set("storage", f"{_STORAGE}{name}", head)


def _write_keys(table: Table, given: dict[str, Line], context: Context) -> None:
    """Write the type of the key; without ``keytype`` HAProxy makes one of P-384."""
    kind, curves, bits = given.get("keytype"), given.get("curves"), given.get("bits")
    is_rsa = kind is not None and kind.arguments[0] == "RSA"
    line = bits if is_rsa else curves
    wanted = line.arguments[0] if line is not None else "4096" if is_rsa else "P-384"
    key = (_RSA if is_rsa else _CURVES).get(wanted)
    if key is not None:
        table.set("keys", [key], line or kind)
    elif line is not None:
        context.report.loss(line.place, line.words[0].text, f"{wanted} is not here: mailproxy's default")
    for each in (kind, curves, bits):
        if each is not None:
            context.settle(each.place)


def report_authorities(settings: Settings, context: Context) -> None:
    """Report ``acme`` sections that nothing uses, and what mailproxy needs no words for in the others."""
    used = context.draft.table("acme")
    for name, section in settings.authorities.items():
        if settled_name(name) not in used:
            for line in section.lines:
                context.settle(line.place)
            context.report.note(section.head.place, "acme", f"no TCP section uses {name}: left out")
            continue
        for line in section.lines:
            if (fact := _NOT_NEEDED.get(line.words[0].text)) is not None:
                context.report.note(line.place, line.words[0].text, fact)
