"""The kinds of value that a key can have: how each is read, what is allowed in words, and its JSON Schema.

cattrs coerces by default (``"25"`` would become a port, ``"no"`` would become true), so every kind has a strict hook
here and none is left to cattrs' own.
"""

from __future__ import annotations

import os.path
import re
import warnings
from collections.abc import Callable, Mapping
from datetime import date, time
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, Literal, NewType, get_args, get_origin

from attrs import frozen

from mailproxy.address import BindAddress, ServerAddress, TcpAddress, parse_bind, parse_server
from mailproxy.config.units import parse_duration, parse_size

Seconds = NewType("Seconds", float)
TimeLimit = NewType("TimeLimit", float)
Size = NewType("Size", int)
Count = NewType("Count", int)
Positive = NewType("Positive", int)
RateCount = NewType("RateCount", int)
RatePeriod = NewType("RatePeriod", float)
Port = NewType("Port", int)
Weight = NewType("Weight", int)
Mode = NewType("Mode", int)
Name = NewType("Name", str)
SyslogTag = NewType("SyslogTag", str)
Account = NewType("Account", str)
HostName = NewType("HostName", str)
Text = NewType("Text", str)
SentText = NewType("SentText", str)
SentHex = NewType("SentHex", str)
ExpectedText = NewType("ExpectedText", str)
ExpectedHex = NewType("ExpectedHex", str)
Pattern = NewType("Pattern", str)
PrefixV4 = NewType("PrefixV4", int)
PrefixV6 = NewType("PrefixV6", int)
Network = IPv4Network | IPv6Network
ProxySource = IPv4Network | IPv6Network | Literal["unix"]
Workers = int | Literal["auto"]
Redispatch = bool | int
KeepAliveTime = NewType("KeepAliveTime", float)
KeepAliveCount = NewType("KeepAliveCount", int)
SourceAddress = NewType("SourceAddress", str)
HelloName = NewType("HelloName", str)
AlpnName = NewType("AlpnName", str)
ServerTlsMode = Literal["implicit", "starttls"]
SniPatterns = tuple[str, ...] | Literal[False]

_NAME_MAX = 128  # characters; more would only make lines long
WEIGHT_MAX = 256  # HAProxy's
_INT_MAX = 2**31 - 1  # what the kernel takes for a backlog, and more than anybody counts
_WRITABLE_DEVICE = re.compile(r"/dev/(stdout|stderr|null|console|tty.*|pts/[0-9]+|fd/[0-9]+)")
_KEEPALIVE_MAX_S = 32767  # of the kernel's idle time and interval (tcp(7)); whole seconds
_HELLO_MAX = 255  # of a domain (RFC 5321 section 4.5.3.1.2); protocol.smtp has the same number
_NO_ID = 2**32 - 1  # (uid_t) -1, which system calls take for none
_RATE_COUNT_MAX = 2**16 - 1  # what pool.clients counts to in one window
_RATE_PERIOD_MAX_S = 86400.0  # longer, and the limit is no answer to anything that goes on now
_EXPECTED_MAX = 16384  # bytes that an expectation of a check looks at; protocol.script has the same number


class Expanded(str):
    """A string that is the value of one environment variable and nothing else; it may stand for a number or a truth."""

    __slots__ = ()


class InvalidValueError(ValueError):
    """A value is not of its kind; the message says what is allowed."""

    def __init__(self, value: object, allowed: str) -> None:
        self.value = value
        self.allowed = allowed
        super().__init__(f"{to_display(value)} is not allowed: {allowed}")


@frozen
class LogTarget:
    """Where log lines go: ``stderr``, ``stdout``, ``syslog:…``, else a path."""

    where: str

    def __str__(self) -> str:
        return self.where

    @property
    def syslog(self) -> tuple[str, int] | str | None:
        """``(host, port)`` or the path of syslog's socket; None for other targets."""
        if not self.where.startswith("syslog:"):
            return None
        rest = self.where.removeprefix("syslog:")
        if rest.startswith("/"):
            return rest
        host, _, port = rest.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def path(self) -> Path | None:
        """The file, if it is one."""
        if self.where in ("stderr", "stdout") or self.where.startswith("syslog:"):
            return None
        return Path(self.where)


@frozen
class ValueType:
    """One kind of value. ``read`` raises ValueError, with a fact if ``allowed`` does not say it all."""

    read: Callable[[object], object]
    allowed: str
    schema: Mapping[str, object]

    def structure(self, value: object, _type: object = None) -> Any:
        """The hook that cattrs calls."""
        try:
            return self.read(value)
        except InvalidValueError:
            raise
        except ValueError as error:
            fact = str(error)
            raise InvalidValueError(value, f"{fact}; {self.allowed}" if fact else self.allowed) from None


