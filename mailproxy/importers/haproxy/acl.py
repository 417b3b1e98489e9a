"""Conditions of HAProxy's rules, as far as routes can say them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Literal

from attrs import field, frozen

from mailproxy.config.network_files import PREFIX, read_networks
from mailproxy.errors import ConfigError
from mailproxy.importers.files import read_text
from mailproxy.importers.haproxy.lexer import Line
from mailproxy.importers.names import PatternError, names_of
from mailproxy.importers.place import Place, Word

BRANCHES_MAX = 256  # alternatives of one condition
_NETWORKS_MAX = 100_000

_SNI = (
    "req.ssl_sni",
    "req_ssl_sni",
    "req.ssl_sni,lower",
    "req_ssl_sni,lower",
    "ssl_fc_sni",
    "ssl_fc_sni,lower",
)
_ALPN = ("req.ssl_alpn", "ssl_fc_alpn", "req_ssl_alpn")
_HELLO = ("req.ssl_hello_type", "req_ssl_hello_type", "req.ssl_ver", "req_ssl_ver")
_SUFFIXES = {"_end": "end", "_beg": "beg", "_sub": "sub", "_reg": "reg", "_dom": "dom"}
_COUNTERS = re.compile(r"(?:sc[0-9]?_|src_)(conn_cur|conn_rate|sess_rate)(?:\([^)]*\))?")
_COMPARISONS = ("gt", "ge", "eq", "lt", "le")

Special = Literal["always", "never", "hello", "conn_cur", "conn_rate"]


class ConditionError(PatternError):
    """A condition that routes cannot say. The message has the reason."""


@frozen
class Condition:
    """What a route asks for.

    Attributes:
        values: The values of each key of a route; any of them fits.
        special: What is not a key of a route.
        limit: For counters of a client: the number of sessions above which the condition holds.
    """

    values: Mapping[str, tuple[str | int | bool, ...]] = field(factory=dict)
    special: Special | None = None
    limit: int = 0


@frozen
class Term:
    """A condition or its opposite. Each of the alternatives is enough."""

    alternatives: tuple[Condition, ...]
    is_negated: bool


Branch = Sequence[Term]


class Conditions:
    """The named conditions (acl lines) of a proxy section."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._named: dict[str, list[Sequence[Word]]] = {}
        for line in lines:
            if len(line.words) > 2:
                self._named.setdefault(line.words[1].text, []).append(line.words[2:])

    def parse(self, words: Sequence[Word]) -> list[Branch]:
        """Return the alternatives of a condition; each is a list of terms that must all hold.

        Args:
            words: The words from ``if`` or ``unless`` on; none for a rule without condition.

        Raises:
            ConditionError: Routes cannot say it.
        """
        if not words:
            return [[]]
        negate_all = words[0].text == "unless"
        branches: list[list[Term]] = [[]]
        position, negated = 1, False
        while position < len(words):
            text = words[position].text
            if text in ("or", "||"):
                branches.append([])
                position += 1
                continue
            while text.startswith("!"):
                negated, text = not negated, text[1:]
            position += 1
            if text == "{":
                end = next(
                    (index for index in range(position, len(words)) if words[index].text == "}"), len(words)
                )
                inside, position = words[position:end], end + 1
                branches[-1].append(Term((self._condition(inside),), negated))
                negated = False
            elif text and text != "and":
                branches[-1].append(Term(self._named_condition(text), negated))
                negated = False
        if not negate_all:
            return list(branches)
        if len(branches) != 1 or len(branches[0]) != 1:
            raise ConditionError("unless with several conditions is not here")
        (term,) = branches[0]
        return [[Term(term.alternatives, not term.is_negated)]]

    def _named_condition(self, name: str) -> tuple[Condition, ...]:
        if name in ("TRUE", "FALSE"):
            return (Condition(special="always" if name == "TRUE" else "never"),)
        if name not in self._named:
            raise ConditionError(f"there is no acl {name}")
        alternatives = tuple(map(self._condition, self._named[name]))
        if len({tuple(each.values) for each in alternatives}) == 1 and alternatives[0].values:
            (key,) = alternatives[0].values
            return (
                Condition(
                    {key: tuple(dict.fromkeys(value for each in alternatives for value in each.values[key]))}
                ),
            )
        return alternatives

    def _condition(self, words: Sequence[Word]) -> Condition:
        if not words:
            raise ConditionError("an empty condition is not here")
        is_client = words[0].text.partition(",")[0] == "src"
        fetch, method, values = _split(words, _network_file if is_client else _values_of_file)
        if fetch in _SNI:
            return _sni(fetch, method, values)
        if fetch == "src" or fetch.startswith("src,ipmask"):
            return Condition({"client": tuple(map(_network, values))})
        if fetch in _ALPN:
            return Condition({"alpn": tuple(values)})
        if fetch == "dst_port":
            return Condition({"port": tuple(port for value in _compared(values) for port in _ports(value))})
        if fetch in _HELLO or fetch in ("req.len", "req_len", "ssl_fc"):
            return Condition(special="hello")
        if fetch in ("always_true", "always_false"):
            return Condition(special="always" if fetch == "always_true" else "never")
        if (counter := _COUNTERS.fullmatch(fetch)) is not None:
            return _counter(counter[1], values)
        raise ConditionError(f"{fetch} is not here")


