"""What `mailproxy check` says about HTTP: packages, token, advice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mailproxy
from mailproxy.app import advise, load_and_check
from tests.support.startup_config import startup_config

TOKEN = "0123456789abcdef"


def config_with(token: Path | None = None, **changes: Any) -> mailproxy.Config:
    if token is not None:
        changes["admin__token_file"] = str(token)
    return startup_config(admin__http="127.0.0.1:0", **changes)


def faults_of(config: mailproxy.Config) -> list[str]:
    with pytest.raises(mailproxy.ConfigError) as caught:
        load_and_check(config)
    return [str(fault) for fault in caught.value.faults]


def test_missing_packages_are_a_fault_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailproxy.app.http_checks._HTTP_PACKAGES", ("hypercorn", "no_such_package"))
    assert faults_of(config_with()) == [
        "admin.http: no_such_package not installed, which HTTP needs: pip install 'mailproxy[http]'"
    ]


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", "has no token of 16 characters or more: openssl rand -hex 32"),
        ("short\n", "has no token of 16 characters or more: openssl rand -hex 32"),
        ("0123456789 abcdefgh", "is no token: one line of printable ASCII without blanks"),
        ("0123456789\n0123456789", "is no token: one line of printable ASCII without blanks"),
        ("x" * 2000, "is no token: one line of printable ASCII without blanks"),
        (None, "No such file or directory"),
    ],
)
def test_unusable_token_is_a_fault(tmp_path: Path, text: str | None, fact: str) -> None:
    file = tmp_path / "token"
    if text is not None:
        file.write_text(text)
    assert faults_of(config_with(file)) == [f"admin.token_file: {file}: {fact}"]


def test_token_that_others_can_read_is_advice(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)

    def advice(mode: int) -> list[str]:
        file.chmod(mode)
        config = config_with(file)
        return [str(each) for each in advise(config, load_and_check(config)) if "token" in str(each)]

    assert advice(0o640) == []
    assert advice(0o644) == [
        f"admin.token_file: {file}: every user of this machine can read it, and give the proxy commands: chmod o-r"
    ]


@pytest.mark.slow
def test_packages_of_the_extra_are_loaded_only_for_http() -> None:
    code = (
        "import sys, mailproxy.app.run, mailproxy.admin.service; "
        "print([name for name in ('hypercorn', 'starlette', 'prometheus_client') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
