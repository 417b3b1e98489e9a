"""Rules of routers, such as ``HostSNI(`imap.example.com`) && ClientIP(`10.0.0.0/8`)``, as conditions of routes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_network

from mailproxy.importers.names import PatternError, names_of

BRANCHES_MAX = 256  # alternatives of one rule
_DEPTH_MAX = 32

Condition = Mapping[str, tuple[str, ...]]

_TOKEN = re.compile(r"""\s*(?:(\w+)\s*\(((?:`[^`]*`|"[^"]*"|'[^']*'|[^()`"'])*)\)|(&&|\|\||[!()]))""")
_ARGUMENT = re.compile(r"`([^`]*)`|\"([^\"]*)\"|'([^']*)'")


def conditions_of(rule: str) -> list[Condition]:
    """Return the alternatives of a rule, each with the values of the keys of a route.

    Raises:
        PatternError: Routes cannot say it.
    """
    parser = _Parser(rule)
    found = parser.any_of(0)
    parser.check_end()
    keys = {tuple(each) for each in found}
    if len(found) > 1 and len(keys) == 1 and len(key := next(iter(keys))) == 1:
        values = [value for each in found for value in each[key[0]]]
        return [{key[0]: tuple(dict.fromkeys(values))}]
    return found


class _Parser:
    def __init__(self, rule: str) -> None:
        self._tokens: list[tuple[str, str]] = []  # name and arguments, or an operator and nothing
        at = 0
        while at < len(rule.rstrip()):
            match = _TOKEN.match(rule, at)
            if match is None:
                raise PatternError(f"the rule cannot be read from {rule[at : at + 20]} on")
            self._tokens.append((match[1] or match[3], match[2] or ""))
            at = match.end()
        self._at = 0

    def _next(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def any_of(self, depth: int) -> list[Condition]:
        found = self._all_of(depth)
        while self._next() == "||":
            self._at += 1
            found = [*found, *self._all_of(depth)]
        return found

    def _all_of(self, depth: int) -> list[Condition]:
        found = self._one(depth)
        while self._next() == "&&":
            self._at += 1
            others = self._one(depth)
            found = [both for one in found for other in others if (both := _join(one, other)) is not None]
            if len(found) > BRANCHES_MAX:
                raise PatternError(f"the rule has more than {BRANCHES_MAX} alternatives")
        return found

    def _one(self, depth: int) -> list[Condition]:
        word = self._next()
        if word == "(" and depth < _DEPTH_MAX:
            self._at += 1
            found = self.any_of(depth + 1)
            if self._next() != ")":
                raise PatternError("a parenthesis is not closed")
            self._at += 1
            return found
        if not word.isidentifier():
            raise PatternError(
                "the opposite of a condition is not here" if word == "!" else "the rule ends too early"
            )
        _, text = self._tokens[self._at]
        self._at += 1
        return [_condition(word, [next(filter(None, each), "") for each in _ARGUMENT.findall(text)])]

    def check_end(self) -> None:
        """Check that the whole rule was read."""
        if self._at < len(self._tokens):
            raise PatternError(f"{self._next()} is unexpected in the rule")


def _condition(name: str, arguments: Sequence[str]) -> Condition:
    if not arguments:
        raise PatternError(f"{name} has no argument")
    if name == "HostSNI":
        if "*" in arguments:
            return {}
        return {"sni": tuple(each.lower() for value in arguments for each in names_of("str", value))}
    if name == "HostSNIRegexp":
        return {"sni": tuple(each.lower() for value in arguments for each in names_of("reg", value))}
    if name == "ALPN":
        return {"alpn": tuple(arguments)}
    if name == "ClientIP":
        return {"client": tuple(map(network, arguments))}
    raise PatternError(f"{name} is not here")


def network(text: str) -> str:
    """Return an address or a network as mailproxy writes it.

    Raises:
        PatternError: It is neither.
    """
    try:
        return str(ip_network(text, strict=False))
    except ValueError:
        raise PatternError(f"{text} is no network") from None


def _join(one: Condition, other: Condition) -> Condition | None:
    """Return the condition that both hold; None if that is never."""
    both = dict(one)
    for key, values in other.items():
        if key not in both:
            both[key] = values
        elif key == "client":
            both[key] = shared_networks(both[key], values)
        else:
            both[key] = tuple(value for value in both[key] if value in values)
        if not both[key]:
            return None
    return both


def shared_networks(one: Sequence[str], other: Sequence[str]) -> tuple[str, ...]:
    """Return the networks that are in both lists, or in a network of the other list."""
    shared = [
        str(narrow)
        for a in map(ip_network, one)
        for b in map(ip_network, other)
        for narrow in [a if a.prefixlen >= b.prefixlen else b]
        if a.version == b.version and a.overlaps(b)
    ]
    return tuple(dict.fromkeys(shared))
