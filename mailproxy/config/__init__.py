"""The configuration: a TOML file as frozen values, or every fault in it at once. Pure: no file that it names is opened."""

from mailproxy.config.loader import from_mapping, has_changed, load, load_stream
from mailproxy.config.model import (
    Backend,
    BackendTimeouts,
    Bind,
    Check,
    Config,
    Connect,
    Frontend,
    FrontendTimeouts,
    FrontendTls,
    KeepAlive,
    Log,
    Process,
    Route,
    Server,
    ServerTls,
    SessionRate,
    Step,
    Stick,
)
from mailproxy.config.schema import json_schema
from mailproxy.config.values import LogTarget, ProxySource

__all__ = [
    "Backend", "BackendTimeouts", "Bind", "Check", "Config", "Connect", "Frontend", "FrontendTimeouts", "FrontendTls",
    "KeepAlive", "Log", "LogTarget", "Process", "ProxySource", "Route", "Server", "ServerTls", "SessionRate", "Step",
    "Stick", "from_mapping", "has_changed", "json_schema", "load", "load_stream",
]  # fmt: skip
