"""The value types that a key can have.

Modules:
    types: The types with which the model's classes annotate their keys.
    readers: A function for each type that reads a value of TOML.
    value_types: For each type its reader, what is allowed in words, and its JSON Schema.
    display: How values and names are shown in messages.
"""

from mailproxy.config.values.display import as_name, printable, to_display
from mailproxy.config.values.readers import WEIGHT_MAX
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
    ServerTlsMode,
    Size,
    SniPatterns,
    SourceAddress,
    SyslogTag,
    Text,
    WebUrl,
    Weight,
    Workers,
)
from mailproxy.config.values.value_types import (
    VALUE_TYPES,
    InvalidValueError,
    ValueType,
    one_of,
    value_type_of,
)

__all__ = [
    "VALUE_TYPES", "WEIGHT_MAX", "Account", "AlpnName", "CertificateNames", "CollectorUrl", "Count", "Expanded", "ExpectedHex", "ExpectedText",
    "HelloName", "HostName", "InvalidValueError", "KeepAliveCount", "KeepAliveTime", "Line", "LogTarget", "Mode",
    "Name", "Network", "Pattern", "Port", "Positive", "PositiveSeconds", "PrefixV4", "PrefixV6",
    "ProxySource", "RateCount", "RatePeriod", "Redispatch", "RenewBefore", "Seconds", "SentHex", "SentText",
    "ServerTlsMode", "Size", "SniPatterns", "SourceAddress", "SyslogTag", "Text", "ValueType", "WebUrl", "Weight",
    "Workers", "as_name", "one_of", "printable", "to_display", "value_type_of",
]  # fmt: skip
