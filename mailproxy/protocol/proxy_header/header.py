"""A header of either version, told apart by the first bytes (PROXY 2.2, "identifying the protocol version is easy")."""

from __future__ import annotations

from mailproxy.protocol.preamble import NeedMore
from mailproxy.protocol.proxy_header.errors import NotAHeaderError
from mailproxy.protocol.proxy_header.v1 import HeaderV1, format_v1, parse_v1
from mailproxy.protocol.proxy_header.v2 import SIGNATURE, V2_MAX, HeaderV2, format_v2, parse_v2

HEADER_MAX = V2_MAX  # bytes that a header takes at most, whichever version

Header = HeaderV1 | HeaderV2


def parse(data: bytes) -> tuple[Header, int] | NeedMore:
    """Read the header at the beginning of ``data``: the header and its length, or how many bytes it takes to go on.

    Nothing behind the header is looked at. Raises HeaderError, as soon as no further byte could mend it.
    """
    if not data:
        return NeedMore(1)
    if data[0] == SIGNATURE[0]:
        return parse_v2(data)
    if data[0] == ord("P"):
        return parse_v1(data)
    raise NotAHeaderError("it begins like no version of the protocol")


def format_header(header: Header) -> bytes:
    """Write it. Raises HeaderError for what cannot be written."""
    return format_v1(header) if isinstance(header, HeaderV1) else format_v2(header)