def _split(words: Sequence[Word], read: Callable[[Word], list[str]]) -> tuple[str, str, list[str]]:
    """Return the fetch, the matching method and the values of a condition. ``read`` returns those of a file."""
    fetch, method, values = words[0].text, "str", []
    for suffix, kind in _SUFFIXES.items():
        if fetch.endswith(suffix) and fetch.removesuffix(suffix) in _SNI:
            fetch, method = fetch.removesuffix(suffix), kind
    position, flags = 1, True
    while position < len(words):
        text = words[position].text
        position += 1
        if flags and text in ("-i", "-n"):
            continue
        if flags and text == "-m" and position < len(words):
            method = words[position].text
            position += 1
        elif flags and text == "-f" and position < len(words):
            values += read(words[position])
            position += 1
        elif flags and text == "--":
            flags = False
        else:
            flags = False
            values.append(text)
    return fetch, method, values


def _values_of_file(word: Word) -> list[str]:
    lines = [line.strip() for line in read_beside(word.text, word.place).splitlines()]
    return [line for line in lines if line and not line.startswith("#")][:_NETWORKS_MAX]


def _network_file(word: Word) -> list[str]:
    """Return the entry of a list of networks that means those of a file."""
    file, _ = _find_beside(word.text, word.place)
    _networks_of(file)
    return [f"{PREFIX}{file}"]


def _networks_of(file: str | Path) -> list[str]:
    try:
        return read_networks(Path(file))
    except ValueError as error:
        raise ConditionError(f"{file}: {error}") from None


def read_beside(path: str, place: Place) -> str:
    """Return the text of a file that is named in another one: a path as it is, or beside that file.

    Raises:
        ConditionError: It cannot be read.
    """
    return _find_beside(path, place)[1]


def _find_beside(path: str, place: Place) -> tuple[Path, str]:
    for file in (Path(path), Path(place.file).parent / path):
        try:
            return file.absolute(), read_text(file)
        except ConfigError:
            continue
    raise ConditionError(f"{path} cannot be read here")


def _sni(fetch: str, method: str, values: Sequence[str]) -> Condition:
    if method == "found":
        raise ConditionError(f"{fetch} -m found is not here")
    names: list[str] = []
    for value in values:
        names += names_of(method, value)
    if not names:
        raise ConditionError("a condition without a name is not here")
    return Condition({"sni": tuple(dict.fromkeys(name.lower() for name in names))})


def _network(text: str) -> str:
    if text.startswith(PREFIX):
        return text
    try:
        return str(ip_network(text, strict=False))
    except ValueError:
        raise ConditionError(f"{text} is no network") from None


def _compared(values: Sequence[str]) -> Sequence[str]:
    if values and values[0] in _COMPARISONS:
        if values[0] != "eq":
            raise ConditionError(f"{values[0]} is not here: write the ports")
        return values[1:]
    return values


def _ports(text: str) -> list[int]:
    match = re.fullmatch(r"([0-9]{1,5})(?::([0-9]{1,5}))?", text)
    if match is None:
        raise ConditionError(f"{text} is no port")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 0 <= last - first < BRANCHES_MAX:
        raise ConditionError(f"{text} is a range of more than {BRANCHES_MAX} ports")
    return list(range(first, last + 1))


def _counter(name: str, values: Sequence[str]) -> Condition:
    if len(values) != 2 or values[0] not in ("gt", "ge") or not re.fullmatch(r"[0-9]{1,9}", values[1]):
        raise ConditionError("a counter compared otherwise than with gt or ge is not here")
    limit = int(values[1]) - (values[0] == "ge")
    return Condition(special="conn_cur" if name == "conn_cur" else "conn_rate", limit=limit)


def join(one: Condition, other: Condition) -> Condition | None:
    """Return the condition that both hold; None if that is never."""
    values = dict(one.values)
    for key, items in other.values.items():
        if key not in values:
            values[key] = items
            continue
        shared = (
            _shared_networks(values[key], items)
            if key == "client"
            else tuple(item for item in values[key] if item in items)
        )
        if not shared:
            return None
        values[key] = shared
    return Condition(values)


def _shared_networks(one: Sequence[object], other: Sequence[object]) -> tuple[str, ...]:
    shared: dict[str, None] = {}
    for a in map(ip_network, _with_files(one)):
        for b in map(ip_network, _with_files(other)):
            if (inner := _inner(a, b)) is not None:
                shared[str(inner)] = None
    return tuple(shared)


def _with_files(values: Sequence[object]) -> list[str]:
    return [
        network
        for value in map(str, values)
        for network in (_networks_of(value.removeprefix(PREFIX)) if value.startswith(PREFIX) else [value])
    ]


def _inner(a: IPv4Network | IPv6Network, b: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network | None:
    if a.version != b.version or not a.overlaps(b):
        return None
    return a if a.prefixlen >= b.prefixlen else b
