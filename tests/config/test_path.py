"""Configuration paths: formatting, parsing and nesting, and which faults hide others."""

from __future__ import annotations

import pytest

from mailproxy.config.diagnostics import Diagnostics
from mailproxy.config.path import ROOT_PATH, parse_path
from tests.support.smallest_config import faults_of, smallest_toml

BIND = ROOT_PATH / "frontends" / "imap" / "bind" / 0


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ((), ""),
        (("log", "to"), "log.to"),
        (("frontends", "imap", "bind", 0, "mode"), "frontends.imap.bind[0].mode"),
        (("backends", "mail.example", "servers"), 'backends."mail.example".servers'),
        (("", "a b", "\n"), '""."a b"."\\u000a"'),
    ],
)
def test_path_is_formatted_as_in_toml(steps: tuple[str | int, ...], text: str) -> None:
    assert str(ROOT_PATH.joinpath(*steps)) == text


def test_path_of_plain_names_is_parsed() -> None:
    assert parse_path("frontends.imap.bind[0]") == BIND


def test_path_is_within_itself_and_its_parents() -> None:
    assert [str(path) for path in BIND.with_parents()] == [
        "frontends.imap.bind[0]", "frontends.imap.bind", "frontends.imap", "frontends",
    ]  # fmt: skip
    assert all(BIND.is_within(path) for path in BIND.with_parents())
    assert not BIND.is_within(BIND / "mode")


def test_path_is_not_within_a_longer_name() -> None:
    assert not (ROOT_PATH / "backends" / "d10").is_within(ROOT_PATH / "backends" / "d1")


def test_subtree_with_invalid_key_is_invalid() -> None:
    diagnostics = Diagnostics()
    diagnostics.drop(BIND / "tls" / "key", "is odd")
    assert diagnostics.is_invalid(BIND / "tls", subtree=True)
    assert not diagnostics.is_invalid(BIND / "tls")
    assert not diagnostics.is_invalid(BIND / "mode", subtree=True)


def test_fault_in_tls_table_hides_no_other_fault() -> None:
    lines = """
frontends.imap.bind = [{ address = "*:993", mode = "tls" }]
backends.dovecot.tls.verify = "yes"
"""
    assert faults_of(smallest_toml(lines)) == [
        'backends.dovecot.tls.verify: "yes" is not allowed: write "required"',
        "frontends.imap.bind[0]: mode tls needs certificates: give tls.certificates to the bind or its frontend, or tls.acme",
    ]
