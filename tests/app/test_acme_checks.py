"""What ``mailproxy check`` says about ACME on this machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from click.testing import CliRunner

from mailproxy.cli import main
from mailproxy.testing import ThrowAwayCA
from tests.support.smallest_config import smallest_toml


def check(
    folder: Path, keys: str = "", *, port: int = 443, options: tuple[str, ...] = ("--quiet",)
) -> tuple[int, str]:
    file = folder / "mailproxy.toml"
    file.write_text(
        smallest_toml(f"""
acme.le = {{ terms_agreed = true, storage = "acme"{keys} }}
frontends.imap.protocol = "imap"
frontends.imap.bind = [{{ address = "127.0.0.1:{port}", mode = "tls" }}]
frontends.imap.tls = {{ acme = "le", names = ["imap.example.com"] }}
process.user = "nobody"
""")
    )
    result = CliRunner().invoke(main, ["check", *options, str(file)])
    return result.exit_code, result.output


def test_missing_storage_is_fine(tmp_path: Path) -> None:
    code, output = check(tmp_path)
    assert code == 0
    assert "acme" not in output


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o704])
def test_storage_that_others_can_read_is_a_fault(tmp_path: Path, mode: int) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme").chmod(mode)
    code, output = check(tmp_path)
    assert code == 2
    assert f"has mode {mode:04o}, so that others can read private keys: chmod 700" in output


def test_storage_that_is_a_file_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "acme").write_text("")
    code, output = check(tmp_path)
    assert (code, "acme: is no folder" in output) == (2, True)


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        (', ca = "none.pem"', "acme.le.ca: {folder}/none.pem: there is no such file"),
        (', eab = { key_id = "k", hmac_file = "none" }', "acme.le.eab.hmac_file: {folder}/none: there is no such file"),
        (', challenge = "http-01", webroot = "none"', "acme.le.webroot: {folder}/none: is no folder"),
        (', challenge = "dns-01", dns = { hook = "mailproxy.toml" }', "acme.le.dns.hook: {folder}/mailproxy.toml: is not executable"),
    ],
)  # fmt: skip
def test_files_must_exist(tmp_path: Path, keys: str, fault: str) -> None:
    code, output = check(tmp_path, keys)
    assert code == 2
    assert fault.format(folder=tmp_path) in output


def test_missing_extra_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    code, output = check(tmp_path)
    assert code == 2
    assert "acme.le: needs the extra acme: pip install 'mailproxy[acme]'" in output


def test_public_authority_needs_port_443(tmp_path: Path) -> None:
    _, output = check(tmp_path, port=1993)
    assert "tls-alpn-01 is asked for at port 443, where no bind with mode tls listens" in output


def test_storage_that_cannot_be_written_is_advice(tmp_path: Path) -> None:
    """It belongs to this user, and sessions run as another one."""
    (tmp_path / "acme").mkdir(0o700)
    code, output = check(tmp_path)
    assert code == 0
    assert "the user nobody cannot write there, so nothing can be renewed" in output


def test_unused_authority_is_advice(tmp_path: Path, throw_away_ca: ThrowAwayCA) -> None:
    pem = throw_away_ca.issue("imap.example.com", folder=tmp_path)
    file = tmp_path / "mailproxy.toml"
    file.write_text(
        smallest_toml(f"""
acme.le = {{ terms_agreed = true, storage = "acme" }}
frontends.imap.bind = [{{ address = "127.0.0.1:1993", mode = "tls" }}]
frontends.imap.tls = {{ certificates = ["{pem}"] }}
""")
    )
    output = CliRunner().invoke(main, ["check", "--quiet", str(file)]).output
    assert "acme.le: is used by no frontend" in output


def test_must_staple_certificate_is_advice(tmp_path: Path) -> None:
    from tests.support.must_staple import must_staple_certificate

    pem = tmp_path / "staple.pem"
    pem.write_bytes(must_staple_certificate("imap.example.com"))
    pem.chmod(0o600)
    file = tmp_path / "mailproxy.toml"
    file.write_text(
        smallest_toml(f"""
frontends.imap.bind = [{{ address = "127.0.0.1:1993", mode = "tls" }}]
frontends.imap.tls = {{ certificates = ["{pem}"] }}
""")
    )
    result = CliRunner().invoke(main, ["check", "--quiet", str(file)])
    assert result.exit_code == 0
    assert "demands a stapled OCSP response (must-staple), which this proxy cannot send" in result.output
