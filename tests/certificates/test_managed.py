"""Certificates that ACME has obtained, or not yet, as binds load them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailproxy.certificates.loader import load_certificates, reload_certificates
from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config
from mailproxy.testing import ThrowAwayCA
from tests.support.smallest_config import smallest_config

NAME = "imap.example.com"


def config_of(folder: Path, more: str = "") -> Config:
    return smallest_config(f"""
acme.le = {{ terms_agreed = true, storage = "{folder}/acme"{more} }}
frontends.imap.bind = [{{ address = "127.0.0.1:1993", mode = "tls" }}]
frontends.imap.tls = {{ acme = "le", names = ["{NAME}"] }}
""")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "acme" / "certificates" / f"{NAME}.ecdsa-p256.pem"
    file.parent.mkdir(parents=True)
    return file


def issue(ca: ThrowAwayCA, file: Path) -> None:
    file.write_bytes(ca.issue(NAME).read_bytes())


def selected(store: CertificateStore) -> tuple[str | None, bool]:
    """Return what clients get: the placeholder, and whether they are refused."""
    (terminator,) = store.bind_terminators.values()
    selection = terminator.select(NAME)
    assert selection is not None
    return selection.certificates[0].placeholder, selection.is_refused


def test_missing_certificate_is_self_signed(tmp_path: Path, file: Path) -> None:
    store = load_certificates(config_of(tmp_path))
    assert store.faults == []
    assert selected(store) == ("self-signed", False)
    assert store.certificates == {}


def test_missing_certificate_is_refused_as_configured(tmp_path: Path, file: Path) -> None:
    store = load_certificates(config_of(tmp_path, ', until_ready = "refuse"'))
    assert selected(store) == ("refuse", True)


@pytest.mark.parametrize("stage", [False, True], ids=["one process", "several"])
def test_obtained_certificate_replaces_placeholder(
    tmp_path: Path, file: Path, throw_away_ca: ThrowAwayCA, stage: bool
) -> None:
    config = config_of(tmp_path)
    store = load_certificates(config)
    reloader = CertificateReloader(config, store, stage=stage)
    assert reloader.scan() is None
    issue(throw_away_ca, file)
    result = reloader.scan()
    assert result is not None
    result = reloader.apply_staged(result)
    assert result.faults == ()
    assert "imap.example.com until" in result.descriptions[0]
    assert selected(reloader.store) == (None, False)


def test_placeholder_stays_the_same_over_scans(tmp_path: Path, file: Path) -> None:
    config = config_of(tmp_path)
    store = load_certificates(config)
    again = reload_certificates(config, store)
    assert again.placeholders == store.placeholders


def test_certificate_that_vanishes_stays_in_use(
    tmp_path: Path, file: Path, throw_away_ca: ThrowAwayCA
) -> None:
    config = config_of(tmp_path)
    issue(throw_away_ca, file)
    store = load_certificates(config)
    assert selected(store) == (None, False)
    file.unlink()
    gone = reload_certificates(config, store)
    assert selected(gone) == (None, False)
    assert "No such file" in gone.faults[0].fact


def test_damaged_file_is_a_placeholder_at_the_start(tmp_path: Path, file: Path) -> None:
    file.write_bytes(b"\0" * 500)
    store = load_certificates(config_of(tmp_path))
    assert store.faults == []
    assert selected(store) == ("self-signed", False)


def test_damaged_file_keeps_the_certificate_in_use(
    tmp_path: Path, file: Path, throw_away_ca: ThrowAwayCA
) -> None:
    config = config_of(tmp_path)
    issue(throw_away_ca, file)
    store = load_certificates(config)
    file.write_bytes(b"nonsense")
    damaged = reload_certificates(config, store)
    assert selected(damaged) == (None, False)
    assert damaged.faults


def test_one_key_type_of_two_is_served_without_placeholder(
    tmp_path: Path, file: Path, throw_away_ca: ThrowAwayCA
) -> None:
    issue(throw_away_ca, file)
    store = load_certificates(config_of(tmp_path, ', keys = ["rsa-2048", "ecdsa-p256"]'))
    (terminator,) = store.bind_terminators.values()
    selection = terminator.select(NAME)
    assert selection is not None
    assert [each.placeholder for each in selection.certificates] == [None]


def test_binds_know_the_names_of_challenges(tmp_path: Path, file: Path) -> None:
    (terminator,) = load_certificates(config_of(tmp_path)).bind_terminators.values()
    assert terminator.challenges == {NAME: tmp_path / "acme" / "challenges"}
    other = config_of(tmp_path, ', challenge = "http-01"')
    (terminator,) = load_certificates(other).bind_terminators.values()
    assert terminator.challenges is None
