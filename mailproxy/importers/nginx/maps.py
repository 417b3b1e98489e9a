"""Map and geo blocks whose variable decides the server: routes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_network

from attrs import frozen

from mailproxy.importers.context import Context
from mailproxy.importers.names import PatternError, names_of
from mailproxy.importers.nginx.reader import Directive

_SNI = ("$ssl_preread_server_name", "$ssl_server_name")
_ALPN = ("$ssl_preread_alpn_protocols", "$ssl_alpn_protocol")
_CLIENT = ("$remote_addr", "$binary_remote_addr", "$proxy_protocol_addr")
_SETTINGS = ("hostnames", "volatile", "include", "ranges", "proxy", "delete")


@frozen
class Choice:
    """One line of a map: what a route asks for, and its target.

    Attributes:
        key: The key of the route; empty for the default.
        values: The values of that key.
        target: An upstream or an address.
    """

    key: str
    values: tuple[str | int, ...]
    target: str
    directive: Directive


def read_map(block: Directive, context: Context) -> list[Choice]:
    """Return the choices of a map or geo block, without those that routes cannot say; these are reported."""
    context.settle(block.place)
    words = block.arguments
    source = words[0] if block.name == "map" else (words[0] if len(words) > 1 else "$remote_addr")
    has_hostnames = any(each.name == "hostnames" for each in block.block or ())
    choices = []
    for each in block.block or ():
        context.register(each.place, f"{block.name} {each.name}")
        if each.name in _SETTINGS:
            context.settle(each.place)
            continue
        target = each.arguments[0] if each.arguments else ""
        if has_hostnames and each.name.startswith((".", "*.")):
            context.report.loss(
                each.place,
                block.name,
                "names with any number of labels match in nginx, and *. is exactly one here",
            )
        try:
            choices.append(_choice(each, source, target, has_hostnames=has_hostnames))
            context.settle(each.place)
        except PatternError as error:
            context.report.loss(each.place, f"{block.name} {each.name}", f"{error}: left out")
    return sorted(choices, key=_precedence)


def _precedence(choice: Choice) -> int:
    """Return nginx's order: names, names with a wildcard, regular expressions, the default."""
    if not choice.key:
        return 3
    if choice.directive.name.startswith("~"):
        return 2
    return 1 if choice.directive.name.startswith((".", "*.")) else 0


def _choice(directive: Directive, source: str, target: str, *, has_hostnames: bool) -> Choice:
    pattern = directive.name.removeprefix("\\")
    if directive.name == "default":
        return Choice("", (), target, directive)
    if source in _SNI:
        return Choice("sni", tuple(_server_names(pattern, has_hostnames=has_hostnames)), target, directive)
    if source in _ALPN:
        return Choice("alpn", tuple(_protocols(pattern)), target, directive)
    if source in _CLIENT:
        return Choice("client", (_network(pattern),), target, directive)
    if source == "$server_port" and re.fullmatch("[0-9]{1,5}", pattern):
        return Choice("port", (int(pattern),), target, directive)
    raise PatternError(f"a choice by {source} is not here")


def _server_names(pattern: str, *, has_hostnames: bool) -> list[str]:
    if pattern == "":
        raise PatternError("clients without a server name go to the default")
    if pattern.startswith("~"):
        return names_of("reg", pattern.lstrip("~*"))
    if has_hostnames and pattern.startswith("."):
        return names_of("dom", pattern[1:])
    return names_of("str", pattern)


def _protocols(pattern: str) -> list[str]:
    if not pattern.startswith("~"):
        return [name for name in pattern.split(",") if name]
    match = re.fullmatch(r"~\*?(?:\^|\\b|,)?([A-Za-z0-9./-]+)(?:\$|\\b|,)?", pattern)
    if match is None:
        raise PatternError(f"the regular expression {pattern} is not here: write the protocols")
    return [match[1].replace("\\.", ".")]


def _network(pattern: str) -> str:
    try:
        return str(ip_network(pattern, strict=False))
    except ValueError:
        raise PatternError(f"{pattern} is no network") from None


def maps_of(blocks: list[Directive]) -> Mapping[str, Directive]:
    """Return map and geo blocks by the variable that they set."""
    return {each.arguments[-1]: each for each in blocks if each.name in ("map", "geo") and each.arguments}