def to_display(value: object) -> str:
    """A value as it stood in the file, shortened, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "a list of tables"
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, list):
        return _shorten(f"[{', '.join(map(to_display, value))}]")
    try:
        text = f'"{printable(value)}"' if isinstance(value, str) else repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"
    return _shorten(text)


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else text[:76] + "…" + text[-1]


def printable(text: str) -> str:
    """The text on one line and harmless to terminals: what does not print is written as TOML escapes it."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def as_name(text: str) -> str:
    """A name made of an address, for what was given none: an interface or a path may have any characters."""
    return re.sub(r"[^A-Za-z0-9_.:\[\]*/-]", "_", text)[:_NAME_MAX]


def _integer(lowest: int, highest: int | None = None) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, Expanded) and re.fullmatch(r"[0-9]{1,18}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError  # noqa: TRY004 - one kind of error for every unfit value
        if value < lowest or (highest is not None and value > highest):
            raise ValueError
        return value

    return read


def _boolean(value: object) -> bool:
    if isinstance(value, Expanded) and value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        raise ValueError  # noqa: TRY004 - one kind of error for every unfit value
    return value


def _share(value: object) -> float:
    if isinstance(value, Expanded) and re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,18})?", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError
    return str(value)


def _name(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _NAME_MAX or value != as_name(value):
        raise ValueError
    return str(value)


def _syslog_tag(value: object) -> str:
    # RFC 3164 section 4.1.3: what is no letter or digit ends a tag; what real programs have in theirs passes
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_./-]{1,32}", value):
        raise ValueError
    return str(value)


def _account(value: object) -> str:
    text = _text(value)
    if text.startswith("#") and not (re.fullmatch(r"#[0-9]{1,10}", text) and int(text[1:]) < _NO_ID):
        raise ValueError
    return text


def _host_name(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 - one kind of error for every unfit value
    address = parse_server(value)
    if not isinstance(address, TcpAddress) or address.port is not None:
        raise ValueError
    return address.host.rstrip(".")


# What a step of a check sends and expects. The running proxy compiles it with protocol.script.compile_step, which this
# layer does not know: these take exactly what that one takes.


def _octets(encode: Callable[[str], bytes], most: int | None = None) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or not (octets := encode(value)):
            raise ValueError
        if most is not None and len(octets) > most:
            raise ValueError(f"has {len(octets)} bytes, and no more than {most} are looked at")
        return str(value)

    return read


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # a variable of the environment may have any bytes
        raise ValueError("is not UTF-8") from None


def _from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:  # its own words are for programmers
        raise ValueError from None


def _pattern(value: object) -> str:
    text = _octets(_utf8)(value)
    try:
        with (
            warnings.catch_warnings()
        ):  # "[[" may mean something else in a later Python; that is none of the user's
            warnings.simplefilter("ignore")
            re.compile(text.encode(), re.MULTILINE)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return text


def _time_limit(value: object) -> float:
    seconds = parse_duration(value)
    if seconds == 0:
        raise ValueError("must be above 0")
    return seconds


def _keepalive_time(value: object) -> float:
    seconds = parse_duration(value)
    if not 1 <= seconds <= _KEEPALIVE_MAX_S:
        raise ValueError
    return seconds


def _source_address(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 - one kind of error for every unfit value
    if value == "client":
        return "client"
    try:
        address = ip_address(value)
    except ValueError:  # its own words are for programmers
        raise ValueError from None
    if address.is_unspecified or address.is_multicast:
        raise ValueError
    return str(address)


def _hello_name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value) or len(value) > _HELLO_MAX:
        raise ValueError
    return str(value)


def _alpn_name(value: object) -> str:
    # RFC 7301 section 3.1: 1 to 255 bytes; Python's ssl takes ASCII only
    if not isinstance(value, str) or not re.fullmatch(r"[ -~]{1,255}", value):
        raise ValueError
    return str(value)


def _rate_period(value: object) -> float:
    seconds = _time_limit(value)
    if seconds > _RATE_PERIOD_MAX_S:
        raise ValueError("must be at most 1d")
    return seconds


def _mode(value: object) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError
    return int(value, 8)


def _network(value: object) -> IPv4Network | IPv6Network:
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 - one kind of error for every unfit value
    try:
        return ip_network(value)
    except ValueError as error:
        if "host bits" not in str(error):
            raise ValueError from None
        raise ValueError(f'has host bits set: "{ip_network(value, strict=False)}" is the network') from None


def _proxy_source(value: object) -> IPv4Network | IPv6Network | Literal["unix"]:
    return "unix" if value == "unix" else _network(value)


def _workers(value: object) -> int | str:
    return "auto" if value == "auto" else _integer(1)(value)


def _redispatch(value: object) -> bool | int:
    return _boolean(value) if isinstance(value, bool) or value in ("true", "false") else _integer(1)(value)


def _log_target(value: object) -> LogTarget:
    text = _text(value)
    if text.startswith("syslog:"):
        place = text.removeprefix("syslog:")
        if not place.startswith("/"):
            address = parse_server(place)
            if not isinstance(address, TcpAddress) or address.port is None:
                raise ValueError("syslog: takes a path or HOST:PORT")
    elif text not in ("stderr", "stdout") and text.lower() in ("stderr", "stdout", "syslog"):
        raise ValueError(f"a file of that name would be written as ./{text}")
    elif (device := os.path.normpath(text)).startswith("/dev/") and not _WRITABLE_DEVICE.fullmatch(device):
        hint = "did you mean syslog:/dev/log?" if device == "/dev/log" else "give a folder such as /var/log"
        raise ValueError(f"a file in /dev is lost at the next start of the machine, {hint}")
    return LogTarget(text)


def _sni_patterns(value: object) -> tuple[str, ...] | Literal[False]:
    if value is False:
        return False
    if not isinstance(value, list) or not value:
        raise ValueError
    for name in value:
        if not isinstance(name, str) or not re.fullmatch(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", name):
            raise ValueError(f"{to_display(name)} is no server name")
    return tuple(name.lower() for name in value)


def _address(parse: Callable[[str], object]) -> Callable[[object], object]:
    def read(value: object) -> object:
        if not isinstance(value, str):
            raise ValueError  # noqa: TRY004 - one kind of error for every unfit value
        return parse(value)

    return read


_STRING = {"type": "string"}
_DURATION = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(us|ms|s|m|h|d)?$"},
    ]
}
_SIZE = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+[kmgKMG]?$"}]}
_HEX = {**_STRING, "pattern": r"^\s*([0-9A-Fa-f]{2}\s*)+$"}
_HEX_WORDS = 'bytes in hex such as "16 03 01", two digits each'
_DURATION_WORDS = 'a duration such as "300ms", "5s", "31m", "1h", or a number of seconds'

