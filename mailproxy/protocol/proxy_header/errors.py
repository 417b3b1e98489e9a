"""The ways in which a PROXY header can be wrong, one named error each; three families, as HAProxy's log tells them apart."""

from __future__ import annotations

from mailproxy.errors import ClientError


class HeaderError(ClientError):
    """The header is no good: the connection is closed (PROXY 2.1, "any sequence which does not exactly match")."""


class NotAHeaderError(HeaderError):
    """What came does not begin like a header of either version."""


class UnhandledProtocolError(HeaderError):
    """A valid header that speaks of something else than TCP over IPv4 or IPv6."""


class InvalidHeaderError(HeaderError):
    """It begins like a header and breaks a rule of its format."""


class LineError(InvalidHeaderError):
    """Version 1: the line is too long, or its words, blanks or end are not as they must be (PROXY 2.1)."""


class AddressError(InvalidHeaderError):
    """An address or port is none, or the block is too short for the addresses of its family (PROXY 2.1, 2.2)."""


class VersionError(NotAHeaderError):
    """Version 2's signature with another version behind it, "not covered by this specification" (PROXY 2.2)."""


class CommandError(InvalidHeaderError):
    """A command other than LOCAL and PROXY (PROXY 2.2, 13th byte)."""


class FamilyError(InvalidHeaderError):
    """An address family or transport that the specification does not know (PROXY 2.2, 14th byte)."""


class HeaderTooLongError(InvalidHeaderError):
    """Longer than what is read here; see ``HEADER_MAX``."""


class TlvError(InvalidHeaderError):
    """A TLV runs over the header's end, or its value breaks a limit of its type (PROXY 2.2)."""


class ChecksumError(InvalidHeaderError):
    """The CRC32C that the header brings is not its own (PROXY 2.2.3)."""
