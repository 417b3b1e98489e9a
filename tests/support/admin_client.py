"""A client of admin sockets: HAProxy's and mailproxy's."""

from __future__ import annotations

import csv
import io
import socket
from pathlib import Path

TIMEOUT_S = 30.0


def ask(path: Path, commands: str) -> str:
    """Send a line of commands; the answer as it comes."""
    return talk(path, f"{commands}\n".encode()).decode()


def talk(path: Path, data: bytes) -> bytes:
    """Send these bytes, and read until the other side closes."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.connect(str(path))
        sock.sendall(data)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def stat(path: Path, filters: str = "") -> dict[tuple[str, str], dict[str, str]]:
    """``show stat`` by proxy and service: the values by the names of their fields."""
    text = ask(path, f"show stat {filters}").removeprefix("# ")
    return {
        (row["pxname"], row["svname"]): row for row in csv.DictReader(io.StringIO(text.rstrip("\n") + "\n"))
    }


def states(path: Path) -> dict[str, dict[str, str]]:
    """``show servers state`` by ``BACKEND/SERVER``."""
    _, header, *lines = ask(path, "show servers state").strip().splitlines()
    names = header.removeprefix("# ").split()
    rows = [dict(zip(names, line.split(), strict=True)) for line in lines]
    return {f"{row['be_name']}/{row['srv_name']}": row for row in rows}
