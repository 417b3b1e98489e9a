"""Reloading files: changes are applied while the proxy runs, unusable files are reported and rejected."""

from __future__ import annotations

import base64
import errno
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import define

import mailproxy
from mailproxy.app import load_and_check
from mailproxy.certificates.reloader import CertificateReloader, ReloadResult
from mailproxy.certificates.store import CertificateStore
from mailproxy.net.tls.certificate import Certificate, file_stamp, find
from mailproxy.net.tls.terminator import Terminator
from mailproxy.testing import ThrowAwayCA
from tests.support.startup_config import startup_config

CERTIFICATES = "frontends.imap.tls.certificates"
NO_KEY = "has no private key: put it into the same file, beside it with the suffix .key, or name it as key"


@define
class LoadedProxy:
    """The certificate store of a proxy with one bind and one server, and its reloader."""

    config: mailproxy.Config
    store: CertificateStore
    reloader: CertificateReloader

    def scan(self, *, force: bool = False) -> ReloadResult | None:
        return self.reloader.scan(force=force)

    def scan_changed(self, *, force: bool = False) -> ReloadResult:
        """Scan for a change that is expected."""
        result = self.scan(force=force)
        assert result is not None
        return result

    @property
    def contexts(self) -> dict[tuple[str, ...], ssl.SSLContext]:
        """The contexts of the bind, by the names of their certificate files."""
        state = self.store.bind_terminators["imap", 0]._state
        return {_names(certificates): context for certificates, context in state.contexts.items()}

    def served(self, name: str | None) -> tuple[str, ...]:
        """Return the names of the certificate files that a client gets when it asks for this name."""
        index = self.store.bind_terminators["imap", 0]._state.index
        return _names(find(index.by_name, name) or index.default)

    @property
    def default(self) -> ssl.SSLContext:
        """The context that every handshake starts with."""
        offer = self.store.bind_terminators["imap", 0].select(None)
        assert offer is not None
        return offer.context


def _names(certificates: tuple[Certificate, ...]) -> tuple[str, ...]:
    return tuple(certificate.path.name for certificate in certificates)


def load(config: mailproxy.Config) -> LoadedProxy:
    store = load_and_check(config)
    return LoadedProxy(config, store, CertificateReloader(config, store))


def load_bind(*certificates: Path, **tls: Any) -> LoadedProxy:
    return load(
        startup_config(
            frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
            frontends__imap__tls={"certificates": [str(file) for file in certificates], **tls},
        )
    )


def load_servers(**tls: Any) -> LoadedProxy:
    return load(startup_config(backends__dovecot__tls=tls))


def faults_in(result: ReloadResult) -> list[str]:
    return [str(fault) for fault in result.faults]


