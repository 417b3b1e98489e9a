"""Facts about this machine's network."""

from __future__ import annotations

from pathlib import Path

import pytest


def _addresses() -> list[list[str]]:
    file = Path("/proc/net/if_inet6")  # missing where IPv6 is switched off
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def link_local() -> str | None:
    """Return a link-local address of this machine with its interface, or None."""
    for digits, *_, interface in _addresses():
        if digits.startswith("fe80"):
            return ":".join(digits[offset : offset + 4] for offset in range(0, 32, 4)) + f"%{interface}"
    return None


needs_ipv6 = pytest.mark.skipif(not _addresses(), reason="needs IPv6, which is switched off here")
