"""Configurations of other programs for tests of the importers, and shortcuts to import texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli

from mailproxy.importers.run import Result, import_files, import_texts

CONFIGS = Path(__file__).resolve().parents[1] / "importers" / "configs"
# Configurations in the manner of those that people publish.
FILES = sorted(
    path
    for path in CONFIGS.iterdir()
    if path.suffix in (".cfg", ".conf", ".json", ".yml", ".toml") or "Caddyfile" in path.name
)


def program_of(file: Path) -> str:
    """Return the program whose configuration a file is."""
    if file.suffix == ".cfg":
        return "haproxy"
    if file.suffix in (".yml", ".toml"):
        return "traefik"
    return "nginx" if file.suffix == ".conf" else "caddy"


def import_file(file: Path, *, mend: bool = False) -> Result:
    return import_files(program_of(file), [file], mend=mend)


def haproxy(text: str, *, mend: bool = False) -> Result:
    return import_texts("haproxy", [("haproxy.cfg", text)], mend=mend)


def nginx(text: str, *, mend: bool = False) -> Result:
    return import_texts("nginx", [("nginx.conf", text)], mend=mend)


def caddy(text: str, *, mend: bool = False) -> Result:
    return import_texts("caddy", [("Caddyfile", text)], mend=mend)


def tables(result: Result) -> dict[str, Any]:
    """Return what was written, as tables."""
    return tomli.loads(result.text)


def report(result: Result) -> list[str]:
    """Return the lines of the report."""
    return [str(entry) for entry in result.entries]


DEFAULTS = "defaults\n mode tcp\n timeout connect 5s\n timeout client 31m\n timeout server 31m\n option dontlognull\n"
LISTEN = "listen imap\n bind :143\n server d1 192.0.2.1:143\n"
