"""Certificates as the usual tools leave them: a folder is taken as what it is, a renewal is noticed, the right key is used."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from mailproxy.app import load_and_check
from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.certificates.store import CertificateStore
from mailproxy.errors import ConfigError
from mailproxy.testing import ThrowAwayCA
from tests.certificates.test_store import (
    CERTIFICATE,
    as_nobody,
    chain_of,
    faults_of,
    key_of,
    terminating,
    write,
)
from tests.support.certificate_trees import (
    NAME,
    TREES,
    AcmeSh,
    Certbot,
    CertificateTree,
    CertManager,
    Dehydrated,
    Lego,
)
from tests.support.startup_config import startup_config

CHAIN = 2  # certificates: the leaf's, and that of the CA that issued it


def served(material: CertificateStore) -> dict[Path, tuple[int, Path | None]]:
    """For each file that is served: how long its chain is, and where its key was found."""
    return {
        each.path: (each.chain_pem.count(b"BEGIN CERTIFICATE"), each.key)
        for _, each in material.certificates.values()
    }


@pytest.fixture(params=TREES, ids=lambda tool: tool.__name__)
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> CertificateTree:
    tool: Callable[[Path], CertificateTree] = request.param
    return tool(tmp_path / "tree")


def test_the_folder_of_a_certificate_is_its_whole_chain_with_its_key(tree: CertificateTree) -> None:
    ((file, (length, key)),) = served(load_and_check(terminating(tree.folder))).items()
    assert file == tree.certificate
    assert length == CHAIN
    assert key is not None
    assert key.read_bytes().startswith(b"-----BEGIN")


@pytest.mark.parametrize(("tool", "place"), [(Certbot, "live"), (Dehydrated, ""), (AcmeSh, ""), (Lego, "")])
def test_the_folder_of_all_certificates(tool: type[CertificateTree], place: str, tmp_path: Path) -> None:
    tree = tool(tmp_path / "tree")
    tree.issue("pop.example.com")
    material = load_and_check(terminating(tmp_path / "tree" / place))
    assert [each.names for _, each in material.certificates.values()] == [(NAME,), ("pop.example.com",)]
    assert {length for length, _ in served(material).values()} == {CHAIN}


def test_several_secrets_of_cert_manager_below_one_folder(tmp_path: Path) -> None:
    for secret in ("a", "b"):
        CertManager(tmp_path / "certs" / secret)
    files = served(load_and_check(terminating(tmp_path / "certs")))
    assert set(files) == {tmp_path / "certs" / secret / "tls.crt" for secret in ("a", "b")}


def test_the_file_alone_finds_its_key(tree: CertificateTree) -> None:
    ((_, (length, key)),) = served(load_and_check(terminating(tree.certificate))).items()
    assert (length, key is None) == (CHAIN, False)


def test_a_renewal_is_noticed_and_taken_up(tree: CertificateTree) -> None:
    config = terminating(tree.folder)
    material = load_and_check(config)
    renewal = CertificateReloader(config, material)
    assert renewal.scan() is None
    for _ in range(2):
        before = _default(material)
        tree.issue()
        renewed = renewal.scan()
        assert renewed is not None
        assert renewed.faults == ()
        assert _default(material) is not before
        assert renewal.scan() is None


def _default(material: CertificateStore) -> ssl.SSLContext:
    offer = material.bind_terminators["imap", 0].select(NAME)
    assert offer is not None
    return offer.context


def test_a_new_name_below_the_folder_of_all_is_noticed(tmp_path: Path) -> None:
    tree = Certbot(tmp_path)
    config = terminating(tmp_path / "live")
    material = load_and_check(config)
    renewal = CertificateReloader(config, material)
    before = _default(material)
    tree.issue("pop.example.com")
    renewed = renewal.scan()
    assert renewed is not None
    assert renewed.faults == ()
    offer = material.bind_terminators["imap", 0].select("pop.example.com")
    assert offer is not None
    assert offer.context is not before


def test_tools_and_files_of_ones_own_side_by_side(pem: Path, tmp_path: Path) -> None:
    """The files of the folder itself come first, so that the default does not depend on the tools."""
    certs = tmp_path / "certs"
    Certbot(certs)  # live/ is no certificate's folder
    Lego(certs)
    CertManager(certs / "secret")
    (certs / "private").mkdir(mode=0)
    own = write(certs / "zzz.pem", pem.read_bytes())
    material = load_and_check(terminating(certs))
    assert [each.path for _, each in material.certificates.values()] == [
        certs / f"{NAME}.crt",
        own,
        certs / "secret" / "tls.crt",
    ]


def test_certificate_and_key_named_as_a_pair(tree: CertificateTree, pem: Path, tmp_path: Path) -> None:
    chain, key = tmp_path / "some.chain", tmp_path / "some.secret"
    write(chain, chain_of(pem))
    write(key, key_of(pem))
    config = startup_config(
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        frontends__imap__tls={
            "certificates": [str(tree.folder), {"certificate": str(chain), "key": str(key)}, str(pem)]
        },
    )
    files = served(load_and_check(config))
    assert files[chain] == (1, key)
    assert files[pem] == (1, None)
    key.unlink()
    assert faults_of(config) == [f"frontends.imap.tls.certificates[1]: {key}: No such file or directory"]


def test_a_key_for_a_folder_is_a_fault(tmp_path: Path, pem: Path) -> None:
    folder = tmp_path / "certs"
    folder.mkdir()
    write(folder / "a.pem", pem.read_bytes())
    fact = f"{folder}: is a folder, and {pem} is the key of one certificate: name its file"
    assert faults_of(terminating(folder, key=str(pem))) == [f"{CERTIFICATE}: {fact}"]


# The key in the certificate's own file counts.


@pytest.mark.parametrize("beside", ["older", "encrypted", "broken", "unreadable", "folder"])
@pytest.mark.parametrize("name", ["site.key", "site.pem.key"])
def test_a_key_beside_a_file_that_has_its_own_does_no_harm(
    throw_away_ca: ThrowAwayCA, pem: Path, open_folder: Path, beside: str, name: str
) -> None:
    site, key = write(open_folder / "site.pem", pem.read_bytes()), open_folder / name
    site.chmod(0o644)
    if beside == "folder":
        key.mkdir()
    else:
        contents = {
            "older": key_of(throw_away_ca.issue("other.example")),
            "encrypted": b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        }
        write(key, contents.get(beside, b"hello"))
    key.chmod(0 if beside == "unreadable" else 0o644)
    for place in (site, open_folder):
        with as_nobody():
            assert served(load_and_check(terminating(place))) == {site: (1, None)}


def test_a_renewal_of_the_file_alone_is_taken_up_with_an_old_key_beside(
    throw_away_ca: ThrowAwayCA, pem: Path, tmp_path: Path
) -> None:
    site = write(tmp_path / "site.pem", pem.read_bytes())
    write(tmp_path / "site.key", key_of(pem))
    config = terminating(site)
    material = load_and_check(config)
    before = _default(material)
    renewal = CertificateReloader(config, material)
    throw_away_ca.issue(NAME, folder=tmp_path).rename(site)
    renewed = renewal.scan()
    assert renewed is not None
    assert renewed.faults == ()
    assert _default(material) is not before


def test_a_key_that_moves_into_the_file(pem: Path, tmp_path: Path) -> None:
    site, key = write(tmp_path / "site.pem", chain_of(pem)), write(tmp_path / "site.pem.key", key_of(pem))
    config = terminating(site)
    material = load_and_check(config)
    renewal = CertificateReloader(config, material)
    assert served(material) == {site: (1, key)}
    write(site, pem.read_bytes())
    key.unlink()
    renewed = renewal.scan()
    assert renewed is not None
    assert renewed.faults == ()


# What is left out, and what is not.


def test_a_ca_without_key_is_left_out(pem: Path, throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    certs.mkdir()
    write(certs / "imap.pem", pem.read_bytes())
    write(certs / "some-root.pem", throw_away_ca.pem.read_bytes())
    assert set(served(load_and_check(terminating(certs)))) == {certs / "imap.pem"}


def test_a_ca_that_is_named_itself_is_a_fault(throw_away_ca: ThrowAwayCA) -> None:
    (fault,) = faults_of(terminating(throw_away_ca.pem))
    assert "has no private key" in fault


def test_a_folder_of_cas_alone_is_a_fault(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    certs.mkdir()
    write(certs / "ca.crt", throw_away_ca.pem.read_bytes())
    assert faults_of(terminating(certs)) == [
        f"{CERTIFICATE}: {certs}: no certificate with its private key in this folder"
    ]


def test_a_certificate_that_another_file_has_with_its_chain_is_left_out(tmp_path: Path) -> None:
    certificate = trustme.CA().create_child_ca().issue_cert(NAME)
    whole = write(
        tmp_path / "whole.pem",
        certificate.private_key_pem.bytes(),
        *(each.bytes() for each in certificate.cert_chain_pems),
    )
    write(tmp_path / "alone.crt", certificate.cert_chain_pems[0].bytes())
    assert served(load_and_check(terminating(tmp_path))) == {whole: (CHAIN, None)}


def test_a_certificate_without_key_in_a_folder_is_a_fault(
    throw_away_ca: ThrowAwayCA, pem: Path, tmp_path: Path
) -> None:
    certs = tmp_path / "certs"
    certs.mkdir()
    write(certs / "imap.pem", pem.read_bytes())
    for name in ("lost.pem", "lost-too.pem"):
        write(certs / name, chain_of(throw_away_ca.issue("lost.example")))
    assert [fault.partition(": has no private key")[0] for fault in faults_of(terminating(certs))] == [
        f"{CERTIFICATE}: {certs}/lost-too.pem",
        f"{CERTIFICATE}: {certs}/lost.pem",
    ]


def test_two_copies_of_a_certificate_without_any_key_are_faults(pem: Path, tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    certs.mkdir()
    for name in ("a.pem", "b.pem"):
        write(certs / name, chain_of(pem))
    assert len(faults_of(terminating(certs))) == 2


def test_a_key_that_no_certificate_uses_is_a_fault(pem: Path, tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    certs.mkdir()
    write(certs / "imap.pem", pem.read_bytes())
    alone = write(certs / "privkey.pem", key_of(pem))
    assert faults_of(terminating(certs)) == [f"{CERTIFICATE}: {alone}: has no certificate in PEM form"]


def test_what_cannot_be_entered_any_more_keeps_its_certificates(open_folder: Path) -> None:
    """As after a change of user, with a folder that only root may enter."""
    certs = open_folder / "live"
    tree = CertManager(certs / "secret")
    config = terminating(certs)
    material = load_and_check(config)
    renewal = CertificateReloader(config, material)
    before = _default(material)
    tree.root.chmod(0)
    certs.chmod(0o755)
    try:
        with as_nobody():
            renewed = renewal.scan()
    finally:
        tree.root.chmod(0o755)
    assert renewed is not None
    assert [fault.fact for fault in renewed.faults] == [f"{tree.certificate}: Permission denied"]
    assert _default(material) is before


def test_a_key_of_the_wrong_certificate_is_named(tmp_path: Path, throw_away_ca: ThrowAwayCA) -> None:
    tree = Certbot(tmp_path)
    other = write(tree.folder / "fullchain.key", key_of(throw_away_ca.issue("other.example")))
    with pytest.raises(ConfigError) as caught:
        load_and_check(terminating(tree.folder))
    assert f"the private key in {other} does not belong to the certificate" in str(caught.value)
