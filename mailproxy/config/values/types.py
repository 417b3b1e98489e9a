"""The types of single values, with which the model's classes annotate their keys."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal, NewType

from attrs import frozen

Seconds = NewType("Seconds", float)
PositiveSeconds = NewType("PositiveSeconds", float)
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
Line = NewType("Line", str)
CollectorUrl = NewType("CollectorUrl", str)
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
WebUrl = NewType("WebUrl", str)
ServerTlsMode = Literal["implicit", "starttls"]
SniPatterns = tuple[str, ...] | Literal[False]
CertificateNames = tuple[str, ...] | Literal["routes"]
RenewBefore = float | Literal["auto"]


class Expanded(str):
    """A string that is one environment variable and nothing else; it may mean a number or a boolean."""

    __slots__ = ()


@frozen
class LogTarget:
    """Where log lines go: ``stderr``, ``stdout``, ``syslog:…``, else a path."""

    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def syslog(self) -> tuple[str, int] | str | None:
        """Host and port of syslog, or the path of its socket; None for other targets."""
        if not self.text.startswith("syslog:"):
            return None
        rest = self.text.removeprefix("syslog:")
        if rest.startswith("/"):
            return rest
        host, _, port = rest.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def path(self) -> Path | None:
        """The path of the file; None for other targets."""
        if self.text in ("stderr", "stdout") or self.text.startswith("syslog:"):
            return None
        return Path(self.text)