KINDS: dict[Any, ValueType] = {
    Seconds: ValueType(parse_duration, _DURATION_WORDS, _DURATION),
    TimeLimit: ValueType(_time_limit, f"{_DURATION_WORDS}, above 0", _DURATION),
    Size: ValueType(parse_size, 'a size such as "200k", or a number', _SIZE),
    Count: ValueType(
        _integer(0, _INT_MAX), f"a whole number from 0 to {_INT_MAX}",
        {"type": "integer", "minimum": 0, "maximum": _INT_MAX},
    ),
    Positive: ValueType(
        _integer(1, _INT_MAX), f"a whole number from 1 to {_INT_MAX}",
        {"type": "integer", "minimum": 1, "maximum": _INT_MAX},
    ),
    RateCount: ValueType(
        _integer(1, _RATE_COUNT_MAX), f"a whole number from 1 to {_RATE_COUNT_MAX}",
        {"type": "integer", "minimum": 1, "maximum": _RATE_COUNT_MAX},
    ),
    RatePeriod: ValueType(_rate_period, f"{_DURATION_WORDS}, above 0 and at most 1d", _DURATION),
    Port: ValueType(_integer(1, 65535), "a port from 1 to 65535", {"type": "integer", "minimum": 1, "maximum": 65535}),
    PrefixV4: ValueType(_integer(0, 32), "a whole number from 0 to 32", {"type": "integer", "minimum": 0, "maximum": 32}),
    PrefixV6: ValueType(_integer(0, 128), "a whole number from 0 to 128", {"type": "integer", "minimum": 0, "maximum": 128}),
    Weight: ValueType(
        _integer(0, WEIGHT_MAX), f"a whole number from 0 to {WEIGHT_MAX}",
        {"type": "integer", "minimum": 0, "maximum": WEIGHT_MAX},
    ),
    Mode: ValueType(_mode, 'permission bits such as "0660"', {"type": "string", "pattern": "^0?[0-7]{3}$"}),
    Name: ValueType(_name, "a name of letters, digits and . _ - : / * [ ]", {**_STRING, "pattern": r"^[A-Za-z0-9_.:\[\]*/-]{1,128}$"}),
    Account: ValueType(_account, 'a name, or a number such as "#80"', {**_STRING, "pattern": "^([^#]|#[0-9]{1,10}$)"}),
    Text: ValueType(_text, "a string that is not empty", {**_STRING, "minLength": 1}),
    SyslogTag: ValueType(
        _syslog_tag, "1 to 32 letters, digits and _ . / -", {**_STRING, "pattern": r"^[A-Za-z0-9_./-]{1,32}$"}
    ),
    HostName: ValueType(_host_name, 'a host name such as "imap.internal", or an IP address', {**_STRING, "minLength": 1}),
    SentText: ValueType(_octets(_utf8), "a string that is not empty", {**_STRING, "minLength": 1}),
    SentHex: ValueType(_octets(_from_hex), _HEX_WORDS, _HEX),
    ExpectedText: ValueType(_octets(_utf8, _EXPECTED_MAX), "a string that is not empty", {**_STRING, "minLength": 1}),
    ExpectedHex: ValueType(_octets(_from_hex, _EXPECTED_MAX), _HEX_WORDS, _HEX),
    Pattern: ValueType(_pattern, "a regular expression", {**_STRING, "format": "regex", "minLength": 1}),
    bool: ValueType(_boolean, "true or false", {"type": "boolean"}),
    float: ValueType(_share, "a number from 0 to 1", {"type": "number", "minimum": 0, "maximum": 1}),
    Path: ValueType(_text, "a path", {**_STRING, "minLength": 1}),
    Network: ValueType(_network, 'a network such as "10.0.0.0/8" or "2001:db8::/32", or an address', _STRING),
    ProxySource: ValueType(_proxy_source, 'a network such as "10.0.0.0/8" or "2001:db8::/32", an address, or "unix"', _STRING),
    Workers: ValueType(_workers, 'a whole number from 1, or "auto"', {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]}),
    Redispatch: ValueType(
        _redispatch, "true, false, or a whole number from 1",
        {"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 1}]},
    ),
    SniPatterns: ValueType(
        _sni_patterns, 'a list of server names such as "imap.example.com" or "*.example.org", or false',
        {"anyOf": [{"type": "array", "items": _STRING, "minItems": 1}, {"const": False}]},
    ),
    KeepAliveTime: ValueType(
        _keepalive_time, f'a duration from "1s" to "{_KEEPALIVE_MAX_S}s", or a number of seconds', _DURATION
    ),
    KeepAliveCount: ValueType(_integer(1, 127), "a whole number from 1 to 127", {"type": "integer", "minimum": 1, "maximum": 127}),
    SourceAddress: ValueType(_source_address, 'an IP address without a port, such as "10.0.0.9", or "client"', _STRING),
    HelloName: ValueType(
        _hello_name, 'a host name such as "proxy.example.com", or an address literal such as "[192.0.2.1]"',
        {**_STRING, "pattern": r"^[!-~]{1,255}$"},
    ),
    AlpnName: ValueType(
        _alpn_name, 'a protocol name such as "imap", 1 to 255 ASCII characters', {**_STRING, "pattern": r"^[ -~]{1,255}$"}
    ),
    LogTarget: ValueType(_log_target, "stderr, stdout, a path, syslog:/dev/log or syslog:HOST:514", {**_STRING, "minLength": 1}),
    BindAddress: ValueType(
        _address(parse_bind), 'an address such as "*:143", "[::]:993", "127.0.0.1:993", "unix:/run/x.sock", "fd:3" or "fd:NAME"', _STRING
    ),
    ServerAddress: ValueType(
        _address(parse_server), 'an address such as "10.0.0.1:993", "10.0.0.2", "imap.internal:993" or "unix:/run/x.sock"', _STRING
    ),
}  # fmt: skip


def one_of(choices: tuple[object, ...]) -> ValueType:
    """The kind of a Literal."""

    def read(value: object) -> object:
        # "in" alone would let 1 pass for true
        for choice in choices:
            if type(value) in (type(choice), Expanded) and value == choice:
                return choice
        raise ValueError

    # quoted only where the bare word would pass for a number
    words = [to_display(choice) if str(choice)[0].isdigit() else str(choice) for choice in choices]
    return ValueType(read, f"one of {', '.join(words)}", {"enum": list(choices)})


def value_type_of(annotation: object) -> ValueType | None:
    """The kind for a key's annotation, ``| None`` already taken off; None for tables and lists."""
    if get_origin(annotation) is Literal:
        return one_of(get_args(annotation))
    try:
        return KINDS.get(annotation)
    except TypeError:
        return None
