"""The smallest configuration, and variants of it with replaced or added lines."""

from __future__ import annotations

import tomli

import mailproxy
from mailproxy.errors import ConfigError

SMALLEST = {
    "frontends.imap.bind": '[{ address = "127.0.0.1:1143" }]',
    "frontends.imap.backend": '"dovecot"',
    "backends.dovecot.servers": '["192.0.2.1:143"]',
}


def smallest_toml(lines: str) -> str:
    """Return the smallest configuration with these `key = value` lines added, or replacing a line of the same key."""
    changed = dict(line.split(" = ", 1) for line in lines.strip().splitlines() if line)
    return "".join(f"{key} = {value}\n" for key, value in {**SMALLEST, **changed}.items())


def smallest_config(lines: str) -> mailproxy.Config:
    """Return the smallest configuration with these lines, loaded."""
    return mailproxy.from_mapping(tomli.loads(smallest_toml(lines)))


def faults_of(text: str) -> list[str]:
    """Return the faults of a complete configuration as users see them. A valid one has none."""
    try:
        mailproxy.from_mapping(tomli.loads(text))
    except ConfigError as error:
        return str(error).splitlines()
    return []
