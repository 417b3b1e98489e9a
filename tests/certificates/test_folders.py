"""Certificate folders as the usual tools write them: discovery, renewal, and which private key is used."""

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
    bind_config,
    chain_bytes,
    faults_in,
    key_bytes,
    unprivileged,
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

CHAIN_LENGTH = 2  # certificates: the leaf's, and that of the CA that issued it


def served_files(store: CertificateStore) -> dict[Path, tuple[int, Path | None]]:
    """Map each served file to the length of its chain and the path of its key."""
    return {
        certificate.path: (certificate.chain_pem.count(b"BEGIN CERTIFICATE"), certificate.key)
        for _, certificate in store.certificates.values()
    }


@pytest.fixture(params=TREES, ids=lambda tool: tool.__name__)
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> CertificateTree:
    tool: Callable[[Path], CertificateTree] = request.param
    return tool(tmp_path / "tree")


def test_certificate_folder_is_served_with_chain_and_key(tree: CertificateTree) -> None:
    ((file, (length, key)),) = served_files(load_and_check(bind_config(tree.folder))).items()
    assert file == tree.certificate
    assert length == CHAIN_LENGTH
    assert key is not None
    assert key.read_bytes().startswith(b"-----BEGIN")


@pytest.mark.parametrize(
    ("tool", "folder_or_file"), [(Certbot, "live"), (Dehydrated, ""), (AcmeSh, ""), (Lego, "")]
)
def test_folder_of_all_certificates_serves_every_name(
    tool: type[CertificateTree], folder_or_file: str, tmp_path: Path
) -> None:
    tree = tool(tmp_path / "tree")
    tree.issue("pop.example.com")
    store = load_and_check(bind_config(tmp_path / "tree" / folder_or_file))
    assert [certificate.names for _, certificate in store.certificates.values()] == [
        (NAME,),
        ("pop.example.com",),
    ]
    assert {length for length, _ in served_files(store).values()} == {CHAIN_LENGTH}


def test_cert_manager_secrets_below_one_folder(tmp_path: Path) -> None:
    for secret in ("a", "b"):
        CertManager(tmp_path / "certs" / secret)
    files = served_files(load_and_check(bind_config(tmp_path / "certs")))
    assert set(files) == {tmp_path / "certs" / secret / "tls.crt" for secret in ("a", "b")}


def test_certificate_file_finds_its_key(tree: CertificateTree) -> None:
    ((_, (length, key)),) = served_files(load_and_check(bind_config(tree.certificate))).items()
    assert (length, key is None) == (CHAIN_LENGTH, False)


def test_renewal_is_applied(tree: CertificateTree) -> None:
    config = bind_config(tree.folder)
    store = load_and_check(config)
    reloader = CertificateReloader(config, store)
    assert reloader.scan() is None
    for _ in range(2):
        before = _default_context(store)
        tree.issue()
        result = reloader.scan()
        assert result is not None
        assert result.faults == ()
        assert _default_context(store) is not before
        assert reloader.scan() is None


def _default_context(store: CertificateStore) -> ssl.SSLContext:
    offer = store.bind_terminators["imap", 0].select(NAME)
    assert offer is not None
    return offer.context


def test_new_name_below_the_folder_is_applied(tmp_path: Path) -> None:
    tree = Certbot(tmp_path)
    config = bind_config(tmp_path / "live")
    store = load_and_check(config)
    reloader = CertificateReloader(config, store)
    before = _default_context(store)
    tree.issue("pop.example.com")
    result = reloader.scan()
    assert result is not None
    assert result.faults == ()
    offer = store.bind_terminators["imap", 0].select("pop.example.com")
    assert offer is not None
    assert offer.context is not before


def test_tool_folders_and_own_files_are_combined(pem: Path, tmp_path: Path) -> None:
    """The files of the folder itself come first, so that the default does not depend on the tools."""
    certs = tmp_path / "certs"
    Certbot(certs)  # live/ is not the folder of one certificate
    Lego(certs)
    CertManager(certs / "secret")
    (certs / "private").mkdir(mode=0)
    own = write(certs / "zzz.pem", pem.read_bytes())
    store = load_and_check(bind_config(certs))
    assert [certificate.path for _, certificate in store.certificates.values()] == [
        certs / f"{NAME}.crt",
        own,
        certs / "secret" / "tls.crt",
    ]


def test_certificate_and_key_as_a_pair(tree: CertificateTree, pem: Path, tmp_path: Path) -> None:
    chain, key = tmp_path / "some.chain", tmp_path / "some.secret"
    write(chain, chain_bytes(pem))
    write(key, key_bytes(pem))
    config = startup_config(
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        frontends__imap__tls={
            "certificates": [str(tree.folder), {"certificate": str(chain), "key": str(key)}, str(pem)]
        },
    )
    files = served_files(load_and_check(config))
    assert files[chain] == (1, key)
    assert files[pem] == (1, None)
    key.unlink()
    assert faults_in(config) == [f"frontends.imap.tls.certificates[1]: {key}: No such file or directory"]


def test_key_for_a_folder_is_a_fault(tmp_path: Path, pem: Path) -> None:
    folder = tmp_path / "certs"
    folder.mkdir()
    write(folder / "a.pem", pem.read_bytes())
    fact = f"{folder}: is a folder, and {pem} is the key of one certificate: name its file"
    assert faults_in(bind_config(folder, key=str(pem))) == [f"{CERTIFICATE}: {fact}"]


# A key in the certificate's own file takes precedence.


