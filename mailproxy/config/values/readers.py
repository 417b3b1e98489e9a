"""How each value type is read: functions that take a value of TOML and return that of the configuration.

A reader raises ``ValueError`` if the value is not of its type. The message is a fact about the value, or
empty where what is allowed (``ValueType.allowed``) says everything. A reader that raised anything else would
end the program.
"""

from __future__ import annotations

import os.path
import re
import warnings
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal
from urllib.parse import urlsplit

from mailproxy.address import TcpAddress, parse_server
from mailproxy.config.units import parse_duration
from mailproxy.config.values.display import NAME_MAX, as_name, to_display
from mailproxy.config.values.types import Expanded, LogTarget

WEIGHT_MAX = 256  # HAProxy's
INT_MAX = 2**31 - 1  # the kernel's maximum for a backlog, and high enough for every other count
KEEPALIVE_MAX_S = 32767  # of the kernel's idle time and interval (tcp(7)), in whole seconds
RATE_COUNT_MAX = 2**16 - 1  # what pool.client_limits counts to in one window
_RATE_PERIOD_MAX_S = 86400.0  # a limit over a longer period does not react to what happens now
EXPECTED_MAX = (
    16384  # bytes that an expectation of a check looks at; protocol.checks.script has the same number
)
_HELLO_MAX = (
    255  # characters of a domain (RFC 5321 section 4.5.3.1.2); protocol.checks.smtp has the same number
)
_DNS_NAME_MAX = 253  # RFC 1035 section 2.3.4, without the final dot
_DNS_NAME = re.compile(
    r"(\*\.)?([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9][A-Za-z0-9-]{0,61}[A-Za-z0-9]"
)
_NO_ID = 2**32 - 1  # (uid_t) -1, which means "no user" in system calls
_WRITABLE_DEVICE = re.compile(r"/dev/(stdout|stderr|null|console|tty.*|pts/[0-9]+|fd/[0-9]+)")


def integer_reader(lowest: int, highest: int | None = None) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, Expanded) and re.fullmatch(r"[0-9]{1,18}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError  # noqa: TRY004 - one kind of error for every invalid value
        if value < lowest or (highest is not None and value > highest):
            raise ValueError
        return value

    return read


def read_boolean(value: object) -> bool:
    if isinstance(value, Expanded) and value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        raise ValueError  # noqa: TRY004 - one kind of error for every invalid value
    return value


def read_collector_url(value: object) -> str:
    text = read_text(value)
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or any(map(str.isspace, text)):
        raise ValueError
    if parts.username is not None or parts.password is not None:
        raise ValueError("has a user or a password, which would appear in the log")
    if parts.query or parts.fragment:
        raise ValueError("has a query or a fragment")
    _ = parts.port  # raises ValueError for a port that is none
    return text


def read_share(value: object) -> float:
    if isinstance(value, Expanded) and re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,18})?", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError
    return float(value)


def read_line(value: object) -> str:
    """Read a text that is sent as a part of one line of a protocol."""
    text = read_text(value)
    if not re.fullmatch(r"[ -~]{1,256}", text):
        raise ValueError
    return text


def read_text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError
    return str(value)


def read_name(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= NAME_MAX or value != as_name(value):
        raise ValueError
    return str(value)


def read_syslog_tag(value: object) -> str:
    # By RFC 3164 section 4.1.3 a tag ends at the first character that is no letter or digit. These four are
    # allowed, because the tags of real programs have them.
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_./-]{1,32}", value):
        raise ValueError
    return str(value)


def read_account(value: object) -> str:
    text = read_text(value)
    if text.startswith("#") and not (re.fullmatch(r"#[0-9]{1,10}", text) and int(text[1:]) < _NO_ID):
        raise ValueError
    return text


