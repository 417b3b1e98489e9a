"""A valid configuration whose files exist, with some keys changed."""

from __future__ import annotations

import os
import pwd
from typing import Any

import mailproxy

CURRENT_USER = pwd.getpwuid(os.geteuid()).pw_name  # can read the files of tests


def startup_config(**changes: Any) -> mailproxy.Config:
    """Return a configuration with one bind, one backend and the current user.

    Each change replaces one value. Its name is the config path with `__` in place of dots.
    """
    tables: dict[str, Any] = {
        "process": {"user": CURRENT_USER},
        "frontends": {
            "imap": {"protocol": "tcp", "backend": "dovecot", "bind": [{"address": "127.0.0.1:0"}]}
        },
        "backends": {"dovecot": {"servers": ["192.0.2.1:143"]}},
    }
    for path, value in changes.items():
        *keys, last = path.split("__")
        table = tables
        for key in keys:
            table = table.setdefault(key, {})
        table[last] = value
    return mailproxy.from_mapping(tables)