@pytest.mark.parametrize("key_state", ["older", "encrypted", "broken", "unreadable", "folder"])
@pytest.mark.parametrize("name", ["site.key", "site.pem.key"])
def test_key_file_is_ignored_if_certificate_has_key(
    throw_away_ca: ThrowAwayCA, pem: Path, open_folder: Path, key_state: str, name: str
) -> None:
    site, key = write(open_folder / "site.pem", pem.read_bytes()), open_folder / name
    site.chmod(0o644)
    if key_state == "folder":
        key.mkdir()
    else:
        contents = {
            "older": key_bytes(throw_away_ca.issue("other.example")),
            "encrypted": b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        }
        write(key, contents.get(key_state, b"hello"))
    key.chmod(0 if key_state == "unreadable" else 0o644)
    for folder_or_file in (site, open_folder):
        with unprivileged():
            assert served_files(load_and_check(bind_config(folder_or_file))) == {site: (1, None)}


def test_renewed_file_is_applied_despite_old_key_file(
    throw_away_ca: ThrowAwayCA, pem: Path, tmp_path: Path
) -> None:
    site = write(tmp_path / "site.pem", pem.read_bytes())
    write(tmp_path / "site.key", key_bytes(pem))
    config = bind_config(site)
    store = load_and_check(config)
    before = _default_context(store)
    reloader = CertificateReloader(config, store)
    throw_away_ca.issue(NAME, folder=tmp_path).rename(site)
    result = reloader.scan()
    assert result is not None
    assert result.faults == ()
    assert _default_context(store) is not before


def test_key_moved_into_the_certificate_file(pem: Path, tmp_path: Path) -> None:
    site, key = (
        write(tmp_path / "site.pem", chain_bytes(pem)),
        write(tmp_path / "site.pem.key", key_bytes(pem)),
    )
    config = bind_config(site)
    store = load_and_check(config)
    reloader = CertificateReloader(config, store)
    assert served_files(store) == {site: (1, key)}
    write(site, pem.read_bytes())
    key.unlink()
    result = reloader.scan()
    assert result is not None
    assert result.faults == ()


# Files that are left out, and files that are faults.


def test_ca_without_key_is_left_out(pem: Path, throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    certs.mkdir()
    write(certs / "imap.pem", pem.read_bytes())
    write(certs / "some-root.pem", throw_away_ca.pem.read_bytes())
    assert set(served_files(load_and_check(bind_config(certs)))) == {certs / "imap.pem"}


def test_configured_ca_without_key_is_a_fault(throw_away_ca: ThrowAwayCA) -> None:
    (fault,) = faults_in(bind_config(throw_away_ca.pem))
    assert "has no private key" in fault


def test_folder_with_only_cas_is_a_fault(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    certs.mkdir()
    write(certs / "ca.crt", throw_away_ca.pem.read_bytes())
    assert faults_in(bind_config(certs)) == [
        f"{CERTIFICATE}: {certs}: no certificate with its private key in this folder"
    ]


def test_duplicate_without_chain_is_left_out(tmp_path: Path) -> None:
    certificate = trustme.CA().create_child_ca().issue_cert(NAME)
    complete = write(
        tmp_path / "whole.pem",
        certificate.private_key_pem.bytes(),
        *(certificate.bytes() for certificate in certificate.cert_chain_pems),
    )
    write(tmp_path / "alone.crt", certificate.cert_chain_pems[0].bytes())
    assert served_files(load_and_check(bind_config(tmp_path))) == {complete: (CHAIN_LENGTH, None)}


def test_certificates_without_key_are_faults(throw_away_ca: ThrowAwayCA, pem: Path, tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    certs.mkdir()
    write(certs / "imap.pem", pem.read_bytes())
    for name in ("lost.pem", "lost-too.pem"):
        write(certs / name, chain_bytes(throw_away_ca.issue("lost.example")))
    assert [fault.partition(": has no private key")[0] for fault in faults_in(bind_config(certs))] == [
        f"{CERTIFICATE}: {certs}/lost-too.pem",
        f"{CERTIFICATE}: {certs}/lost.pem",
    ]


def test_copies_of_certificate_without_key_are_faults(pem: Path, tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    certs.mkdir()
    for name in ("a.pem", "b.pem"):
        write(certs / name, chain_bytes(pem))
    assert len(faults_in(bind_config(certs))) == 2


def test_unused_key_is_a_fault(pem: Path, tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    certs.mkdir()
    write(certs / "imap.pem", pem.read_bytes())
    alone = write(certs / "privkey.pem", key_bytes(pem))
    assert faults_in(bind_config(certs)) == [f"{CERTIFICATE}: {alone}: has no certificate in PEM form"]


def test_unreadable_folder_keeps_its_certificates(open_folder: Path) -> None:
    """This happens after a change of user, with a folder that only root may enter."""
    certs = open_folder / "live"
    tree = CertManager(certs / "secret")
    config = bind_config(certs)
    store = load_and_check(config)
    reloader = CertificateReloader(config, store)
    before = _default_context(store)
    tree.root.chmod(0)
    certs.chmod(0o755)
    try:
        with unprivileged():
            result = reloader.scan()
    finally:
        tree.root.chmod(0o755)
    assert result is not None
    assert [fault.fact for fault in result.faults] == [f"{tree.certificate}: Permission denied"]
    assert _default_context(store) is before


def test_key_of_another_certificate_is_named(tmp_path: Path, throw_away_ca: ThrowAwayCA) -> None:
    tree = Certbot(tmp_path)
    other = write(tree.folder / "fullchain.key", key_bytes(throw_away_ca.issue("other.example")))
    with pytest.raises(ConfigError) as caught:
        load_and_check(bind_config(tree.folder))
    assert f"the private key in {other} does not belong to the certificate" in str(caught.value)