def read_host_name(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 - one kind of error for every invalid value
    address = parse_server(value)
    if not isinstance(address, TcpAddress) or address.port is not None:
        raise ValueError
    return address.host.rstrip(".")


# What a step of a check sends and expects. protocol.checks.script compiles it in the running proxy. The
# configuration must not import that, so these readers accept exactly what it accepts.


def octets_reader(encode: Callable[[str], bytes], max_bytes: int | None = None) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or not (octets := encode(value)):
            raise ValueError
        if max_bytes is not None and len(octets) > max_bytes:
            raise ValueError(f"has {len(octets)} bytes, and no more than {max_bytes} are matched")
        return str(value)

    return read


def encode_utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # a variable of the environment may have any bytes, which decode to surrogates
        raise ValueError("is not UTF-8") from None


def decode_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:  # its message is for programmers
        raise ValueError from None


def read_pattern(value: object) -> str:
    text = octets_reader(encode_utf8)(value)
    try:
        with warnings.catch_warnings():
            # Python warns of "[[", which may get another meaning in a later version. Users cannot act on
            # that.
            warnings.simplefilter("ignore")
            re.compile(text.encode(), re.MULTILINE)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return text


def read_positive_seconds(value: object) -> float:
    seconds = parse_duration(value)
    if seconds == 0:
        raise ValueError("must be above 0")
    return seconds


def read_keepalive_time(value: object) -> float:
    seconds = parse_duration(value)
    if not 1 <= seconds <= KEEPALIVE_MAX_S:
        raise ValueError
    return seconds


def read_source_address(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 - one kind of error for every invalid value
    if value == "client":
        return "client"
    try:
        address = ip_address(value)
    except ValueError:  # its message is for programmers
        raise ValueError from None
    if address.is_unspecified or address.is_multicast:
        raise ValueError
    return str(address)


def read_hello_name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value) or len(value) > _HELLO_MAX:
        raise ValueError
    return str(value)


def read_alpn_name(value: object) -> str:
    # RFC 7301 section 3.1: 1 to 255 bytes; Python's ssl takes ASCII only
    if not isinstance(value, str) or not re.fullmatch(r"[ -~]{1,255}", value):
        raise ValueError
    return str(value)


def read_rate_period(value: object) -> float:
    seconds = read_positive_seconds(value)
    if seconds > _RATE_PERIOD_MAX_S:
        raise ValueError("must be at most 1d")
    return seconds


def read_mode(value: object) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError
    return int(value, 8)


def read_network(value: object) -> IPv4Network | IPv6Network:
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 - one kind of error for every invalid value
    try:
        return ip_network(value)
    except ValueError as error:
        if "host bits" not in str(error):
            raise ValueError from None
        raise ValueError(f'has host bits set: "{ip_network(value, strict=False)}" is the network') from None


def read_proxy_source(value: object) -> IPv4Network | IPv6Network | Literal["unix"]:
    return "unix" if value == "unix" else read_network(value)


def read_workers(value: object) -> int | str:
    return "auto" if value == "auto" else integer_reader(1)(value)


def read_redispatch(value: object) -> bool | int:
    return (
        read_boolean(value)
        if isinstance(value, bool) or value in ("true", "false")
        else integer_reader(1)(value)
    )


def read_log_target(value: object) -> LogTarget:
    text = read_text(value)
    if text.startswith("syslog:"):
        target = text.removeprefix("syslog:")
        if not target.startswith("/"):
            address = parse_server(target)
            if not isinstance(address, TcpAddress) or address.port is None:
                raise ValueError("syslog: takes a path or HOST:PORT")
    elif text not in ("stderr", "stdout") and text.lower() in ("stderr", "stdout", "syslog"):
        raise ValueError(f"a file of that name would be written as ./{text}")
    elif (device := os.path.normpath(text)).startswith("/dev/") and not _WRITABLE_DEVICE.fullmatch(device):
        hint = "did you mean syslog:/dev/log?" if device == "/dev/log" else "give a folder such as /var/log"
        raise ValueError(f"a file in /dev is lost at the next start of the machine, {hint}")
    return LogTarget(text)


def read_sni_patterns(value: object) -> tuple[str, ...] | Literal[False]:
    if value is False:
        return False
    if not isinstance(value, list) or not value:
        raise ValueError
    for name in value:
        if not isinstance(name, str) or not re.fullmatch(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", name):
            raise ValueError(f"{to_display(name)} is no server name")
    return tuple(name.lower() for name in value)


def read_certificate_names(value: object) -> tuple[str, ...] | Literal["routes"]:
    if value == "routes":
        return "routes"
    if not isinstance(value, list) or not value:
        raise ValueError
    for name in value:
        if not isinstance(name, str) or len(name) > _DNS_NAME_MAX or not _DNS_NAME.fullmatch(name):
            raise ValueError(f"{to_display(name)} is no DNS name")
    return tuple(dict.fromkeys(name.lower() for name in value))


def read_renew_before(value: object) -> float | Literal["auto"]:
    return "auto" if value == "auto" else read_positive_seconds(value)


def read_web_url(value: object) -> str:
    # Control characters would reach the log and the HTTP request.
    if not isinstance(value, str) or not re.fullmatch(r"https?://[^\s/\x00-\x20\x7f]+(/[!-~]*)?", value):
        raise ValueError
    return str(value)


def address_reader(parse: Callable[[str], object]) -> Callable[[object], object]:
    def read(value: object) -> object:
        if not isinstance(value, str):
            raise ValueError  # noqa: TRY004 - one kind of error for every invalid value
        return parse(value)

    return read
