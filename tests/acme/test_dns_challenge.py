"""dns-01: the operator's program, and the secret of a TSIG key. Name servers are in tests/interop."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailproxy.acme.challenges.dns import Hook, read_secret, record_value
from mailproxy.acme.challenges.solver import Proof
from mailproxy.acme.errors import AcmeError


def program(folder: Path, text: str) -> Path:
    file = folder / "dns hook"  # with a blank
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


def test_program_gets_verb_owner_and_value(tmp_path: Path) -> None:
    hook = Hook(program(tmp_path, f'for each in "$@"; do echo "<$each>"; done >> "{tmp_path}/log"'))
    hook.add("_acme-challenge.imap.example.com", "-a b$HOME")
    hook.remove("_acme-challenge.imap.example.com", "x")
    lines = (tmp_path / "log").read_text().split()
    assert lines[:2] == ["<add>", "<_acme-challenge.imap.example.com>"]
    assert (tmp_path / "log").read_text().splitlines()[2] == "<-a b$HOME>"
    assert lines[-3:] == ["<remove>", "<_acme-challenge.imap.example.com>", "<x>"]


def test_failed_program_is_an_error_with_its_output(tmp_path: Path) -> None:
    hook = Hook(program(tmp_path, 'echo "no such zone" >&2; exit 3'))
    with pytest.raises(AcmeError, match="dns hook add: exit code 3: no such zone"):
        hook.add("_acme-challenge.a.example", "x")


@pytest.mark.parametrize("text", ["kill -9 $$", "exit 1", "printf 'exit 0\\n'; exit 1"])
def test_failure_cannot_look_like_success(tmp_path: Path, text: str) -> None:
    with pytest.raises(AcmeError, match="exit code"):
        Hook(program(tmp_path, text)).add("_acme-challenge.a.example", "x")


def test_program_that_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AcmeError, match="exit code 127"):
        Hook(tmp_path / "none").add("_acme-challenge.a.example", "x")


def test_endless_output_is_harmless(tmp_path: Path) -> None:
    hook = Hook(program(tmp_path, "yes | head -c 3000000"))
    hook.add("_acme-challenge.a.example", "x")


@pytest.mark.parametrize(
    "text",
    ["c2VjcmV0\n", 'key "update" {\n  algorithm hmac-sha256;\n  secret "c2VjcmV0";\n};\n', "c2Vj\ncmV0\n"],
)
def test_secret_is_read_from_both_forms(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    assert read_secret(tmp_path / "key") == "c2VjcmV0"


def test_file_without_secret_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("# nothing")
    with pytest.raises(ValueError, match="no secret in base64"):
        read_secret(tmp_path / "key")


def test_record_is_the_digest_in_base64url() -> None:
    proof = Proof(name="a.example", token="t", key_authorization="t.thumbprint")
    assert record_value(proof) == "kZpPaU8v0lVY6egO09MvKhLSo0EExoWOkuaRCkojLJw"
