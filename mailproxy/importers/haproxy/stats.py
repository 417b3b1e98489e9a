"""Statistics pages: HTTP sections with ``stats enable`` as ``[admin] http``."""

from __future__ import annotations

from mailproxy.importers.context import Context
from mailproxy.importers.haproxy.addresses import AddressError, bind_addresses
from mailproxy.importers.haproxy.proxies import Proxy
from mailproxy.importers.haproxy.reader import Section
from mailproxy.importers.models import has_http
from mailproxy.importers.place import Origin

_WORDS = ("enable", "uri", "auth", "refresh", "admin", "realm")


def translate_stats(section: Section, proxy: Proxy, context: Context) -> None:
    """Write the address of a section's statistics page, on loopback. The first of several counts."""
    lines = [
        line
        for line in section.lines
        if line.words[0].text == "stats" and line.arguments[:1] and line.arguments[0] in _WORDS
    ]
    if not lines:
        return
    binds = [line for line in section.lines if line.words[0].text == "bind" and line.arguments]
    address = (
        binds[0].arguments[0]
        if binds
        else (section.head.words[2].text if len(section.head.words) > 2 else "")
    )
    try:
        port = next((each.port for each in bind_addresses(address) if each.port), None)
    except AddressError:
        port = None
    del proxy
    if not has_http():
        context.report.loss(
            lines[0].place,
            "stats",
            "this version has no metrics and no status page: the admin socket has show stat",
        )
        return
    admin = context.draft.table("admin")
    if "http" in admin:
        context.report.note(lines[0].place, "stats", "there is one status page here: left out")
        return
    admin.set("http", f"127.0.0.1:{port or 8405}", Origin(lines[0].place))
    context.report.note(
        lines[0].place,
        "stats",
        "the status page is on loopback here, since another address needs tls and token_file",
    )
