"""Files that are replaced while the proxy runs: what has changed is taken up, what is no good is said and changes nothing."""

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
class Running:
    """What was loaded for the one bind and the one server of a proxy, and what looks at it again."""

    config: mailproxy.Config
    material: CertificateStore
    renewal: CertificateReloader

    def look(self, *, anyway: bool = False) -> ReloadResult | None:
        return self.renewal.scan(force=anyway)

    def looked(self, *, anyway: bool = False) -> ReloadResult:
        """Look when something has changed."""
        renewed = self.look(anyway=anyway)
        assert renewed is not None
        return renewed

    @property
    def contexts(self) -> dict[tuple[str, ...], ssl.SSLContext]:
        """Those of the bind, by the names of the files that each has."""
        state = self.material.bind_terminators["imap", 0]._state
        return {_names(together): context for together, context in state.contexts.items()}

    def served(self, name: str | None) -> tuple[str, ...]:
        """The names of the files that a client gets who asks for this name."""
        choice = self.material.bind_terminators["imap", 0]._state.index
        return _names(find(choice.by_name, name) or choice.default)

    @property
    def default(self) -> ssl.SSLContext:
        """What every handshake begins with."""
        offer = self.material.bind_terminators["imap", 0].select(None)
        assert offer is not None
        return offer.context


def _names(together: tuple[Certificate, ...]) -> tuple[str, ...]:
    return tuple(certificate.path.name for certificate in together)


def running(config: mailproxy.Config) -> Running:
    material = load_and_check(config)
    return Running(config, material, CertificateReloader(config, material))


def terminating(*certificates: Path, **tls: Any) -> Running:
    return running(
        startup_config(
            frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
            frontends__imap__tls={"certificates": [str(file) for file in certificates], **tls},
        )
    )


def connecting(**tls: Any) -> Running:
    return running(startup_config(backends__dovecot__tls=tls))


def faults_of(renewed: ReloadResult) -> list[str]:
    return [str(fault) for fault in renewed.faults]


