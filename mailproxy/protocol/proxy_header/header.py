"""A header of either version; the first byte tells which (PROXY 2.2, "identifying the protocol version is easy")."""

from __future__ import annotations

from mailproxy.protocol.preamble import NeedMore
from mailproxy.protocol.proxy_header.errors import NotAHeaderError
from mailproxy.protocol.proxy_header.v1 import HeaderV1, format_v1, parse_v1
from mailproxy.protocol.proxy_header.v2 import SIGNATURE, V2_MAX, HeaderV2, format_v2, parse_v2

HEADER_MAX = V2_MAX  # bytes of a header of either version

Header = HeaderV1 | HeaderV2


def parse(data: bytes) -> tuple[Header, int] | NeedMore:
    """Parse the header at the beginning of ``data``; bytes after it are ignored.

    Returns:
        The header and its length in bytes, or ``NeedMore`` if it is incomplete.

    Raises:
        HeaderError: No further bytes can make it a valid header. ``NotAHeaderError`` if it does not begin
            like one.
    """
    if not data:
        return NeedMore(1)
    if data[0] == SIGNATURE[0]:
        return parse_v2(data)
    if data[0] == ord("P"):
        return parse_v1(data)
    raise NotAHeaderError("it begins with the signature of neither version")


def format_header(header: Header) -> bytes:
    """Format a header of either version. Raises HeaderError as ``format_v1`` and ``format_v2`` do."""
    return format_v1(header) if isinstance(header, HeaderV1) else format_v2(header)
