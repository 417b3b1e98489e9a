"""The smallest configuration, and what becomes of it when some of its lines are replaced or others come to it."""

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
    """The smallest configuration with these ``key = value`` lines; a line for a key that it has replaces that one."""
    changed = dict(line.split(" = ", 1) for line in lines.strip().splitlines() if line)
    return "".join(f"{key} = {value}\n" for key, value in {**SMALLEST, **changed}.items())


def smallest_config(lines: str) -> mailproxy.Config:
    """The smallest configuration with these lines, read."""
    return mailproxy.from_mapping(tomli.loads(smallest_toml(lines)))


def faults_of(whole: str) -> list[str]:
    """Every fault of a whole configuration, as its user reads them; none if it is fine."""
    try:
        mailproxy.from_mapping(tomli.loads(whole))
    except ConfigError as error:
        return str(error).splitlines()
    return []