@pytest.fixture
def issue(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> Callable[..., Path]:
    """Puts a new certificate for a name into a file of ours, in one step as those do who renew certificates."""

    def put(
        file: str,
        name: str = "imap.example.com",
        *,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Path:
        place = tmp_path / file
        place.parent.mkdir(exist_ok=True)
        pem = throw_away_ca.issue(name, folder=tmp_path, not_before=not_before, not_after=not_after)
        return pem.rename(place)

    return put


@pytest.fixture
def folder(issue: Callable[..., Path]) -> Path:
    """Three certificates, each for a name of its own."""
    a, *_ = [issue(f"folder/{name}.pem", f"{name}.example") for name in "abc"]
    return a.parent


def key_of(pem: Path) -> bytes:
    return pem.read_bytes().partition(b"-----BEGIN CERTIFICATE")[0]


def chain_of(pem: Path) -> bytes:
    return pem.read_bytes().removeprefix(key_of(pem))


def replace(file: Path, content: bytes) -> Path:
    """In one step."""
    new = file.with_name(f"{file.name}.new")
    new.write_bytes(content)
    return new.rename(file)


def unchanged(
    before: Mapping[tuple[str, ...], ssl.SSLContext], after: Mapping[tuple[str, ...], ssl.SSLContext]
) -> set[str]:
    """The certificates that have the very context that they had before."""
    return {name for names in before if before[names] is after.get(names) for name in names}


# Nothing.


def test_nothing_has_changed(folder: Path, throw_away_ca: ThrowAwayCA) -> None:
    proxy = terminating(folder, client_verify="optional", client_ca=str(throw_away_ca.pem))
    before, default = proxy.contexts, proxy.default
    assert proxy.look() is None
    assert proxy.look() is None
    assert unchanged(before, proxy.contexts) == {"a.pem", "b.pem", "c.pem"}
    assert proxy.default is default


def test_what_was_taken_up_is_not_news_the_next_time(issue: Callable[..., Path]) -> None:
    proxy = terminating(issue("imap.pem"))
    issue("imap.pem")
    assert proxy.look() is not None
    assert proxy.look() is None


def test_a_proxy_without_files_has_nothing_to_look_at() -> None:
    assert running(startup_config()).look() is None


def test_a_look_anyway_is_one_even_where_nothing_has_changed(folder: Path) -> None:
    proxy = terminating(folder)
    before = proxy.contexts
    renewed = proxy.looked(anyway=True)
    assert (renewed.applied, renewed.faults) == ((), ())
    assert unchanged(before, proxy.contexts) == {"a.pem", "b.pem", "c.pem"}


# Certificates.


def test_a_certificate_that_is_replaced(issue: Callable[..., Path]) -> None:
    pem = issue("imap.pem")
    proxy = terminating(pem)
    before = proxy.default
    issue("imap.pem", "pop.example.com")
    renewed = proxy.looked()
    assert (renewed.applied, renewed.faults) == ((pem,), ())
    assert proxy.default is not before
    assert proxy.served("pop.example.com") == ("imap.pem",)


def test_a_certificate_that_is_written_over(issue: Callable[..., Path]) -> None:
    pem, other = issue("imap.pem"), issue("other.pem")
    proxy = terminating(pem)
    before = proxy.default
    stamp = file_stamp(pem)
    while file_stamp(pem) == stamp:  # the kernel's clock for files ticks every few milliseconds
        pem.write_bytes(other.read_bytes())
    assert proxy.looked().applied == (pem,)
    assert proxy.default is not before


def test_only_what_has_changed_is_made_anew(folder: Path, issue: Callable[..., Path]) -> None:
    proxy = terminating(folder)
    before = proxy.contexts
    issue("folder/b.pem", "b.example")
    assert folder / "b.pem" in proxy.looked().applied
    assert unchanged(before, proxy.contexts) == {"a.pem", "c.pem"}


def test_a_link_that_leads_elsewhere_now(issue: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "live").symlink_to(issue("one/imap.pem").parent)
    issue("two/imap.pem", "pop.example.com")
    proxy = terminating(tmp_path / "live" / "imap.pem")
    (tmp_path / "next").symlink_to(tmp_path / "two")
    (tmp_path / "next").rename(tmp_path / "live")
    assert proxy.looked().faults == ()
    assert proxy.served("pop.example.com") == ("imap.pem",)


def test_a_certificate_that_comes_to_a_folder(folder: Path, issue: Callable[..., Path]) -> None:
    proxy = terminating(folder)
    before = proxy.contexts
    issue("folder/d.pem", "d.example")
    assert proxy.looked().applied == (folder / "d.pem",)
    assert proxy.served("d.example") == ("d.pem",)
    assert unchanged(before, proxy.contexts) == {"a.pem", "b.pem", "c.pem"}


def test_one_that_comes_first_in_a_folder_is_the_default_from_now_on(
    folder: Path, issue: Callable[..., Path]
) -> None:
    proxy = terminating(folder)
    before = proxy.contexts
    issue("folder/0.pem", "new.example")
    proxy.looked()
    assert proxy.served(None) == ("0.pem",)
    assert proxy.default is proxy.contexts["0.pem",]
    assert unchanged(before, proxy.contexts) == {"a.pem", "b.pem", "c.pem"}


def test_a_certificate_that_is_taken_out_of_a_folder(folder: Path) -> None:
    proxy = terminating(folder)
    before = proxy.contexts
    (folder / "b.pem").unlink()
    renewed = proxy.looked()
    assert renewed.faults == ()
    assert renewed.applied == (folder / "b.pem",)
    assert renewed.descriptions == (f"b.example removed ({folder / 'b.pem'})",)
    assert proxy.served("b.example") == ("a.pem",)
    assert unchanged(before, proxy.contexts) == {"a.pem", "c.pem"}


def test_one_with_another_kind_of_key_comes_to_stand_beside_it(
    folder: Path, throw_away_ca: ThrowAwayCA
) -> None:
    proxy = terminating(folder)
    before = proxy.contexts
    throw_away_ca.issue("b.example", key_type="rsa", folder=folder).rename(folder / "rsa.pem")
    assert proxy.looked().faults == ()
    assert proxy.served("b.example") == ("b.pem", "rsa.pem")
    assert unchanged(before, proxy.contexts) == {"a.pem", "c.pem"}


def test_two_binds_that_share_certificates_share_the_new_ones(issue: Callable[..., Path]) -> None:
    pem = issue("imap.pem")
    proxy = running(
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
    proxy.looked()
    one, two = proxy.material.bind_terminators.values()
    assert one is two
    assert proxy.default is not before


# Keys.


def test_a_pair_that_is_replaced(issue: Callable[..., Path], tmp_path: Path) -> None:
    pem = issue("source.pem")
    chain, key = replace(tmp_path / "imap.crt", chain_of(pem)), replace(tmp_path / "imap.key", key_of(pem))
    proxy = terminating(chain)
    before = proxy.default
    other = issue("other.pem")
    replace(chain, chain_of(other))
    replace(key, key_of(other))
    renewed = proxy.looked()
    assert (set(renewed.applied), renewed.faults) == ({chain, key}, ())
    assert proxy.default is not before


def test_a_pair_whose_second_half_is_still_to_come(issue: Callable[..., Path], tmp_path: Path) -> None:
    pem, other = issue("source.pem"), issue("other.pem")
    chain, key = replace(tmp_path / "imap.crt", chain_of(pem)), replace(tmp_path / "imap.key", key_of(pem))
    proxy = terminating(chain)
    before = proxy.default
    replace(chain, chain_of(other))
    (fault,) = faults_of(proxy.looked())
    assert fault.startswith(
        f"{CERTIFICATES}[0]: {chain}: the private key in {key} does not belong to the certificate"
    )
    assert proxy.default is before
    replace(key, key_of(other))
    assert proxy.looked().faults == ()
    assert proxy.default is not before


def test_a_key_that_is_written_again(issue: Callable[..., Path], tmp_path: Path) -> None:
    pem = issue("source.pem")
    chain, key = replace(tmp_path / "imap.crt", chain_of(pem)), replace(tmp_path / "named.pem", key_of(pem))
    proxy = terminating(chain, key=str(key))
    before = proxy.default
    replace(key, key_of(pem))
    renewed = proxy.looked()
    assert (renewed.applied, renewed.faults) == ((key,), ())
    assert proxy.default is not before


@pytest.mark.parametrize("where", ["beside", "named"])
def test_a_key_that_is_gone_keeps_the_old_certificate_until_it_is_mended(
    issue: Callable[..., Path], tmp_path: Path, where: str
) -> None:
    pem = issue("source.pem")
    chain, key = replace(tmp_path / "imap.crt", chain_of(pem)), replace(tmp_path / "imap.key", key_of(pem))
    proxy = terminating(chain, **({"key": str(key)} if where == "named" else {}))
    before = proxy.default
    key.unlink()
    renewed = proxy.looked()
    fact = f"{chain}: {NO_KEY}" if where == "beside" else f"{key}: No such file or directory"
    assert (renewed.applied, faults_of(renewed)) == ((), [f"{CERTIFICATES}[0]: {fact}"])
    assert proxy.default is before
    again = proxy.look()  # what could not be read is tried again, whether it has changed or not
    assert again is None if where == "beside" else again is not None and again.faults == renewed.faults
    replace(key, key_of(pem))
    renewed = proxy.looked()
    assert (renewed.applied, renewed.faults) == ((key,), ())
    assert proxy.default is not before


# What is no good.

BROKEN = [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_certificate_keeps_the_old_one_and_leaves_the_others_free_to_change(
    folder: Path, issue: Callable[..., Path], content: bytes
) -> None:
    proxy = terminating(folder)
    before = proxy.contexts
    replace(folder / "b.pem", content)
    issue("folder/c.pem", "c.example")
    issue("folder/d.pem", "d.example")
    assert faults_of(proxy.looked()) == [f"{CERTIFICATES}[0]: {folder}/b.pem: has no certificate in PEM form"]
    assert unchanged(before, proxy.contexts) == {"a.pem", "b.pem"}
    assert proxy.served("b.example") == ("b.pem",)
    assert proxy.served("d.example") == ("d.pem",)
    issue("folder/b.pem", "b.example")
    assert proxy.looked().faults == ()
    assert unchanged(before, proxy.contexts) == {"a.pem"}


def test_one_that_is_broken_may_come_to_stand_beside_another(
    folder: Path, throw_away_ca: ThrowAwayCA
) -> None:
    proxy = terminating(folder)
    before = proxy.contexts
    replace(folder / "b.pem", b"")
    throw_away_ca.issue("b.example", key_type="rsa", folder=folder)
    assert faults_of(proxy.looked()) == [f"{CERTIFICATES}[0]: {folder}/b.pem: has no certificate in PEM form"]
    assert unchanged(before, proxy.contexts) == {"a.pem", "c.pem"}
    assert set(proxy.served("b.example")) == {"b.pem", "b.example-rsa.pem"}


def test_a_curve_that_few_know_ends_nothing(folder: Path, issue: Callable[..., Path]) -> None:
    proxy = terminating(folder)
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
    proxy.looked()
    assert proxy.served("z.example") == ("z.pem",)


def test_a_pipe_among_certificates_is_none(folder: Path) -> None:
    os.mkfifo(folder / "pipe.pem")
    assert terminating(folder).served("b.example") == ("b.pem",)


def test_what_could_not_be_read_is_tried_again_though_it_has_not_changed(
    issue: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = issue("one.pem", "one.example")
    proxy = terminating(file)
    before = proxy.default
    replace(file, issue("new.pem", "one.example").read_bytes())

    def out_of_descriptors(*_: object) -> Certificate:
        raise OSError(errno.EMFILE, "Too many open files", str(file))

    with monkeypatch.context() as patch:
        patch.setattr("mailproxy.certificates.loader.read_certificate", out_of_descriptors)
        assert faults_of(proxy.looked()) == [f"{CERTIFICATES}[0]: {file}: Too many open files"]
        assert proxy.default is before
    assert proxy.looked().applied == (file,)
    assert proxy.default is not before


def test_a_file_that_is_named_and_gone_keeps_its_certificate(issue: Callable[..., Path]) -> None:
    one, other = issue("one.pem", "one.example"), issue("other.pem", "other.example")
    proxy = terminating(one, other)
    before = proxy.contexts
    other.unlink()
    assert faults_of(proxy.looked()) == [f"{CERTIFICATES}[1]: {other}: No such file or directory"]
    assert unchanged(before, proxy.contexts) == {"one.pem", "other.pem"}
    assert proxy.served("other.example") == ("other.pem",)


def test_a_new_file_that_is_broken_is_said_and_left_out(folder: Path) -> None:
    proxy = terminating(folder)
    before = proxy.contexts
    replace(folder / "d.pem", b"hello")
    assert faults_of(proxy.looked()) == [f"{CERTIFICATES}[0]: {folder}/d.pem: has no certificate in PEM form"]
    assert unchanged(before, proxy.contexts) == {"a.pem", "b.pem", "c.pem"}


@pytest.mark.parametrize("others", [0, 1])
def test_a_folder_that_is_emptied_keeps_all_that_it_held(
    folder: Path, issue: Callable[..., Path], others: int
) -> None:
    proxy = terminating(*[issue("imap.pem")][:others], folder)
    before = proxy.contexts
    for file in list(folder.iterdir()):
        file.unlink()
    assert faults_of(proxy.looked()) == [
        f"{CERTIFICATES}[{others}]: {folder}: no .pem, .crt or .cer file in this folder"
    ]
    assert unchanged(before, proxy.contexts) >= {"a.pem", "b.pem", "c.pem"}
    assert proxy.served("b.example") == ("b.pem",)
    issue("folder/b.pem", "b.example")
    assert proxy.looked().faults == ()
    assert "b.pem" not in unchanged(before, proxy.contexts)
    assert proxy.served("a.example") == proxy.served(None)  # as nobody has it any more


@pytest.mark.parametrize("others", [0, 1])
def test_a_folder_that_is_away_keeps_all_that_it_held(
    folder: Path, issue: Callable[..., Path], others: int
) -> None:
    proxy = terminating(*[issue("imap.pem")][:others], folder)
    before = proxy.contexts
    away = folder.rename(folder.with_name("away"))
    assert faults_of(proxy.looked()) == [f"{CERTIFICATES}[{others}]: {folder}: No such file or directory"]
    assert unchanged(before, proxy.contexts) >= {"a.pem", "b.pem", "c.pem"}
    assert proxy.served("b.example") == ("b.pem",)
    away.rename(folder)
    assert proxy.looked().faults == ()
    assert proxy.served("b.example") == ("b.pem",)


def test_all_that_is_no_good_is_said_at_once(
    folder: Path, issue: Callable[..., Path], throw_away_ca: ThrowAwayCA, tmp_path: Path
) -> None:
    ca = replace(tmp_path / "ca.pem", throw_away_ca.pem.read_bytes())
    pem, client = issue("imap.pem"), throw_away_ca.issue_client("proxy", folder=tmp_path)
    proxy = running(
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
    renewed = proxy.looked()
    assert renewed.applied == ()
    assert faults_of(renewed) == [
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
) -> Callable[[], tuple[Running, Path, Path]]:
    """A proxy that verifies client certificates, and its CA and revocation list."""

    def run() -> tuple[Running, Path, Path]:
        ca = replace(tmp_path / "ca.pem", throw_away_ca.pem.read_bytes())
        crl = throw_away_ca.revoke(folder=tmp_path)
        return terminating(folder, client_verify="required", client_ca=str(ca), client_crl=str(crl)), ca, crl

    return run


def test_a_revocation_list_that_is_replaced_holds_for_every_certificate(
    verifying: Callable[[], tuple[Running, Path, Path]], throw_away_ca: ThrowAwayCA
) -> None:
    proxy, _, crl = verifying()
    before = proxy.contexts
    replace(crl, throw_away_ca.revoke(throw_away_ca.issue_client("alice")).read_bytes())
    renewed = proxy.looked()
    assert (renewed.applied, renewed.faults) == ((crl,), ())
    assert unchanged(before, proxy.contexts) == set()


def test_a_ca_that_is_replaced_holds_for_every_certificate(
    verifying: Callable[[], tuple[Running, Path, Path]], throw_away_ca: ThrowAwayCA, tmp_path: Path
) -> None:
    proxy, ca, _ = verifying()
    before = proxy.contexts
    (tmp_path / "other").mkdir()
    both = throw_away_ca.pem.read_bytes() + ThrowAwayCA(tmp_path / "other").pem.read_bytes()
    replace(ca, both)
    renewed = proxy.looked()
    assert (renewed.applied, renewed.faults) == ((ca,), ())
    assert unchanged(before, proxy.contexts) == set()
    assert {context.cert_store_stats()["x509_ca"] for context in proxy.contexts.values()} == {2}


@pytest.mark.parametrize("which", ["client_ca", "client_crl"])
@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_ca_or_revocation_list_keeps_everything_until_it_is_mended(
    verifying: Callable[[], tuple[Running, Path, Path]], folder: Path, issue: Callable[..., Path], which: str, content: bytes
) -> None:  # fmt: skip
    proxy, *files = verifying()
    broken = files[which == "client_crl"]
    good, before = broken.read_bytes(), proxy.contexts
    replace(broken, content)
    issue("folder/b.pem", "b.example")
    (fault,) = faults_of(proxy.looked())
    assert fault.startswith(f"frontends.imap.tls.{which}: {broken}: no ")
    assert unchanged(before, proxy.contexts) == {"a.pem", "b.pem", "c.pem"}
    replace(broken, good)
    assert proxy.looked().faults == ()
    assert unchanged(before, proxy.contexts) == set()
    assert proxy.served("b.example") == ("b.pem",)


def damaged(crl: bytes) -> bytes:
    """The list with a version that does not exist, which OpenSSL takes and cryptography does not."""
    der = base64.b64decode(b"".join(line for line in crl.splitlines() if not line.startswith(b"-----")))
    content = base64.encodebytes(der.replace(b"\x02\x01\x01", b"\x02\x01\x05", 1))
    return b"-----BEGIN X509 CRL-----\n" + content + b"-----END X509 CRL-----\n"


def test_a_revocation_list_of_an_unknown_version_is_kept_out(
    verifying: Callable[[], tuple[Running, Path, Path]],
) -> None:
    proxy, _, crl = verifying()
    good, before = crl.read_bytes(), proxy.contexts
    replace(crl, damaged(good))
    (fault,) = faults_of(proxy.looked())
    assert fault == (
        f"frontends.imap.tls.client_crl: {crl}: has a revocation list that cannot be read: 5 is not a valid CRL version"
    )
    assert unchanged(before, proxy.contexts) == {"a.pem", "b.pem", "c.pem"}
    replace(crl, good)
    assert proxy.looked().faults == ()


def test_check_names_a_revocation_list_of_an_unknown_version(
    verifying: Callable[[], tuple[Running, Path, Path]], tmp_path: Path
) -> None:
    """Exit code 2 and the fault, no traceback."""
    proxy, ca, crl = verifying()
    replace(crl, damaged(crl.read_bytes()))
    (certificates,) = proxy.config.frontends["imap"].bind[0].tls.certificates  # type: ignore[union-attr]
    file = tmp_path / "mailproxy.toml"
    file.write_text(
        '[frontends.imap]\nbind = [{ address = "127.0.0.1:0", mode = "tls" }]\n[frontends.imap.tls]\n'
        f'certificates = ["{certificates}"]\nclient_verify = "required"\n'
        f'client_ca = "{ca}"\nclient_crl = "{crl}"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "mailproxy", "check", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"{crl}: has a revocation list that cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_revocation_list_that_is_gone_does_not_let_the_revoked_in(
    verifying: Callable[[], tuple[Running, Path, Path]],
) -> None:
    proxy, _, crl = verifying()
    before = proxy.contexts
    crl.unlink()
    assert faults_of(proxy.looked()) == [f"frontends.imap.tls.client_crl: {crl}: No such file or directory"]
    assert unchanged(before, proxy.contexts) == {"a.pem", "b.pem", "c.pem"}
    assert proxy.default.cert_store_stats()["crl"] == 1


# Towards servers.


def test_a_new_revocation_list_holds_though_a_key_cannot_be_read_any_more(
    folder: Path, verifying: Callable[[], tuple[Running, Path, Path]], throw_away_ca: ThrowAwayCA
) -> None:
    proxy, _, crl = verifying()
    before = proxy.contexts
    replace(folder / "b.pem", b"")
    replace(crl, throw_away_ca.revoke(throw_away_ca.issue_client("alice")).read_bytes())
    renewed = proxy.looked()
    assert crl in renewed.applied
    assert faults_of(renewed) == [f"{CERTIFICATES}[0]: {folder}/b.pem: has no certificate in PEM form"]
    assert unchanged(before, proxy.contexts) == set()
    assert proxy.served("b.example") == ("b.pem",)


def test_a_revocation_list_in_odd_company_is_read(
    verifying: Callable[[], tuple[Running, Path, Path]], throw_away_ca: ThrowAwayCA
) -> None:
    proxy, _, crl = verifying()
    replace(crl, b"before -----END X509 CRL-----\n" + throw_away_ca.revoke().read_bytes())
    assert proxy.looked().faults == ()


def server_context(renewed: ReloadResult) -> object:
    (context,) = renewed.server_contexts.values()
    return context


def test_a_ca_of_servers_that_is_replaced(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    ca = replace(tmp_path / "ca.pem", throw_away_ca.pem.read_bytes())
    proxy = connecting(ca=str(ca))
    (before,) = proxy.material.server_contexts.values()
    (tmp_path / "other").mkdir()
    replace(ca, ca.read_bytes() + ThrowAwayCA(tmp_path / "other").pem.read_bytes())
    renewed = proxy.looked()
    assert (renewed.applied, renewed.faults) == ((ca,), ())
    context = server_context(renewed)
    assert isinstance(context, ssl.SSLContext)
    assert context is not before
    assert context.cert_store_stats()["x509_ca"] == 2


def test_a_certificate_for_servers_that_is_replaced(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    pem = throw_away_ca.issue_client("proxy", folder=tmp_path)
    proxy = connecting(ca=str(throw_away_ca.pem), certificate=str(pem))
    (before,) = proxy.material.server_contexts.values()
    replace(pem, throw_away_ca.issue_client("proxy").read_bytes())
    renewed = proxy.looked()
    assert (renewed.applied, renewed.faults) == ((pem,), ())
    assert server_context(renewed) is not before


@pytest.mark.parametrize("which", ["ca", "certificate", "key"])
def test_what_is_no_good_towards_servers_keeps_the_old_context_until_it_is_mended(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, which: str
) -> None:
    pem = throw_away_ca.issue_client("proxy", folder=tmp_path)
    files = {
        "ca": replace(tmp_path / "ca.pem", throw_away_ca.pem.read_bytes()),
        "certificate": replace(tmp_path / "chain.pem", chain_of(pem)),
        "key": replace(tmp_path / "secret.pem", key_of(pem)),
    }
    proxy = connecting(**{key: str(file) for key, file in files.items()})
    (before,) = proxy.material.server_contexts.values()
    good = files[which].read_bytes()
    replace(files[which], b"hello")
    renewed = proxy.looked()
    (fault,) = renewed.faults
    assert fault.path == f"backends.dovecot.tls.{which if which == 'ca' else 'certificate'}"
    assert str(files[which]) in fault.fact
    assert server_context(renewed) is before
    assert proxy.look() is None
    replace(files[which], good)
    renewed = proxy.looked()
    assert renewed.faults == ()
    assert server_context(renewed) is not before


# Expiry.


def about(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


@pytest.mark.parametrize(("days", "is_said"), [(-1, True), (0.5, True), (13.9, True), (14.1, False)])
def test_what_expires_within_fourteen_days_is_said(
    issue: Callable[..., Path], days: float, is_said: bool
) -> None:
    pem = issue("imap.pem", not_before=about(-30), not_after=about(days))
    issue("folder/fresh.pem", "fresh.example")
    said = [str(fault) for fault in terminating(pem, pem.parent / "folder").renewal.expiring()]
    end = f"{about(days):%Y-%m-%d}"
    left = f"{int(days)} days, on {end}" if days > 2 else f"11 hours, on {about(days):%Y-%m-%d %H:%M} UTC"
    fact = (
        f"is not in date: from {about(-30):%Y-%m-%d} to {end}" if days < 0 else f"expires in {left}: renew it"
    )
    assert said == ([f"{CERTIFICATES}[0]: {pem}: {fact}"] if is_said else [])


@pytest.mark.parametrize(
    ("hours", "left"), [(1.51, "90 minutes"), (0.26, "15 minutes"), (30.1, "30 hours"), (49, "2 days")]
)
def test_what_expires_soon_is_said_in_hours(issue: Callable[..., Path], hours: float, left: str) -> None:
    (said,) = terminating(issue("imap.pem", not_after=about(hours / 24))).renewal.expiring()
    assert f": expires in {left}, on " in str(said)


@pytest.mark.parametrize(("days", "is_said"), [(2.1, False), (1.9, True)])
def test_a_certificate_that_lives_for_a_week_is_not_always_about_to_expire(
    issue: Callable[..., Path], days: float, is_said: bool
) -> None:
    pem = issue("imap.pem", not_before=about(days - 6), not_after=about(days))
    assert bool(terminating(pem).renewal.expiring()) == is_said


def test_what_is_taken_up_is_said_with_names_and_end(issue: Callable[..., Path]) -> None:
    pem = issue("imap.pem")
    proxy = terminating(pem)
    issue("imap.pem", "pop.example.com", not_after=about(60))
    renewed = proxy.looked()
    assert renewed.descriptions == (f"pop.example.com until {about(60):%Y-%m-%d} ({pem})",)
    assert renewed.expiring == ()


def test_a_renewed_certificate_that_ends_soon_is_said_at_once(
    issue: Callable[..., Path], folder: Path
) -> None:
    issue("folder/a.pem", "a.example", not_after=about(3.5))
    proxy = terminating(folder)
    issue("folder/b.pem", "b.example", not_after=about(10.5))
    (fault,) = proxy.looked().expiring  # not that of a.pem, which is said daily
    assert fault.fact.startswith(f"{folder / 'b.pem'}: expires in 10 days")


def test_a_broken_file_in_a_folder_is_not_said_to_be_taken_up(folder: Path) -> None:
    proxy = terminating(folder)
    replace(folder / "d.pem", b"hello")
    renewed = proxy.looked()
    assert len(renewed.faults) == 1
    assert (renewed.applied, renewed.descriptions) == ((), ())


def test_files_that_are_gone_from_a_folder_are_not_said_to_be_taken_up(folder: Path) -> None:
    proxy = terminating(folder)
    for file in list(folder.iterdir()):
        file.unlink()
    renewed = proxy.looked()
    assert len(renewed.faults) == 1
    assert (renewed.applied, renewed.descriptions) == ((), ())


def test_a_certificate_of_the_future_is_said(issue: Callable[..., Path]) -> None:
    pem = issue("imap.pem", not_before=about(1), not_after=about(90))
    (said,) = terminating(pem).renewal.expiring()
    assert (
        str(said)
        == f"{CERTIFICATES}[0]: {pem}: is not in date: from {about(1):%Y-%m-%d} to {about(90):%Y-%m-%d}"
    )


def test_a_certificate_for_servers_expires_too(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    pem = throw_away_ca.issue_client("proxy", folder=tmp_path, not_after=about(3.5))
    (said,) = connecting(certificate=str(pem)).renewal.expiring()
    assert (
        str(said)
        == f"backends.dovecot.tls.certificate: {pem}: expires in 3 days, on {about(3.5):%Y-%m-%d}: renew it"
    )


def test_one_that_was_renewed_does_not_expire_any_more(issue: Callable[..., Path]) -> None:
    proxy = terminating(issue("imap.pem", not_after=about(1)))
    assert len(proxy.renewal.expiring()) == 1
    issue("imap.pem")
    proxy.looked()
    assert proxy.renewal.expiring() == []


def test_one_that_could_not_be_renewed_expires_still(issue: Callable[..., Path]) -> None:
    pem = issue("imap.pem", not_after=about(1))
    proxy = terminating(pem)
    before = proxy.renewal.expiring()
    replace(pem, b"")
    proxy.looked()
    assert proxy.renewal.expiring() == before


def test_what_cannot_be_taken_up_is_found_again(
    issue: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of descriptors, for one: nobody fails for that, and what is known stays."""
    pem = issue("imap.pem")
    proxy = terminating(pem)
    looks = CertificateReloader(proxy.config, proxy.material, stage=True)
    terminator = proxy.material.bind_terminators["imap", 0]
    issue("imap.pem")
    renewed, before = looks.scan(), terminator._state
    assert renewed is not None

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr("mailproxy.net.tls.terminator.load_chain", fail)
        taken = looks.apply_staged(renewed)
        assert taken.applied == ()
        assert faults_of(taken) == ["frontends.imap.tls: Too many open files"]
        tried = looks.scan()
        assert tried is not None
        assert (tried.applied, tried.staged) == ((), ())
        assert terminator._state is before
    renewed = looks.scan()
    assert renewed is not None
    taken = looks.apply_staged(renewed)
    assert (taken.applied, taken.faults) == ((pem,), ())
    assert terminator._state is not before
    assert looks.scan() is None


def out_of_descriptors(*_: object) -> Any:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_server_context_that_fails_for_want_of_descriptors_is_retried(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = tmp_path / "own-ca.pem"
    ca.write_bytes(throw_away_ca.pem.read_bytes())
    proxy = connecting(ca=str(ca))
    before = dict(proxy.material.server_contexts)
    replace(ca, throw_away_ca.pem.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr("mailproxy.certificates.loader.make_client_context", out_of_descriptors)
        failed = proxy.looked()
        assert (failed.applied, faults_of(failed)) == ((), ["backends.dovecot.tls: Too many open files"])
        assert failed.server_contexts == before
    retried = proxy.looked()
    assert (retried.applied, retried.faults) == ((ca,), ())
    assert not set(retried.server_contexts.values()) & set(before.values())
    assert proxy.look() is None


def test_bind_that_fails_does_not_hide_the_reload_of_another_bind(
    issue: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = issue("one.pem"), issue("other.pem")
    binds = [
        {"address": "127.0.0.1:0", "mode": "tls", "tls": {"certificates": [str(file)]}}
        for file in (one, other)
    ]
    proxy = running(startup_config(frontends__imap__bind=binds))
    issue("one.pem")
    issue("other.pem")
    reload = Terminator.reload

    def fail_for_other(self: Terminator, certificates: Sequence[Certificate]) -> None:
        if certificates[0].path == other:
            out_of_descriptors()
        reload(self, certificates)

    with monkeypatch.context() as patch:
        patch.setattr(Terminator, "reload", fail_for_other)
        failed = proxy.looked()
        assert faults_of(failed) == ["frontends.imap.bind[1].tls: Too many open files"]
        assert failed.applied == (one,)
    assert proxy.looked().applied == (other,)


def test_key_and_authorities_of_a_bind_that_fails_are_not_applied(
    issue: Callable[..., Path], throw_away_ca: ThrowAwayCA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem, ca = issue("imap.pem"), tmp_path / "own-ca.pem"
    key = pem.with_suffix(".key")
    key.write_bytes(key_of(pem))
    replace(pem, chain_of(pem))
    ca.write_bytes(throw_away_ca.pem.read_bytes())
    proxy = terminating(pem, client_verify="optional", client_ca=str(ca))
    new = issue("new.pem")
    replace(key, key_of(new))
    replace(pem, chain_of(new))
    replace(ca, throw_away_ca.pem.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(Terminator, "reload", out_of_descriptors)
        assert proxy.looked().applied == ()
    assert set(proxy.looked().applied) == {pem, key, ca}
