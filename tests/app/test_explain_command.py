"""``mailproxy explain``: text, JSON and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

CONFIG = """\
[frontends.imap]
protocol = "imap"
bind = ["*:143"]
backend = "d"
[backends.d]
servers = [{ name = "d1", address = "192.0.2.1:143" }, { name = "d2", address = "mail.internal:143" }]
"""


def explain(*options: str, text: str = CONFIG) -> subprocess.CompletedProcess[str]:
    """Run the program with ``text`` on standard input."""
    command = [sys.executable, "-m", "mailproxy", "explain", "-", *options]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)


def test_text_has_numbered_steps_with_lines_of_the_file() -> None:
    result = explain("--client", "192.0.2.7", "--port", "143", "--at", "d1=down")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("1. The client 192.0.2.7 connects to bind *:143 of frontend imap")
    assert "frontends.imap.backend, line 4" in lines[1]
    assert lines[-1] == "=> imap *:143 -> d/d2"


def test_json_is_one_object() -> None:
    options = ["--client", "2001:db8::1", "--port", "143", "--at", "d/d2=maint,d1=up", "--format", "json"]
    value = json.loads(explain(*options).stdout)
    assert (value["server"], value["candidates"], value["route"], value["end"]) == ("d1", ["d1"], None, None)


def test_unknown_port_client_and_state_exit_with_2() -> None:
    for options, message in (
        (["--client", "192.0.2.7", "--port", "993"], "there is no bind with port 993"),
        (["--client", "somebody", "--port", "143"], "somebody: not an IP address"),
        (["--client", "192.0.2.7", "--port", "143", "--at", "d1"], "SERVER=STATE is expected"),
        (["--client", "192.0.2.7", "--port", "143", "--at", "d7=up"], "d7: there is no such server"),
    ):
        result = explain(*options)
        assert (result.returncode, result.stdout) == (2, "")
        assert message in result.stderr


def test_faulty_configuration_exits_with_2() -> None:
    result = explain("--client", "192.0.2.7", "--port", "143", text="[frontends]\nimap = 3\n")
    assert result.returncode == 2
    assert result.stderr.startswith("-:2:")
