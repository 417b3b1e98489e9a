"""The configuration: a TOML file as frozen values, or every fault in it at once.

This package is pure: it opens the configuration file and no file that is named in it.

Modules, in the order in which a file becomes a ``Config``:
    loader: The entry points, and the order of the steps below.
    source: TOML text to tables, and the line and column of each key.
    environment: Replaces variables of the environment in strings.
    validate: Leaves out the keys of each table that are unknown or invalid, with a fault for each.
    build: Merges the layers of each table, and checks the rules between keys.
    layers: The layers of a table (defaults, profile, owner, itself), and the origin of each merged value.
    rules: What must go together, and what excludes each other.
    converter: Makes the model's classes of valid tables.
    model: The classes of ``Config``; the one place that knows the keys.

Used by all of these:
    values, units: The value types that a key can have.
    fields: The keys of the model's classes.
    path: Paths of keys.
    diagnostics: The faults so far.

Made from a ``Config``:
    check_plan: What each health check does.
    lint: Advice, and better answers to common mistakes.
    schema: The JSON Schema.
"""

from mailproxy.config.loader import from_mapping, load, load_admin, load_stream
from mailproxy.config.model import (
    Acme,
    AcmeDns,
    AdminSocket,
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
    Tracing,
)
from mailproxy.config.schema import json_schema
from mailproxy.config.values import LogTarget, ProxySource

__all__ = [
    "Acme", "AcmeDns", "AdminSocket", "Backend", "BackendTimeouts", "Bind", "Check", "Config", "Connect", "Frontend", "FrontendTimeouts", "FrontendTls",
    "KeepAlive", "Log", "LogTarget", "Process", "ProxySource", "Route", "Server", "ServerTls", "SessionRate", "Step",
    "Stick", "Tracing", "from_mapping", "json_schema", "load", "load_admin", "load_stream",
]  # fmt: skip
