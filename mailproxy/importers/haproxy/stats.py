"""HTTP sections with a statistics page or metrics: they become ``[admin] http``."""

from __future__ import annotations

from mailproxy.address import TcpAddress, parse_bind
from mailproxy.importers.context import Context
from mailproxy.importers.haproxy.addresses import AddressError, bind_addresses
from mailproxy.importers.haproxy.lexer import Line
from mailproxy.importers.haproxy.reader import Section
from mailproxy.importers.place import VARIABLE_START, Origin

_WORDS = ("enable", "uri", "auth", "refresh", "admin", "realm")
_PORT = 8405  # of the examples in mailproxy's documentation


def translate_stats(section: Section, context: Context) -> None:
    """Write the address of a section's statistics page or metrics, on loopback. The first of several counts."""
    page = [line for line in section.lines if _has_words(line, "stats") and line.arguments[0] in _WORDS]
    exporter = [line for line in section.lines if "prometheus-exporter" in line.arguments]
    lines = [*page, *exporter]
    if not lines:
        return
    line = lines[0]
    name = "stats" if page else "prometheus-exporter"
    admin = context.draft.table("admin")
    if exporter:
        context.draft.table("metrics").set("haproxy_names", True, Origin(exporter[0].place))
    if "http" in admin:
        context.report.note(line.place, name, f"is at {admin.get('http')} here, with the one before it")
        return
    host, port = _address(section)
    admin.set("http", f"{host}:{port}", Origin(line.place))
    if _words_of(section, "bind") != f"{host}:{port}":
        context.report.loss(
            line.place,
            name,
            f"is at {host}:{port} here: an address that other machines reach needs tls and token_file",
        )
    if any(each.arguments[0] == "admin" for each in page):
        context.report.note(line.place, "stats admin", "the page gives commands once there is a token_file")


def _has_words(line: Line, name: str) -> bool:
    return line.words[0].text == name and bool(line.arguments)


def _words_of(section: Section, name: str) -> str:
    """Return the first argument of a section's first directive with this name; empty if there is none."""
    return next((line.arguments[0] for line in section.lines if _has_words(line, name)), "")


def _address(section: Section) -> tuple[str, int]:
    """Return host and port for ``[admin] http``: those of the section's bind if they are loopback."""
    head = section.head.words
    text = _words_of(section, "bind") or (head[2].text if len(head) > 2 else "")
    try:
        addresses = bind_addresses(text)
    except AddressError:
        addresses = []
    for each in addresses:
        if each.port and VARIABLE_START not in each.text:
            address = parse_bind(each.text)
            host = each.text.rpartition(":")[0]
            is_local = isinstance(address, TcpAddress) and address.is_loopback
            return host if is_local else "127.0.0.1", each.port
    return "127.0.0.1", _PORT
