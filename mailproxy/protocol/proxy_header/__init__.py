"""The header of the PROXY protocol: the client's addresses, sent by a proxy before all other bytes.

The specification is "The PROXY protocol, versions 1 & 2" (haproxy.org, doc/proxy-protocol.txt, with the
additions of 2025). Its sections are cited as "PROXY 2.2".

``parse`` reads both versions, ``format_v1`` and ``format_v2`` write them. A parsed header is formatted to the
same bytes again. Therefore values also hold what the specification tells a receiver to ignore.

Modules, in reading order:
    header: Both versions.
    v1: The line of text.
    v2: The binary header.
    tlv: The extensions of version 2, such as the client's TLS.
    crc32c: The checksum of version 2.
    errors: One error for each kind of malformed header.
"""

from mailproxy.protocol.proxy_header.errors import (
    AddressError,
    ChecksumError,
    CommandError,
    FamilyError,
    HeaderError,
    HeaderTooLongError,
    InvalidHeaderError,
    LineError,
    NotAHeaderError,
    TlvError,
    UnhandledProtocolError,
    VersionError,
)
from mailproxy.protocol.proxy_header.header import HEADER_MAX, Header, format_header, parse
from mailproxy.protocol.proxy_header.tlv import (
    Client,
    Ssl,
    Tlv,
    Type,
    format_ssl,
    format_tlvs,
    parse_ssl,
    parse_tlvs,
)
from mailproxy.protocol.proxy_header.v1 import V1_MAX, HeaderV1, format_v1, parse_v1
from mailproxy.protocol.proxy_header.v2 import (
    Command,
    HeaderV2,
    Protocol,
    format_tcp,
    format_v2,
    parse_v2,
    with_checksum,
)

__all__ = [
    "HEADER_MAX", "V1_MAX", "AddressError", "ChecksumError", "Client", "Command", "CommandError", "FamilyError",
    "Header", "HeaderError", "HeaderTooLongError", "HeaderV1", "HeaderV2", "InvalidHeaderError", "LineError",
    "NotAHeaderError", "Protocol", "Ssl", "Tlv", "TlvError", "Type", "UnhandledProtocolError", "VersionError",
    "format_header", "format_ssl", "format_tcp", "format_tlvs", "format_v1", "format_v2", "parse", "parse_ssl", "parse_tlvs",
    "parse_v1", "parse_v2", "with_checksum",
]  # fmt: skip
