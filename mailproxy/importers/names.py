"""Names: of frontends, and the server names that patterns mean."""

from __future__ import annotations

import re
from collections.abc import Container

from mailproxy.importers.place import VARIABLE_END, VARIABLE_START, show

NAMES_MAX = 256  # names that one pattern means

_NOT_NAMES = re.compile(r"[^A-Za-z0-9_.*-]")
_UNSETTLED = re.compile(r"[^A-Za-z0-9_.:\[\]*/-]")
_VARIABLE = re.compile(f"{VARIABLE_START}[^{VARIABLE_END}]*{VARIABLE_END}")
_OF_PORTS = {
    143: "imap",
    993: "imaps",
    110: "pop3",
    995: "pop3s",
    25: "smtp",
    587: "submission",
    465: "submissions",
    4190: "sieve",
    24: "lmtp",
}


class PatternError(ValueError):
    """A pattern that is no list of names. The message has the reason."""


def settled_name(text: str) -> str:
    """Return a name with the characters that mailproxy's names can have."""
    return _UNSETTLED.sub("_", text)[:128]


def name_of_port(port: int | None) -> str:
    """Return the name of the service at a port."""
    return "mail" if port is None else _OF_PORTS.get(port, f"port-{port}")


def port_of_name(name: str) -> int | None:
    """Return the port of a service that a name is, such as ``imaps`` or ``mail-993``; None if it is none."""
    word = name.lower().replace("_", "-")
    digits = re.search(r"(?:^|-)([0-9]{2,5})$", word)
    if digits is not None and int(digits[1]) in _OF_PORTS:
        return int(digits[1])
    return next((port for port, service in _OF_PORTS.items() if service == word), None)


def unused_name(wanted: str, taken: Container[str]) -> str:
    """Return a name that is not taken: the wanted one, else with a number from 2.

    Files may have thousands of servers with one name, so the number is searched for by halves.
    """
    if wanted not in taken:
        return wanted
    last_taken, free = 1, 2
    while f"{wanted}-{free}" in taken:
        last_taken, free = free, free * 2
    while free - last_taken > 1:
        middle = (last_taken + free) // 2
        if f"{wanted}-{middle}" in taken:
            last_taken = middle
        else:
            free = middle
    return f"{wanted}-{free}"


def names_of(method: str, value: str) -> list[str]:
    """Return the names that a pattern of server names means.

    Args:
        method: ``str``, ``end``, ``dom`` or ``reg``.
        value: The pattern.

    Raises:
        PatternError: It is no list of names.
    """
    if method in ("str", "string"):
        names = [value]
    elif method == "end" and value.startswith("."):
        names = [f"*{value}"]
    elif method in ("end", "dom"):
        names = [value, f"*.{value}"]
    elif method == "reg":
        names = _names_of_regex(value)
    else:
        raise PatternError(f"names by {method} are not here: write the names")
    if not all(map(_is_name, names)):
        raise PatternError(f"{show(value)} is no server name")
    return names


def _is_name(name: str) -> bool:
    """Whether a text is a server name; variables of the environment may be any part of one."""
    rest = _VARIABLE.sub("x", name)
    return bool(rest) and not _NOT_NAMES.search(rest) and "*" not in rest.removeprefix("*.")


def _names_of_regex(pattern: str) -> list[str]:
    """Return the names of a regular expression without repetition: ``^(imap|mail)[.]example[.]com$``."""
    text = pattern.removeprefix("^").removesuffix("$").replace("[.]", "\\.")
    text = re.sub(r"^(\.\*|\.\+|\[\^\.\]\+|\[\^\.\]\*|\[a-z0-9-\]\+)\\\.", "*.", text)
    names = [""]
    for part in re.findall(r"\([^()]*\)|\\\.|[^()\\]+|.", text):
        is_group = part.startswith("(") and part.endswith(")")
        choices = part[1:-1].removeprefix("?:").split("|") if is_group else [part]
        names = [name + choice.replace("\\.", ".") for name in names for choice in choices]
        if len(names) > NAMES_MAX:
            raise PatternError(f"the regular expression {pattern} is not here: write the names")
    if any(_NOT_NAMES.search(name) or "*" in name.removeprefix("*.") for name in names):
        raise PatternError(f"the regular expression {pattern} is not here: write the names")
    return names
