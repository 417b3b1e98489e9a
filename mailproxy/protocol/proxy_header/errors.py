"""One error for each way in which a PROXY header can be wrong, in the three groups that HAProxy's log has."""

from __future__ import annotations

from mailproxy.errors import ClientError


class HeaderError(ClientError):
    """The header is invalid.

    The receiver must close the connection (PROXY 2.1, "any sequence which does not exactly match").
    """


class NotAHeaderError(HeaderError):
    """The bytes do not begin like a header of either version."""


class UnhandledProtocolError(HeaderError):
    """A valid header, but not of TCP over IPv4 or IPv6."""


class InvalidHeaderError(HeaderError):
    """The bytes begin like a header, but break a rule of its format."""


class LineError(InvalidHeaderError):
    """Version 1: the line is too long, or its words, blanks or line end are invalid (PROXY 2.1)."""


class AddressError(InvalidHeaderError):
    """An address or a port is invalid, or the block is too short for the addresses of its family (PROXY 2.1, 2.2)."""


class VersionError(NotAHeaderError):
    """The signature of version 2 with another version number, "not covered by this specification" (PROXY 2.2)."""


class CommandError(InvalidHeaderError):
    """A command other than LOCAL and PROXY (PROXY 2.2, 13th byte)."""


class FamilyError(InvalidHeaderError):
    """An address family or transport that the specification does not know (PROXY 2.2, 14th byte)."""


class HeaderTooLongError(InvalidHeaderError):
    """The header is longer than ``HEADER_MAX``, or too long to be written."""


class TlvError(InvalidHeaderError):
    """A TLV exceeds the header, or its value breaks a limit of its type (PROXY 2.2)."""


class ChecksumError(InvalidHeaderError):
    """The CRC32C in the header is wrong (PROXY 2.2.3)."""
