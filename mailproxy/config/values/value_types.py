"""Every value type: how it is read, what is allowed in words, and its JSON Schema.

cattrs coerces by default (``"25"`` would become a port, ``"no"`` would become true). So every type has a
strict reader here, and none is left to the hooks of cattrs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from attrs import frozen

from mailproxy.address import BindAddress, ServerAddress, parse_bind, parse_server
from mailproxy.config.units import parse_duration, parse_size
from mailproxy.config.values.display import to_display
from mailproxy.config.values.readers import (
    EXPECTED_MAX,
    INT_MAX,
    KEEPALIVE_MAX_S,
    RATE_COUNT_MAX,
    WEIGHT_MAX,
    address_reader,
    decode_hex,
    encode_utf8,
    integer_reader,
    octets_reader,
    read_account,
    read_alpn_name,
    read_boolean,
    read_certificate_names,
    read_collector_url,
    read_hello_name,
    read_host_name,
    read_keepalive_time,
    read_line,
    read_log_target,
    read_mode,
    read_name,
    read_network,
    read_pattern,
    read_positive_seconds,
    read_proxy_source,
    read_rate_period,
    read_redispatch,
    read_renew_before,
    read_share,
    read_sni_patterns,
    read_source_address,
    read_syslog_tag,
    read_text,
    read_web_url,
    read_workers,
)
from mailproxy.config.values.types import (
    Account,
    AlpnName,
    CertificateNames,
    CollectorUrl,
    Count,
    Expanded,
    ExpectedHex,
    ExpectedText,
    HelloName,
    HostName,
    KeepAliveCount,
    KeepAliveTime,
    Line,
    LogTarget,
    Mode,
    Name,
    Network,
    Pattern,
    Port,
    Positive,
    PositiveSeconds,
    PrefixV4,
    PrefixV6,
    ProxySource,
    RateCount,
    RatePeriod,
    Redispatch,
    RenewBefore,
    Seconds,
    SentHex,
    SentText,
    Size,
    SniPatterns,
    SourceAddress,
    SyslogTag,
    Text,
    WebUrl,
    Weight,
    Workers,
)


class InvalidValueError(ValueError):
    """A value is not of its type.

    Attributes:
        value: The value.
        allowed: What is allowed, in words; may begin with a fact about the value.
    """

    def __init__(self, value: object, allowed: str) -> None:
        self.value = value
        self.allowed = allowed
        super().__init__(f"{to_display(value)} is not allowed: {allowed}")


@frozen
class ValueType:
    """One type of single values.

    Attributes:
        read: Returns the value of the configuration. Raises ValueError, with a fact about the value where
            ``allowed`` does not say everything.
        allowed: What is allowed, in words.
        schema: The JSON Schema of what is allowed.
    """

    read: Callable[[object], object]
    allowed: str
    schema: Mapping[str, object]

    def structure(self, value: object, _type: object = None) -> Any:
        """Read a value; this is the hook that cattrs calls. Raises InvalidValueError."""
        try:
            return self.read(value)
        except InvalidValueError:
            raise
        except ValueError as error:
            fact = str(error)
            raise InvalidValueError(value, f"{fact}; {self.allowed}" if fact else self.allowed) from None


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

VALUE_TYPES: dict[Any, ValueType] = {
    Seconds: ValueType(parse_duration, _DURATION_WORDS, _DURATION),
    PositiveSeconds: ValueType(read_positive_seconds, f"{_DURATION_WORDS}, above 0", _DURATION),
    Size: ValueType(parse_size, 'a size such as "200k", or a number', _SIZE),
    Count: ValueType(
        integer_reader(0, INT_MAX), f"a whole number from 0 to {INT_MAX}",
        {"type": "integer", "minimum": 0, "maximum": INT_MAX},
    ),
    Positive: ValueType(
        integer_reader(1, INT_MAX), f"a whole number from 1 to {INT_MAX}",
        {"type": "integer", "minimum": 1, "maximum": INT_MAX},
    ),
    RateCount: ValueType(
        integer_reader(1, RATE_COUNT_MAX), f"a whole number from 1 to {RATE_COUNT_MAX}",
        {"type": "integer", "minimum": 1, "maximum": RATE_COUNT_MAX},
    ),
    RatePeriod: ValueType(read_rate_period, f"{_DURATION_WORDS}, above 0 and at most 1d", _DURATION),
    Port: ValueType(integer_reader(1, 65535), "a port from 1 to 65535", {"type": "integer", "minimum": 1, "maximum": 65535}),
    PrefixV4: ValueType(integer_reader(0, 32), "a whole number from 0 to 32", {"type": "integer", "minimum": 0, "maximum": 32}),
    PrefixV6: ValueType(integer_reader(0, 128), "a whole number from 0 to 128", {"type": "integer", "minimum": 0, "maximum": 128}),
    Weight: ValueType(
        integer_reader(0, WEIGHT_MAX), f"a whole number from 0 to {WEIGHT_MAX}",
        {"type": "integer", "minimum": 0, "maximum": WEIGHT_MAX},
    ),
    Mode: ValueType(read_mode, 'permission bits such as "0660"', {"type": "string", "pattern": "^0?[0-7]{3}$"}),
    Name: ValueType(read_name, "a name of letters, digits and . _ - : / * [ ]", {**_STRING, "pattern": r"^[A-Za-z0-9_.:\[\]*/-]{1,128}$"}),
    Account: ValueType(read_account, 'a name, or a number such as "#80"', {**_STRING, "pattern": "^([^#]|#[0-9]{1,10}$)"}),
    Line: ValueType(read_line, "a line of 1 to 256 printable ASCII characters", {**_STRING, "pattern": r"^[ -~]{1,256}$"}),
    Text: ValueType(read_text, "a string that is not empty", {**_STRING, "minLength": 1}),
    CollectorUrl: ValueType(
        read_collector_url, 'a URL such as "http://127.0.0.1:4318"', {**_STRING, "pattern": "^https?://"}
    ),
    SyslogTag: ValueType(
        read_syslog_tag, "1 to 32 letters, digits and _ . / -", {**_STRING, "pattern": r"^[A-Za-z0-9_./-]{1,32}$"}
    ),
    HostName: ValueType(read_host_name, 'a host name such as "imap.internal", or an IP address', {**_STRING, "minLength": 1}),
    SentText: ValueType(octets_reader(encode_utf8), "a string that is not empty", {**_STRING, "minLength": 1}),
    SentHex: ValueType(octets_reader(decode_hex), _HEX_WORDS, _HEX),
    ExpectedText: ValueType(octets_reader(encode_utf8, EXPECTED_MAX), "a string that is not empty", {**_STRING, "minLength": 1}),
    ExpectedHex: ValueType(octets_reader(decode_hex, EXPECTED_MAX), _HEX_WORDS, _HEX),
    Pattern: ValueType(read_pattern, "a regular expression", {**_STRING, "format": "regex", "minLength": 1}),
    bool: ValueType(read_boolean, "true or false", {"type": "boolean"}),
    float: ValueType(read_share, "a number from 0 to 1", {"type": "number", "minimum": 0, "maximum": 1}),
    Path: ValueType(read_text, "a path", {**_STRING, "minLength": 1}),
    Network: ValueType(read_network, 'a network such as "10.0.0.0/8" or "2001:db8::/32", an address, or "file:PATH"', _STRING),
    ProxySource: ValueType(read_proxy_source, 'a network such as "10.0.0.0/8" or "2001:db8::/32", an address, "file:PATH", or "unix"', _STRING),
    Workers: ValueType(read_workers, 'a whole number from 1, or "auto"', {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]}),
    Redispatch: ValueType(
        read_redispatch, "true, false, or a whole number from 1",
        {"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 1}]},
    ),
    SniPatterns: ValueType(
        read_sni_patterns, 'a list of server names such as "imap.example.com" or "*.example.org", or false',
        {"anyOf": [{"type": "array", "items": _STRING, "minItems": 1}, {"const": False}]},
    ),
    CertificateNames: ValueType(
        read_certificate_names, 'a list of DNS names such as "imap.example.com" or "*.example.org", or "routes"',
        {"anyOf": [{"type": "array", "items": _STRING, "minItems": 1}, {"const": "routes"}]},
    ),
    RenewBefore: ValueType(
        read_renew_before, f'"auto", or {_DURATION_WORDS}, above 0', {"anyOf": [{"const": "auto"}, _DURATION]}
    ),
    WebUrl: ValueType(read_web_url, 'a URL such as "https://acme.example/directory"', {**_STRING, "pattern": "^https?://"}),
    KeepAliveTime: ValueType(
        read_keepalive_time, f'a duration from "1s" to "{KEEPALIVE_MAX_S}s", or a number of seconds', _DURATION
    ),
    KeepAliveCount: ValueType(integer_reader(1, 127), "a whole number from 1 to 127", {"type": "integer", "minimum": 1, "maximum": 127}),
    SourceAddress: ValueType(read_source_address, 'an IP address without a port, such as "10.0.0.9", or "client"', _STRING),
    HelloName: ValueType(
        read_hello_name, 'a host name such as "proxy.example.com", or an address literal such as "[192.0.2.1]"',
        {**_STRING, "pattern": r"^[!-~]{1,255}$"},
    ),
    AlpnName: ValueType(
        read_alpn_name, 'a protocol name such as "imap", 1 to 255 ASCII characters', {**_STRING, "pattern": r"^[ -~]{1,255}$"}
    ),
    LogTarget: ValueType(read_log_target, "stderr, stdout, a path, syslog:/dev/log or syslog:HOST:514", {**_STRING, "minLength": 1}),
    BindAddress: ValueType(
        address_reader(parse_bind), 'an address such as "*:143", "[::]:993", "127.0.0.1:993", "unix:/run/x.sock", "fd:3" or "fd:NAME"', _STRING
    ),
    ServerAddress: ValueType(
        address_reader(parse_server), 'an address such as "10.0.0.1:993", "10.0.0.2", "imap.internal:993" or "unix:/run/x.sock"', _STRING
    ),
}  # fmt: skip


def one_of(choices: tuple[object, ...]) -> ValueType:
    """Return the value type of one of several words or numbers."""

    def read(value: object) -> object:
        # the types are compared, because 1 == True
        for choice in choices:
            if type(value) in (type(choice), Expanded) and value == choice:
                return choice
        raise ValueError

    # in quotes only where the bare word would look like a number
    allowed = [to_display(choice) if str(choice)[0].isdigit() else str(choice) for choice in choices]
    return ValueType(read, f"one of {', '.join(allowed)}", {"enum": list(choices)})


def value_type_of(annotation: object) -> ValueType | None:
    """Return the value type of an annotation without ``| None``; None for tables and lists."""
    if get_origin(annotation) is Literal:
        return one_of(get_args(annotation))
    try:
        return VALUE_TYPES.get(annotation)
    except TypeError:
        return None