@pytest.fixture
def issue(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> Callable[..., Path]:
    """A function that replaces a file by a new certificate in one step, as ACME clients do."""

    def issue_file(
        file: str,
        name: str = "imap.example.com",
        *,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Path:
        target = tmp_path / file
        target.parent.mkdir(exist_ok=True)
        pem = throw_away_ca.issue(name, folder=tmp_path, not_before=not_before, not_after=not_after)
        return pem.rename(target)

    return issue_file


@pytest.fixture
def folder(issue: Callable[..., Path]) -> Path:
    """A folder with three certificates, each for a different name."""
    a, *_ = [issue(f"folder/{name}.pem", f"{name}.example") for name in "abc"]
    return a.parent


def key_bytes(pem: Path) -> bytes:
    return pem.read_bytes().partition(b"-----BEGIN CERTIFICATE")[0]


def chain_bytes(pem: Path) -> bytes:
    return pem.read_bytes().removeprefix(key_bytes(pem))


def replace(file: Path, content: bytes) -> Path:
    """Replace a file in one step."""
    new = file.with_name(f"{file.name}.new")
    new.write_bytes(content)
    return new.rename(file)


def kept_contexts(
    before: Mapping[tuple[str, ...], ssl.SSLContext], after: Mapping[tuple[str, ...], ssl.SSLContext]
) -> set[str]:
    """Return the names of the certificate files whose context is the same object as before."""
    return {name for names in before if before[names] is after.get(names) for name in names}


# No changes.


def test_scan_without_changes_returns_none(folder: Path, throw_away_ca: ThrowAwayCA) -> None:
    proxy = load_bind(folder, client_verify="optional", client_ca=str(throw_away_ca.pem))
    before, default = proxy.contexts, proxy.default
    assert proxy.scan() is None
    assert proxy.scan() is None
    assert kept_contexts(before, proxy.contexts) == {"a.pem", "b.pem", "c.pem"}
    assert proxy.default is default


def test_applied_change_is_not_reported_again(issue: Callable[..., Path]) -> None:
    proxy = load_bind(issue("imap.pem"))
    issue("imap.pem")
    assert proxy.scan() is not None
    assert proxy.scan() is None


def test_scan_without_files_returns_none() -> None:
    assert load(startup_config()).scan() is None


def test_forced_scan_without_changes_keeps_contexts(folder: Path) -> None:
    proxy = load_bind(folder)
    before = proxy.contexts
    result = proxy.scan_changed(force=True)
    assert (result.applied, result.faults) == ((), ())
    assert kept_contexts(before, proxy.contexts) == {"a.pem", "b.pem", "c.pem"}


# Certificates.


def test_replaced_certificate_is_applied(issue: Callable[..., Path]) -> None:
    pem = issue("imap.pem")
    proxy = load_bind(pem)
    before = proxy.default
    issue("imap.pem", "pop.example.com")
    result = proxy.scan_changed()
    assert (result.applied, result.faults) == ((pem,), ())
    assert proxy.default is not before
    assert proxy.served("pop.example.com") == ("imap.pem",)


def test_overwritten_certificate_is_applied(issue: Callable[..., Path]) -> None:
    pem, other = issue("imap.pem"), issue("other.pem")
    proxy = load_bind(pem)
    before = proxy.default
    stamp = file_stamp(pem)
    # The kernel's file timestamps tick only every few milliseconds.
    while file_stamp(pem) == stamp:
        pem.write_bytes(other.read_bytes())
    assert proxy.scan_changed().applied == (pem,)
    assert proxy.default is not before


def test_only_changed_certificates_get_new_contexts(folder: Path, issue: Callable[..., Path]) -> None:
    proxy = load_bind(folder)
    before = proxy.contexts
    issue("folder/b.pem", "b.example")
    assert folder / "b.pem" in proxy.scan_changed().applied
    assert kept_contexts(before, proxy.contexts) == {"a.pem", "c.pem"}


def test_changed_link_is_applied(issue: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "live").symlink_to(issue("one/imap.pem").parent)
    issue("two/imap.pem", "pop.example.com")
    proxy = load_bind(tmp_path / "live" / "imap.pem")
    (tmp_path / "next").symlink_to(tmp_path / "two")
    (tmp_path / "next").rename(tmp_path / "live")
    assert proxy.scan_changed().faults == ()
    assert proxy.served("pop.example.com") == ("imap.pem",)


def test_certificate_added_to_a_folder_is_applied(folder: Path, issue: Callable[..., Path]) -> None:
    proxy = load_bind(folder)
    before = proxy.contexts
    issue("folder/d.pem", "d.example")
    assert proxy.scan_changed().applied == (folder / "d.pem",)
    assert proxy.served("d.example") == ("d.pem",)
    assert kept_contexts(before, proxy.contexts) == {"a.pem", "b.pem", "c.pem"}


def test_new_first_certificate_becomes_the_default(folder: Path, issue: Callable[..., Path]) -> None:
    proxy = load_bind(folder)
    before = proxy.contexts
    issue("folder/0.pem", "new.example")
    proxy.scan_changed()
    assert proxy.served(None) == ("0.pem",)
    assert proxy.default is proxy.contexts["0.pem",]
    assert kept_contexts(before, proxy.contexts) == {"a.pem", "b.pem", "c.pem"}


def test_certificate_removed_from_a_folder(folder: Path) -> None:
    proxy = load_bind(folder)
    before = proxy.contexts
    (folder / "b.pem").unlink()
    result = proxy.scan_changed()
    assert result.faults == ()
    assert result.applied == (folder / "b.pem",)
    assert result.descriptions == (f"b.example removed ({folder / 'b.pem'})",)
    assert proxy.served("b.example") == ("a.pem",)
    assert kept_contexts(before, proxy.contexts) == {"a.pem", "c.pem"}


def test_second_key_type_joins_the_certificate_set(folder: Path, throw_away_ca: ThrowAwayCA) -> None:
    proxy = load_bind(folder)
    before = proxy.contexts
    throw_away_ca.issue("b.example", key_type="rsa", folder=folder).rename(folder / "rsa.pem")
    assert proxy.scan_changed().faults == ()
    assert proxy.served("b.example") == ("b.pem", "rsa.pem")
    assert kept_contexts(before, proxy.contexts) == {"a.pem", "c.pem"}


def test_binds_share_reloaded_certificates(issue: Callable[..., Path]) -> None:
    pem = issue("imap.pem")
    proxy = load(
        startup_config(
            frontends__imap__bind=[
                {"address": "127.0.0.1:0", "mode": "tls", "name": "one"},
                {"address": "127.0.0.1:0", "mode": "tls", "name": "two"},
            ],
            frontends__imap__tls={"certificates": [str(pem)]},
        )
    )
    before = proxy.default
    issue("imap.pem")
    proxy.scan_changed()
    one, two = proxy.store.bind_terminators.values()
    assert one is two
    assert proxy.default is not before


# Keys.


def test_replaced_pair_is_applied(issue: Callable[..., Path], tmp_path: Path) -> None:
    pem = issue("source.pem")
    chain, key = (
        replace(tmp_path / "imap.crt", chain_bytes(pem)),
        replace(tmp_path / "imap.key", key_bytes(pem)),
    )
    proxy = load_bind(chain)
    before = proxy.default
    other = issue("other.pem")
    replace(chain, chain_bytes(other))
    replace(key, key_bytes(other))
    result = proxy.scan_changed()
    assert (set(result.applied), result.faults) == ({chain, key}, ())
    assert proxy.default is not before


def test_half_replaced_pair_is_rejected_until_complete(issue: Callable[..., Path], tmp_path: Path) -> None:
    pem, other = issue("source.pem"), issue("other.pem")
    chain, key = (
        replace(tmp_path / "imap.crt", chain_bytes(pem)),
        replace(tmp_path / "imap.key", key_bytes(pem)),
    )
    proxy = load_bind(chain)
    before = proxy.default
    replace(chain, chain_bytes(other))
    (fault,) = faults_in(proxy.scan_changed())
    assert fault.startswith(
        f"{CERTIFICATES}[0]: {chain}: the private key in {key} does not belong to the certificate"
    )
    assert proxy.default is before
    replace(key, key_bytes(other))
    assert proxy.scan_changed().faults == ()
    assert proxy.default is not before


def test_rewritten_key_is_applied(issue: Callable[..., Path], tmp_path: Path) -> None:
    pem = issue("source.pem")
    chain, key = (
        replace(tmp_path / "imap.crt", chain_bytes(pem)),
        replace(tmp_path / "named.pem", key_bytes(pem)),
    )
    proxy = load_bind(chain, key=str(key))
    before = proxy.default
    replace(key, key_bytes(pem))
    result = proxy.scan_changed()
    assert (result.applied, result.faults) == ((key,), ())
    assert proxy.default is not before


@pytest.mark.parametrize("key_location", ["beside", "named"])
def test_missing_key_keeps_old_certificate_until_restored(
    issue: Callable[..., Path], tmp_path: Path, key_location: str
) -> None:
    pem = issue("source.pem")
    chain, key = (
        replace(tmp_path / "imap.crt", chain_bytes(pem)),
        replace(tmp_path / "imap.key", key_bytes(pem)),
    )
    proxy = load_bind(chain, **({"key": str(key)} if key_location == "named" else {}))
    before = proxy.default
    key.unlink()
    result = proxy.scan_changed()
    message = f"{chain}: {NO_KEY}" if key_location == "beside" else f"{key}: No such file or directory"
    assert (result.applied, faults_in(result)) == ((), [f"{CERTIFICATES}[0]: {message}"])
    assert proxy.default is before
    repeated = proxy.scan()  # an unreadable file is tried at each scan, changed or not
    assert (
        repeated is None
        if key_location == "beside"
        else repeated is not None and repeated.faults == result.faults
    )
    replace(key, key_bytes(pem))
    result = proxy.scan_changed()
    assert (result.applied, result.faults) == ((key,), ())
    assert proxy.default is not before


# Unusable files.

BROKEN = [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]


@pytest.mark.parametrize("content", BROKEN)
def test_broken_certificate_is_kept_while_others_change(
    folder: Path, issue: Callable[..., Path], content: bytes
) -> None:
    proxy = load_bind(folder)
    before = proxy.contexts
    replace(folder / "b.pem", content)
    issue("folder/c.pem", "c.example")
    issue("folder/d.pem", "d.example")
    assert faults_in(proxy.scan_changed()) == [
        f"{CERTIFICATES}[0]: {folder}/b.pem: has no certificate in PEM form"
    ]
    assert kept_contexts(before, proxy.contexts) == {"a.pem", "b.pem"}
    assert proxy.served("b.example") == ("b.pem",)
    assert proxy.served("d.example") == ("d.pem",)
    issue("folder/b.pem", "b.example")
    assert proxy.scan_changed().faults == ()
    assert kept_contexts(before, proxy.contexts) == {"a.pem"}


def test_rejected_certificate_joins_new_key_type(folder: Path, throw_away_ca: ThrowAwayCA) -> None:
    proxy = load_bind(folder)
    before = proxy.contexts
    replace(folder / "b.pem", b"")
    throw_away_ca.issue("b.example", key_type="rsa", folder=folder)
    assert faults_in(proxy.scan_changed()) == [
        f"{CERTIFICATES}[0]: {folder}/b.pem: has no certificate in PEM form"
    ]
    assert kept_contexts(before, proxy.contexts) == {"a.pem", "c.pem"}
    assert set(proxy.served("b.example")) == {"b.pem", "b.example-rsa.pem"}


def test_certificate_with_rare_curve_stops_no_reload(folder: Path, issue: Callable[..., Path]) -> None:
    proxy = load_bind(folder)
    files = [folder / "odd.key", folder / "odd.pem"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-nodes",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:secp160r1",
    ]
    command += ["-subj", "/CN=odd.example", "-keyout", str(files[0]), "-out", str(files[1])]
    subprocess.run(command, check=True, capture_output=True)
    issue("folder/z.pem", "z.example")
    proxy.scan_changed()
    assert proxy.served("z.example") == ("z.pem",)


def test_pipe_in_a_folder_is_ignored(folder: Path) -> None:
    os.mkfifo(folder / "pipe.pem")
    assert load_bind(folder).served("b.example") == ("b.pem",)


def test_unreadable_file_is_retried_without_change(
    issue: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = issue("one.pem", "one.example")
    proxy = load_bind(file)
    before = proxy.default
    replace(file, issue("new.pem", "one.example").read_bytes())

    def out_of_descriptors(*_: object) -> Certificate:
        raise OSError(errno.EMFILE, "Too many open files", str(file))

    with monkeypatch.context() as patch:
        patch.setattr("mailproxy.certificates.loader.read_certificate", out_of_descriptors)
        assert faults_in(proxy.scan_changed()) == [f"{CERTIFICATES}[0]: {file}: Too many open files"]
        assert proxy.default is before
    assert proxy.scan_changed().applied == (file,)
    assert proxy.default is not before


def test_removed_file_keeps_its_certificate(issue: Callable[..., Path]) -> None:
    one, other = issue("one.pem", "one.example"), issue("other.pem", "other.example")
    proxy = load_bind(one, other)
    before = proxy.contexts
    other.unlink()
    assert faults_in(proxy.scan_changed()) == [f"{CERTIFICATES}[1]: {other}: No such file or directory"]
    assert kept_contexts(before, proxy.contexts) == {"one.pem", "other.pem"}
    assert proxy.served("other.example") == ("other.pem",)


def test_broken_new_file_is_reported_and_left_out(folder: Path) -> None:
    proxy = load_bind(folder)
    before = proxy.contexts
    replace(folder / "d.pem", b"hello")
    assert faults_in(proxy.scan_changed()) == [
        f"{CERTIFICATES}[0]: {folder}/d.pem: has no certificate in PEM form"
    ]
    assert kept_contexts(before, proxy.contexts) == {"a.pem", "b.pem", "c.pem"}


@pytest.mark.parametrize("others", [0, 1])
def test_emptied_folder_keeps_its_certificates(folder: Path, issue: Callable[..., Path], others: int) -> None:
    proxy = load_bind(*[issue("imap.pem")][:others], folder)
    before = proxy.contexts
    for file in list(folder.iterdir()):
        file.unlink()
    assert faults_in(proxy.scan_changed()) == [
        f"{CERTIFICATES}[{others}]: {folder}: no .pem, .crt or .cer file in this folder"
    ]
    assert kept_contexts(before, proxy.contexts) >= {"a.pem", "b.pem", "c.pem"}
    assert proxy.served("b.example") == ("b.pem",)
    issue("folder/b.pem", "b.example")
    assert proxy.scan_changed().faults == ()
    assert "b.pem" not in kept_contexts(before, proxy.contexts)
    assert proxy.served("a.example") == proxy.served(None)  # no file has that name now


@pytest.mark.parametrize("others", [0, 1])
def test_missing_folder_keeps_its_certificates(folder: Path, issue: Callable[..., Path], others: int) -> None:
    proxy = load_bind(*[issue("imap.pem")][:others], folder)
    before = proxy.contexts
    away = folder.rename(folder.with_name("away"))
    assert faults_in(proxy.scan_changed()) == [
        f"{CERTIFICATES}[{others}]: {folder}: No such file or directory"
    ]
    assert kept_contexts(before, proxy.contexts) >= {"a.pem", "b.pem", "c.pem"}
    assert proxy.served("b.example") == ("b.pem",)
    away.rename(folder)
    assert proxy.scan_changed().faults == ()
    assert proxy.served("b.example") == ("b.pem",)


def test_all_faults_are_reported_at_once(
    folder: Path, issue: Callable[..., Path], throw_away_ca: ThrowAwayCA, tmp_path: Path
) -> None:
    ca = replace(tmp_path / "ca.pem", throw_away_ca.pem.read_bytes())
    pem, client = issue("imap.pem"), throw_away_ca.issue_client("proxy", folder=tmp_path)
    proxy = load(
        startup_config(
            frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
            frontends__imap__tls={
                "certificates": [str(pem), str(folder)],
                "client_ca": str(ca),
                "client_verify": "required",
            },
            backends__dovecot__tls={"ca": str(ca), "certificate": str(client)},
        )
    )
    for file in (pem, ca, client):
        file.unlink()
    replace(folder / "a.pem", b"")
    result = proxy.scan_changed()
    assert result.applied == ()
    assert faults_in(result) == [
        f"{CERTIFICATES}[0]: {pem}: No such file or directory",
        f"{CERTIFICATES}[1]: {folder}/a.pem: has no certificate in PEM form",
        f"frontends.imap.tls.client_ca: {ca}: No such file or directory",
        f"backends.dovecot.tls.ca: {ca}: No such file or directory",
        f"backends.dovecot.tls.certificate: {client}: No such file or directory",
    ]


# CA and revocation list.


@pytest.fixture
def verifying(
    folder: Path, throw_away_ca: ThrowAwayCA, tmp_path: Path
) -> Callable[[], tuple[LoadedProxy, Path, Path]]:
    """Return a function that loads a proxy that verifies client certificates, with its CA and CRL."""

    def load_verifying() -> tuple[LoadedProxy, Path, Path]:
        ca = replace(tmp_path / "ca.pem", throw_away_ca.pem.read_bytes())
        crl = throw_away_ca.revoke(folder=tmp_path)
        return load_bind(folder, client_verify="required", client_ca=str(ca), client_crl=str(crl)), ca, crl

    return load_verifying


def test_replaced_crl_applies_to_every_certificate(
    verifying: Callable[[], tuple[LoadedProxy, Path, Path]], throw_away_ca: ThrowAwayCA
) -> None:
    proxy, _, crl = verifying()
    before = proxy.contexts
    replace(crl, throw_away_ca.revoke(throw_away_ca.issue_client("alice")).read_bytes())
    result = proxy.scan_changed()
    assert (result.applied, result.faults) == ((crl,), ())
    assert kept_contexts(before, proxy.contexts) == set()


def test_replaced_ca_applies_to_every_certificate(
    verifying: Callable[[], tuple[LoadedProxy, Path, Path]], throw_away_ca: ThrowAwayCA, tmp_path: Path
) -> None:
    proxy, ca, _ = verifying()
    before = proxy.contexts
    (tmp_path / "other").mkdir()
    both = throw_away_ca.pem.read_bytes() + ThrowAwayCA(tmp_path / "other").pem.read_bytes()
    replace(ca, both)
    result = proxy.scan_changed()
    assert (result.applied, result.faults) == ((ca,), ())
    assert kept_contexts(before, proxy.contexts) == set()
    assert {context.cert_store_stats()["x509_ca"] for context in proxy.contexts.values()} == {2}


@pytest.mark.parametrize("broken_key", ["client_ca", "client_crl"])
@pytest.mark.parametrize("content", BROKEN)
def test_broken_ca_or_crl_keeps_all_contexts(
    verifying: Callable[[], tuple[LoadedProxy, Path, Path]], folder: Path, issue: Callable[..., Path], broken_key: str, content: bytes
) -> None:  # fmt: skip
    proxy, *files = verifying()
    broken = files[broken_key == "client_crl"]
    good, before = broken.read_bytes(), proxy.contexts
    replace(broken, content)
    issue("folder/b.pem", "b.example")
    (fault,) = faults_in(proxy.scan_changed())
    assert fault.startswith(f"frontends.imap.tls.{broken_key}: {broken}: no ")
    assert kept_contexts(before, proxy.contexts) == {"a.pem", "b.pem", "c.pem"}
    replace(broken, good)
    assert proxy.scan_changed().faults == ()
    assert kept_contexts(before, proxy.contexts) == set()
    assert proxy.served("b.example") == ("b.pem",)


def damaged(crl: bytes) -> bytes:
    """Return the CRL with a version that does not exist. OpenSSL accepts it and ``cryptography`` does not."""
    der = base64.b64decode(b"".join(line for line in crl.splitlines() if not line.startswith(b"-----")))
    content = base64.encodebytes(der.replace(b"\x02\x01\x01", b"\x02\x01\x05", 1))
    return b"-----BEGIN X509 CRL-----\n" + content + b"-----END X509 CRL-----\n"


def test_crl_of_unknown_version_is_rejected(
    verifying: Callable[[], tuple[LoadedProxy, Path, Path]],
) -> None:
    proxy, _, crl = verifying()
    good, before = crl.read_bytes(), proxy.contexts
    replace(crl, damaged(good))
    (fault,) = faults_in(proxy.scan_changed())
    assert fault == (
        f"frontends.imap.tls.client_crl: {crl}: has a revocation list that cannot be read: 5 is not a valid CRL version"
    )
    assert kept_contexts(before, proxy.contexts) == {"a.pem", "b.pem", "c.pem"}
    replace(crl, good)
    assert proxy.scan_changed().faults == ()


def test_check_command_reports_crl_of_unknown_version(
    verifying: Callable[[], tuple[LoadedProxy, Path, Path]], tmp_path: Path
) -> None:
    """The command exits with code 2 and reports the fault without a traceback."""
    proxy, ca, crl = verifying()
    replace(crl, damaged(crl.read_bytes()))
    (certificates,) = proxy.config.frontends["imap"].bind[0].tls.certificates  # type: ignore[union-attr]
    file = tmp_path / "mailproxy.toml"
    file.write_text(
        '[frontends.imap]\nbind = [{ address = "127.0.0.1:0", mode = "tls" }]\n[frontends.imap.tls]\n'
        f'certificates = ["{certificates}"]\nclient_verify = "required"\n'
        f'client_ca = "{ca}"\nclient_crl = "{crl}"\n'
    )
    completed = subprocess.run(
        [sys.executable, "-m", "mailproxy", "check", str(file)], capture_output=True, text=True, check=False
    )
    assert completed.returncode == 2
    assert f"{crl}: has a revocation list that cannot be read" in completed.stderr
    assert "Traceback" not in completed.stderr


def test_removed_crl_stays_in_use(
    verifying: Callable[[], tuple[LoadedProxy, Path, Path]],
) -> None:
    proxy, _, crl = verifying()
    before = proxy.contexts
    crl.unlink()
    assert faults_in(proxy.scan_changed()) == [
        f"frontends.imap.tls.client_crl: {crl}: No such file or directory"
    ]
    assert kept_contexts(before, proxy.contexts) == {"a.pem", "b.pem", "c.pem"}
    assert proxy.default.cert_store_stats()["crl"] == 1


# Servers.


def test_new_crl_applies_despite_broken_certificate(
    folder: Path, verifying: Callable[[], tuple[LoadedProxy, Path, Path]], throw_away_ca: ThrowAwayCA
) -> None:
    proxy, _, crl = verifying()
    before = proxy.contexts
    replace(folder / "b.pem", b"")
    replace(crl, throw_away_ca.revoke(throw_away_ca.issue_client("alice")).read_bytes())
    result = proxy.scan_changed()
    assert crl in result.applied
    assert faults_in(result) == [f"{CERTIFICATES}[0]: {folder}/b.pem: has no certificate in PEM form"]
    assert kept_contexts(before, proxy.contexts) == set()
    assert proxy.served("b.example") == ("b.pem",)


def test_crl_after_other_text_is_read(
    verifying: Callable[[], tuple[LoadedProxy, Path, Path]], throw_away_ca: ThrowAwayCA
) -> None:
    proxy, _, crl = verifying()
    replace(crl, b"before -----END X509 CRL-----\n" + throw_away_ca.revoke().read_bytes())
    assert proxy.scan_changed().faults == ()


def server_context(result: ReloadResult) -> object:
    (context,) = result.server_contexts.values()
    return context


def test_replaced_server_ca_is_applied(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    ca = replace(tmp_path / "ca.pem", throw_away_ca.pem.read_bytes())
    proxy = load_servers(ca=str(ca))
    (before,) = proxy.store.server_contexts.values()
    (tmp_path / "other").mkdir()
    replace(ca, ca.read_bytes() + ThrowAwayCA(tmp_path / "other").pem.read_bytes())
    result = proxy.scan_changed()
    assert (result.applied, result.faults) == ((ca,), ())
    context = server_context(result)
    assert isinstance(context, ssl.SSLContext)
    assert context is not before
    assert context.cert_store_stats()["x509_ca"] == 2


def test_replaced_client_certificate_is_applied(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    pem = throw_away_ca.issue_client("proxy", folder=tmp_path)
    proxy = load_servers(ca=str(throw_away_ca.pem), certificate=str(pem))
    (before,) = proxy.store.server_contexts.values()
    replace(pem, throw_away_ca.issue_client("proxy").read_bytes())
    result = proxy.scan_changed()
    assert (result.applied, result.faults) == ((pem,), ())
    assert server_context(result) is not before


@pytest.mark.parametrize("broken_key", ["ca", "certificate", "key"])
def test_broken_server_file_keeps_old_context(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, broken_key: str
) -> None:
    pem = throw_away_ca.issue_client("proxy", folder=tmp_path)
    files = {
        "ca": replace(tmp_path / "ca.pem", throw_away_ca.pem.read_bytes()),
        "certificate": replace(tmp_path / "chain.pem", chain_bytes(pem)),
        "key": replace(tmp_path / "secret.pem", key_bytes(pem)),
    }
    proxy = load_servers(**{key: str(file) for key, file in files.items()})
    (before,) = proxy.store.server_contexts.values()
    good = files[broken_key].read_bytes()
    replace(files[broken_key], b"hello")
    result = proxy.scan_changed()
    (fault,) = result.faults
    assert fault.path == f"backends.dovecot.tls.{broken_key if broken_key == 'ca' else 'certificate'}"
    assert str(files[broken_key]) in fault.fact
    assert server_context(result) is before
    assert proxy.scan() is None
    replace(files[broken_key], good)
    result = proxy.scan_changed()
    assert result.faults == ()
    assert server_context(result) is not before


# Expiry.


def days_from_now(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


@pytest.mark.parametrize(("days", "is_reported"), [(-1, True), (0.5, True), (13.9, True), (14.1, False)])
def test_expiry_within_fourteen_days_is_reported(
    issue: Callable[..., Path], days: float, is_reported: bool
) -> None:
    begin, end = days_from_now(-30), days_from_now(days)
    pem = issue("imap.pem", not_before=begin, not_after=end)
    issue("folder/fresh.pem", "fresh.example")
    reported = [str(fault) for fault in load_bind(pem, pem.parent / "folder").reloader.expiring()]
    remaining = (
        f"{int(days)} days, on {end:%Y-%m-%d}" if days > 2 else f"11 hours, on {end:%Y-%m-%d %H:%M} UTC"
    )
    message = (
        f"is not in date: from {begin:%Y-%m-%d} to {end:%Y-%m-%d}"
        if days < 0
        else f"expires in {remaining}: renew it"
    )
    assert reported == ([f"{CERTIFICATES}[0]: {pem}: {message}"] if is_reported else [])


@pytest.mark.parametrize(
    ("hours", "remaining"), [(1.51, "90 minutes"), (0.26, "15 minutes"), (30.1, "30 hours"), (49, "2 days")]
)
def test_expiry_is_reported_in_suitable_units(
    issue: Callable[..., Path], hours: float, remaining: str
) -> None:
    (reported,) = load_bind(issue("imap.pem", not_after=days_from_now(hours / 24))).reloader.expiring()
    assert f": expires in {remaining}, on " in str(reported)


@pytest.mark.parametrize(("days", "is_reported"), [(2.1, False), (1.9, True)])
def test_short_lived_certificate_is_reported_late(
    issue: Callable[..., Path], days: float, is_reported: bool
) -> None:
    pem = issue("imap.pem", not_before=days_from_now(days - 6), not_after=days_from_now(days))
    assert bool(load_bind(pem).reloader.expiring()) == is_reported


def test_applied_certificate_is_described(issue: Callable[..., Path]) -> None:
    pem = issue("imap.pem")
    proxy = load_bind(pem)
    end = days_from_now(60)
    issue("imap.pem", "pop.example.com", not_after=end)
    result = proxy.scan_changed()
    assert result.descriptions == (f"pop.example.com until {end:%Y-%m-%d} ({pem})",)
    assert result.expiring == ()


def test_renewed_certificate_near_expiry_is_reported(issue: Callable[..., Path], folder: Path) -> None:
    issue("folder/a.pem", "a.example", not_after=days_from_now(3.5))
    proxy = load_bind(folder)
    issue("folder/b.pem", "b.example", not_after=days_from_now(10.5))
    (fault,) = proxy.scan_changed().expiring  # without a.pem, which is reported daily
    assert fault.fact.startswith(f"{folder / 'b.pem'}: expires in 10 days")


def test_broken_folder_file_is_not_reported_applied(folder: Path) -> None:
    proxy = load_bind(folder)
    replace(folder / "d.pem", b"hello")
    result = proxy.scan_changed()
    assert len(result.faults) == 1
    assert (result.applied, result.descriptions) == ((), ())


def test_emptied_folder_is_not_reported_applied(folder: Path) -> None:
    proxy = load_bind(folder)
    for file in list(folder.iterdir()):
        file.unlink()
    result = proxy.scan_changed()
    assert len(result.faults) == 1
    assert (result.applied, result.descriptions) == ((), ())


def test_future_certificate_is_reported(issue: Callable[..., Path]) -> None:
    begin, end = days_from_now(1), days_from_now(90)
    pem = issue("imap.pem", not_before=begin, not_after=end)
    (reported,) = load_bind(pem).reloader.expiring()
    assert (
        str(reported) == f"{CERTIFICATES}[0]: {pem}: is not in date: from {begin:%Y-%m-%d} to {end:%Y-%m-%d}"
    )


def test_expiring_client_certificate_is_reported(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    end = days_from_now(3.5)
    pem = throw_away_ca.issue_client("proxy", folder=tmp_path, not_after=end)
    (reported,) = load_servers(certificate=str(pem)).reloader.expiring()
    assert (
        str(reported)
        == f"backends.dovecot.tls.certificate: {pem}: expires in 3 days, on {end:%Y-%m-%d}: renew it"
    )


def test_renewed_certificate_is_not_reported_expiring(issue: Callable[..., Path]) -> None:
    proxy = load_bind(issue("imap.pem", not_after=days_from_now(1)))
    assert len(proxy.reloader.expiring()) == 1
    issue("imap.pem")
    proxy.scan_changed()
    assert proxy.reloader.expiring() == []


def test_rejected_renewal_is_still_reported_expiring(issue: Callable[..., Path]) -> None:
    pem = issue("imap.pem", not_after=days_from_now(1))
    proxy = load_bind(pem)
    before = proxy.reloader.expiring()
    replace(pem, b"")
    proxy.scan_changed()
    assert proxy.reloader.expiring() == before


def test_failed_apply_is_retried_at_next_scan(
    issue: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may be out of descriptors. That raises no error, and the old certificates stay."""
    pem = issue("imap.pem")
    proxy = load_bind(pem)
    reloader = CertificateReloader(proxy.config, proxy.store, stage=True)
    terminator = proxy.store.bind_terminators["imap", 0]
    issue("imap.pem")
    result, before = reloader.scan(), terminator._state
    assert result is not None

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr("mailproxy.net.tls.terminator.load_chain", fail)
        applied_result = reloader.apply_staged(result)
        assert applied_result.applied == ()
        assert faults_in(applied_result) == ["frontends.imap.tls: Too many open files"]
        second_result = reloader.scan()
        assert second_result is not None
        assert (second_result.applied, second_result.staged) == ((), ())
        assert terminator._state is before
    result = reloader.scan()
    assert result is not None
    applied_result = reloader.apply_staged(result)
    assert (applied_result.applied, applied_result.faults) == ((pem,), ())
    assert terminator._state is not before
    assert reloader.scan() is None


def out_of_descriptors(*_: object) -> Any:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_server_context_that_fails_for_want_of_descriptors_is_retried(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = tmp_path / "own-ca.pem"
    ca.write_bytes(throw_away_ca.pem.read_bytes())
    proxy = load_servers(ca=str(ca))
    before = dict(proxy.store.server_contexts)
    replace(ca, throw_away_ca.pem.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr("mailproxy.certificates.loader.make_client_context", out_of_descriptors)
        failed = proxy.scan_changed()
        assert (failed.applied, faults_in(failed)) == ((), ["backends.dovecot.tls: Too many open files"])
        assert failed.server_contexts == before
    retried = proxy.scan_changed()
    assert (retried.applied, retried.faults) == ((ca,), ())
    assert not set(retried.server_contexts.values()) & set(before.values())
    assert proxy.scan() is None


def test_bind_that_fails_does_not_hide_the_reload_of_another_bind(
    issue: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = issue("one.pem"), issue("other.pem")
    binds = [
        {"address": "127.0.0.1:0", "mode": "tls", "tls": {"certificates": [str(file)]}}
        for file in (one, other)
    ]
    proxy = load(startup_config(frontends__imap__bind=binds))
    issue("one.pem")
    issue("other.pem")
    reload = Terminator.reload

    def fail_for_other(self: Terminator, certificates: Sequence[Certificate]) -> None:
        if certificates[0].path == other:
            out_of_descriptors()
        reload(self, certificates)

    with monkeypatch.context() as patch:
        patch.setattr(Terminator, "reload", fail_for_other)
        failed = proxy.scan_changed()
        assert faults_in(failed) == ["frontends.imap.bind[1].tls: Too many open files"]
        assert failed.applied == (one,)
    assert proxy.scan_changed().applied == (other,)


def test_key_and_authorities_of_a_bind_that_fails_are_not_applied(
    issue: Callable[..., Path], throw_away_ca: ThrowAwayCA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem, ca = issue("imap.pem"), tmp_path / "own-ca.pem"
    key = pem.with_suffix(".key")
    key.write_bytes(key_bytes(pem))
    replace(pem, chain_bytes(pem))
    ca.write_bytes(throw_away_ca.pem.read_bytes())
    proxy = load_bind(pem, client_verify="optional", client_ca=str(ca))
    new = issue("new.pem")
    replace(key, key_bytes(new))
    replace(pem, chain_bytes(new))
    replace(ca, throw_away_ca.pem.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(Terminator, "reload", out_of_descriptors)
        assert proxy.scan_changed().applied == ()
    assert set(proxy.scan_changed().applied) == {pem, key, ca}
