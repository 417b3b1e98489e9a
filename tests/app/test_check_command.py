"""``mailproxy check``: exit codes, output streams, text and JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FAULTY = 'frontends.imap.bind = ["*:143"]\nfrontends.imap.backend = "d"\nlog.level = 3\n'
FINE = """\
process.user = "nobody"
frontends.imap.bind = ["127.0.0.1:0"]
frontends.imap.backend = "d"
backends.d.servers = [{ name = "d1", address = "192.0.2.1:143" }]
frontends.imap.protocol = "tcp"
"""
ADVISED = (
    FINE
    + 'backends.spare.servers = [{ name = "s1", address = "192.0.2.2:143", tls = { verify = "none" } }]\n'
)


def check(text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the program with ``text`` on standard input."""
    command = [sys.executable, "-m", "mailproxy", "check", *options, "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)


def test_faults_go_to_standard_error() -> None:
    result = check(FAULTY)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        '-:2:16: frontends.imap.backend: there is no backend "d"',
        "-:3:5: log.level: 3 is not allowed: one of debug, info, warning, error",
    ]


def test_advice_and_summary_go_to_standard_output() -> None:
    result = check(ADVISED)
    assert (result.returncode, result.stderr) == (0, "")
    advice = result.stdout.splitlines()
    assert advice[0] == "-:6:10: advice: backends.spare: no frontend uses it"
    assert advice[1].startswith("-:6:27: advice: backends.spare.servers[0] (s1): port 143")
    assert advice[3] == "-: fine: 1 bind, 2 servers, 3 pieces of advice"
    assert all(line.startswith("advice: Python ") for line in advice[4:])  # of some builds


@pytest.mark.parametrize(("text", "code"), [(FINE, 0), (ADVISED, 1), (FAULTY, 2)])
def test_exit_codes_with_strict(text: str, code: int) -> None:
    assert check(text, "--strict").returncode == code


def test_quiet_prints_nothing_without_findings() -> None:
    result = check(FINE, "--quiet")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_quiet_prints_advice_without_the_summary() -> None:
    lines = check(ADVISED, "-q").stdout.splitlines()
    assert len(lines) == 3
    assert all(": advice: " in line for line in lines)


def entries(text: str, *options: str) -> tuple[int, list[dict[str, Any]]]:
    result = check(text, "--format", "json", *options)
    assert result.stderr == ""
    return result.returncode, json.loads(result.stdout)


def test_faults_as_json() -> None:
    code, items = entries(FAULTY)
    assert code == 2
    assert items[0] == {
        "severity": "fault", "file": "-", "line": 2, "column": 16, "key": "frontends.imap.backend",
        "message": 'there is no backend "d"',
    }  # fmt: skip
    assert [entry["key"] for entry in items] == ["frontends.imap.backend", "log.level"]


def test_invalid_toml_as_json() -> None:
    code, (item,) = entries("[log\n")
    assert code == 2
    assert (item["severity"], item["line"], item["column"], item["key"]) == ("fault", 1, 5, "")


def test_advice_as_json_names_the_server() -> None:
    code, items = entries(ADVISED, "--strict")
    assert code == 1
    assert {entry["severity"] for entry in items} == {"advice"}
    assert items[1]["key"] == "backends.spare.servers[0]"
    assert items[1]["message"].startswith("s1: port 143 speaks clear text first")


def test_no_findings_as_json() -> None:
    assert entries(FINE) == (0, [])


def test_live_check_as_json_has_no_table() -> None:
    # No program listens at port 1.
    text = FINE.replace("192.0.2.1:143", "127.0.0.1:1")
    code, items = entries(text, "--live", "--strict")
    assert code == 1
    assert [entry["key"] for entry in items] == ["backends.d.servers[0]"]
    assert "Connection refused" in items[0]["message"]


def test_live_check_prints_table_and_advice_to_stdout() -> None:
    result = check(FINE.replace("192.0.2.1:143", "127.0.0.1:1"), "--live")
    assert result.stderr == ""
    heading, row, advice, summary, *_ = result.stdout.splitlines()
    assert heading.startswith("backend")
    assert row.startswith("d")
    assert advice.startswith("-:4:23: advice: backends.d.servers[0]: d1 is not fit for sessions: ")
    assert summary.endswith("1 piece of advice")


def test_stdin_paths_are_relative_to_current_folder(tmp_path: Path) -> None:
    text = FINE + 'log.to = "nowhere/mail.log"\n'
    command = [sys.executable, "-m", "mailproxy", "check", "-"]
    result = subprocess.run(
        command, input=text, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False
    )
    assert result.returncode == 2
    assert (
        result.stderr
        == f"-:6:5: log.to: {tmp_path}/nowhere/mail.log: there is no folder {tmp_path}/nowhere\n"
    )


def test_unreadable_standard_input(tmp_path: Path) -> None:
    with tmp_path.joinpath("out").open("wb") as unreadable:
        command = [sys.executable, "-m", "mailproxy", "check", "-"]
        result = subprocess.run(
            command, stdin=unreadable, capture_output=True, text=True, timeout=60, check=False
        )
    assert result.returncode == 2
    assert result.stderr == "-: standard input cannot be read: Bad file descriptor\n"
