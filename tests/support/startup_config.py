"""A faultless configuration whose files exist, with some keys changed."""

from __future__ import annotations

import os
import pwd
from typing import Any

import mailproxy

MYSELF = pwd.getpwuid(os.geteuid()).pw_name  # who can read the files of tests


def startup_config(**changes: Any) -> mailproxy.Config:
    """One bind, one backend, the user who runs this; a change is a path with ``__`` for the dots, and replaces what is there."""
    tables: dict[str, Any] = {
        "process": {"user": MYSELF},
        "frontends": {
            "imap": {"protocol": "tcp", "backend": "dovecot", "bind": [{"address": "127.0.0.1:0"}]}
        },
        "backends": {"dovecot": {"servers": ["192.0.2.1:143"]}},
    }
    for path, value in changes.items():
        *steps, last = path.split("__")
        place = tables
        for step in steps:
            place = place.setdefault(step, {})
        place[last] = value
    return mailproxy.from_mapping(tables)
