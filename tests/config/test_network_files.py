"""Lists of networks in files: what a line may be, what is refused, and that a reload sees another list."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

import mailproxy
from mailproxy.config import Config
from mailproxy.config.difference import compare
from mailproxy.errors import ConfigError

TEXT = """
[frontends.imap]
protocol = "imap"
backend = "dovecot"
max_sessions_per_client = 5
max_sessions_per_client_exempt = ["file:lists/own.txt"]
bind = [{ address = "*:143", accept_proxy = ["file:lists/own.txt"] }]

[[frontends.imap.routes]]
client = ["192.0.2.0/24", "file:lists/banned.txt"]
reject = true

[backends.dovecot]
servers = ["192.0.2.11:143"]
"""
BANNED = """# banned
198.51.100.0/24   # a comment
203.0.113.9/28 ; SBL1

2001:db8::7
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mailproxy.toml").write_text(TEXT)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "own.txt").write_text("10.0.0.0/8\n")
    (tmp_path / "lists" / "banned.txt").write_text(BANNED)
    return tmp_path


def load(folder: Path) -> Config:
    return mailproxy.load(folder / "mailproxy.toml")


def fault_of(folder: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        load(folder)
    (fault,) = raised.value.faults
    return f"{fault.line}: {fault.path} {fault.fact}"


def test_networks_of_a_file_take_the_place_of_its_name(folder: Path) -> None:
    frontend = load(folder).frontends["imap"]
    banned = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/28", "2001:db8::7/128")
    assert frontend.routes[0].client == tuple(map(ip_network, banned))
    assert frontend.max_sessions_per_client_exempt == (ip_network("10.0.0.0/8"),)
    assert frontend.bind[0].accept_proxy == (ip_network("10.0.0.0/8"),)


def test_defaults_and_profiles_may_name_files(folder: Path) -> None:
    text = TEXT.replace('max_sessions_per_client_exempt = ["file:lists/own.txt"]\n', 'profile = "p"\n')
    text += '\n[profiles.p.frontend]\nmax_sessions_per_client_exempt = ["file:lists/own.txt"]\n'
    (folder / "mailproxy.toml").write_text(text)
    assert load(folder).frontends["imap"].max_sessions_per_client_exempt == (ip_network("10.0.0.0/8"),)


def test_missing_file(folder: Path) -> None:
    (folder / "lists" / "banned.txt").unlink()
    assert fault_of(folder) == (
        '10: frontends.imap.routes[0].client "file:lists/banned.txt": cannot be read: No such file or directory'
    )


@pytest.mark.parametrize(
    ("line", "shown"), [("example.com", '"example.com"'), ("10.0.0.0/33", '"10.0.0.0/33"')]
)
def test_line_that_is_no_network(folder: Path, line: str, shown: str) -> None:
    (folder / "lists" / "banned.txt").write_text(f"192.0.2.1\n{line}\n")
    assert fault_of(folder).endswith(f'"file:lists/banned.txt": line 2: {shown} is no network')


def test_file_of_bytes_that_are_no_text(folder: Path) -> None:
    (folder / "lists" / "banned.txt").write_bytes(b"\xff\x00\n")
    assert "line 1" in fault_of(folder)


def test_reload_reads_the_list_again(folder: Path) -> None:
    before = load(folder)
    assert compare(before, load(folder)).changes == ()
    (folder / "lists" / "banned.txt").write_text("198.51.100.7\n")
    assert compare(before, load(folder)).changes == ("~ frontends.imap.routes",)
