"""Files that a configuration names: each that is no good is said with its key and its path, all at once."""

from __future__ import annotations

import os
import re
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

import mailproxy
from mailproxy.app import CertificateStore, load_and_check
from mailproxy.cli import main
from mailproxy.errors import ConfigError
from mailproxy.testing import ThrowAwayCA
from tests.support.program import Program
from tests.support.startup_config import startup_config

ROOT = os.geteuid() == 0
NOBODY = 65534
CERTIFICATE = "frontends.imap.tls.certificates[0]"


def terminating(*certificates: Path, **tls: Any) -> mailproxy.Config:
    return startup_config(
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        frontends__imap__tls={"certificates": [str(file) for file in certificates], **tls},
    )


def connecting(**tls: Any) -> mailproxy.Config:
    return startup_config(backends__dovecot__tls=tls)


def faults_of(config: mailproxy.Config) -> list[str]:
    try:
        load_and_check(config)
    except ConfigError as error:
        return str(error).splitlines()
    return []


def key_of(pem: Path) -> bytes:
    return pem.read_bytes().partition(b"-----BEGIN CERTIFICATE")[0]


def chain_of(pem: Path) -> bytes:
    return pem.read_bytes().removeprefix(key_of(pem))


def write(file: Path, *parts: bytes) -> Path:
    file.write_bytes(b"".join(parts))
    return file


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything; for this block nobody in particular does the reading."""
    if not ROOT:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, 0)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


# What is fine.


def test_a_file_with_chain_and_key(pem: Path) -> None:
    material = load_and_check(terminating(pem))
    assert material.bind_terminators["imap", 0].select(None) is not None
    assert str(material.certificates[pem, None][0]) == CERTIFICATE
    assert material.certificates[pem, None][1].names == ("imap.example.com",)


def test_a_key_that_is_named(pem: Path, tmp_path: Path) -> None:
    chain, key = write(tmp_path / "chain.crt", chain_of(pem)), write(tmp_path / "secret.pem", key_of(pem))
    assert faults_of(terminating(chain, key=str(key))) == []


def test_a_key_beside_its_certificate(pem: Path, tmp_path: Path) -> None:
    write(tmp_path / "pair.key", key_of(pem))
    assert faults_of(terminating(write(tmp_path / "pair.crt", chain_of(pem)))) == []


def test_a_folder_of_both(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    first = throw_away_ca.issue("a.example", folder=tmp_path)
    second = throw_away_ca.issue("b.example", key_type="rsa", folder=tmp_path)
    write(tmp_path / "c.key", key_of(second))
    third = write(tmp_path / "c.crt", chain_of(second))
    certificates = load_and_check(terminating(tmp_path)).certificates
    assert set(certificates) == {(first, None), (second, None), (third, None)}


def test_binds_that_want_the_same_share_it(pem: Path) -> None:
    binds = [{"address": "127.0.0.1:0", "mode": "tls", "name": str(number)} for number in range(3)]
    material = load_and_check(
        startup_config(
            frontends__imap__bind=[*binds, {"address": "127.0.0.1:0", "name": "clear"}],
            frontends__imap__tls={"certificates": [str(pem)]},
        )
    )
    assert set(material.bind_terminators) == {("imap", 0), ("imap", 1), ("imap", 2)}
    assert len(set(material.bind_terminators.values())) == 1


def test_a_bind_that_ends_no_tls_needs_no_files(tmp_path: Path) -> None:
    config = startup_config(defaults__frontend__tls={"certificates": [str(tmp_path / "missing.pem")]})
    assert load_and_check(config).bind_terminators == {}


def test_a_bind_whose_tls_only_a_route_ends_has_its_files_tried(pem: Path, tmp_path: Path) -> None:
    def passing(file: Path) -> mailproxy.Config:
        return startup_config(
            frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "passthrough"}],
            frontends__imap__routes=[{"sni": ["imap.example.com"], "mode": "tls", "backend": "dovecot"}],
            frontends__imap__tls={"certificates": [str(file)]},
        )

    assert set(load_and_check(passing(pem)).bind_terminators) == {("imap", 0)}
    missing = tmp_path / "missing.pem"
    assert faults_of(passing(missing)) == [f"{CERTIFICATE}: {missing}: No such file or directory"]


def test_every_file_that_was_looked_at_is_noted(
    throw_away_ca: ThrowAwayCA, pem: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    inside = throw_away_ca.issue("pop.example.com", folder=folder)
    ca, crl = throw_away_ca.pem, throw_away_ca.revoke(folder=tmp_path)
    client = throw_away_ca.issue_client("proxy", folder=tmp_path)
    config = startup_config(
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        frontends__imap__tls={
            "certificates": [str(pem), str(folder)],
            "client_ca": str(ca),
            "client_crl": str(crl),
            "client_verify": "optional",
        },
        backends__dovecot__tls={"ca": str(ca), "certificate": str(client)},
    )
    certificates = {pem, inside, client}
    assert set(load_and_check(config).files) == certificates | {folder, ca, crl}


def test_every_file_where_a_key_could_come_is_noted(pem: Path, tmp_path: Path) -> None:
    chain = write(tmp_path / "chain.crt", chain_of(pem))
    key = write(tmp_path / "chain.crt.key", key_of(pem))
    assert set(load_and_check(terminating(chain)).files) == {chain, key, tmp_path / "chain.key"}


def test_without_tls_there_is_no_file_to_look_at() -> None:
    assert load_and_check(startup_config()).files == {}


def test_servers_that_are_reached_alike_share_a_context(throw_away_ca: ThrowAwayCA) -> None:
    material = load_and_check(
        startup_config(
            backends__dovecot__tls={"ca": str(throw_away_ca.pem)},
            backends__dovecot__servers=[
                "192.0.2.1:993",
                "192.0.2.2:993",
                {"address": "192.0.2.3:143", "tls": False},
            ],
        )
    )
    assert [tls.ca for tls in material.server_contexts] == [throw_away_ca.pem]


@pytest.mark.parametrize(
    ("verify", "mode", "checks_name"),
    [
        ("required", ssl.CERT_REQUIRED, True),
        ("chain", ssl.CERT_REQUIRED, False),
        ("none", ssl.CERT_NONE, False),
    ],
)
def test_servers_are_verified_as_told(
    throw_away_ca: ThrowAwayCA, verify: str, mode: ssl.VerifyMode, checks_name: bool
) -> None:
    config = connecting(verify=verify, ca=str(throw_away_ca.pem), min_version="1.3")
    (context,) = load_and_check(config).server_contexts.values()
    assert (context.verify_mode, context.check_hostname) == (mode, checks_name)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3


def test_servers_are_verified_with_the_systems_cas_where_none_is_named() -> None:
    (context,) = load_and_check(connecting()).server_contexts.values()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


# Certificates that are not.


def test_a_missing_file(tmp_path: Path) -> None:
    file = tmp_path / "missing.pem"
    assert faults_of(terminating(file)) == [f"{CERTIFICATE}: {file}: No such file or directory"]


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_file_without_a_certificate(tmp_path: Path, content: bytes) -> None:
    file = write(tmp_path / "imap.pem", content)
    assert faults_of(terminating(file)) == [f"{CERTIFICATE}: {file}: has no certificate in PEM form"]


def test_a_file_that_is_no_certificate_but_a_disk_full(tmp_path: Path) -> None:
    file = write(tmp_path / "imap.pem", b"x" * (2**20 + 1))
    assert faults_of(terminating(file)) == [f"{CERTIFICATE}: {file}: is larger than 1048576 bytes"]


def test_a_certificate_without_its_key(pem: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "chain.pem", chain_of(pem))
    place = "put it into the same file, beside it with the suffix .key, or name it as key"
    assert faults_of(terminating(file)) == [f"{CERTIFICATE}: {file}: has no private key: {place}"]


@pytest.mark.parametrize(("certificate", "key"), [("ec", "ec"), ("rsa", "rsa"), ("rsa", "ec"), ("ec", "rsa")])
@pytest.mark.parametrize("where", ["inside", "beside", "named"])
def test_a_key_of_another_certificate(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, certificate: Any, key: Any, where: str
) -> None:
    one = throw_away_ca.issue("one.example", key_type=certificate, folder=tmp_path)
    other = throw_away_ca.issue("other.example", key_type=key, folder=tmp_path)
    named = {}
    which = "the private key"
    if where == "inside":
        file = write(tmp_path / "mixed.pem", key_of(other), chain_of(one))
    else:
        file = write(tmp_path / "mixed.crt", chain_of(one))
        key_file = write(tmp_path / ("mixed.key" if where == "beside" else "named.key"), key_of(other))
        named = {"key": str(key_file)} if where == "named" else {}
        which = f"the private key in {key_file}"
    fact = f"{which} does not belong to the certificate, which must be the first one in its file"
    assert faults_of(terminating(file, **named)) == [f"{CERTIFICATE}: {file}: {fact}"]


def test_one_certificate_with_two_keys_is_tried_with_both(
    throw_away_ca: ThrowAwayCA, pem: Path, tmp_path: Path
) -> None:
    chain, right = write(tmp_path / "chain.crt", chain_of(pem)), write(tmp_path / "right.pem", key_of(pem))
    wrong = write(tmp_path / "wrong.pem", key_of(throw_away_ca.issue("other.example", folder=tmp_path)))
    binds = [
        {
            "address": f"127.0.0.1:{port}",
            "mode": "tls",
            "tls": {"certificates": [str(chain)], "key": str(key)},
        }
        for port, key in ((993, right), (994, wrong))
    ]
    (fault,) = faults_of(startup_config(frontends__imap__bind=binds))
    assert fault.startswith(
        f"frontends.imap.bind[1].tls.certificates[0]: {chain}: the private key in {wrong} does not belong"
    )


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_an_encrypted_key(pem: Path, tmp_path: Path, form: PrivateFormat) -> None:
    key = load_pem_private_key(key_of(pem), None)
    sealed = key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret"))
    file = write(tmp_path / "sealed.pem", sealed, chain_of(pem))
    assert faults_of(terminating(file)) == [
        f"{CERTIFICATE}: {file}: the private key is encrypted: a proxy that starts by itself cannot ask for its pass phrase"
    ]


def test_a_missing_key_is_named_itself(pem: Path, tmp_path: Path) -> None:
    chain, key = write(tmp_path / "chain.crt", chain_of(pem)), tmp_path / "missing.key"
    (fault,) = faults_of(terminating(chain, key=str(key)))
    assert fault.endswith(f"{key}: No such file or directory")


def test_a_key_that_is_no_regular_file_is_named_itself(pem: Path, tmp_path: Path) -> None:
    chain = write(tmp_path / "chain.crt", chain_of(pem))
    assert faults_of(terminating(chain, key="/dev/zero")) == [
        f"{CERTIFICATE}: /dev/zero: is not a regular file"
    ]
    large = write(tmp_path / "large.key", b"#" * 2**21)
    assert faults_of(terminating(chain, key=str(large))) == [
        f"{CERTIFICATE}: {large}: is larger than 1048576 bytes"
    ]


@pytest.mark.parametrize(
    "content", [b"hello", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_key_that_is_none_is_said_in_words(pem: Path, tmp_path: Path, content: bytes) -> None:
    chain, key = write(tmp_path / "chain.crt", chain_of(pem)), write(tmp_path / "imap.key", content)
    (fault,) = faults_of(terminating(chain, key=str(key)))
    assert str(key) in fault
    assert "_ssl.c" not in fault


@pytest.mark.parametrize(("begin", "end"), [(-30, -1), (1, 30)])
def test_a_certificate_that_is_not_in_date(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, begin: int, end: int
) -> None:
    dates = [datetime.now(UTC) + timedelta(days=days) for days in (begin, end)]
    file = throw_away_ca.issue("imap.example.com", folder=tmp_path, not_before=dates[0], not_after=dates[1])
    first, last = (f"{date:%Y-%m-%d}" for date in dates)
    expired = load_and_check(terminating(file)).expired  # a proxy serves it all the same
    said = f"{CERTIFICATE}: {file}: is not in date: from {first} to {last}"
    assert [str(fault) for fault in expired] == [said]


def expired_file(throw_away_ca: ThrowAwayCA, folder: Path) -> str:
    """A configuration with a certificate that was good until yesterday."""
    dates = [datetime.now(UTC) + timedelta(days=days) for days in (-30, -1)]
    pem = throw_away_ca.issue("imap.example.com", folder=folder, not_before=dates[0], not_after=dates[1])
    return f"""
        frontends.imap.bind = [{{ address = "127.0.0.1:0", mode = "tls" }}]
        frontends.imap.tls.certificates = ["{pem}"]
    """


def test_check_refuses_a_certificate_that_is_out_of_date(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    file = tmp_path / "mailproxy.toml"
    file.write_text(expired_file(throw_away_ca, tmp_path))
    result = CliRunner().invoke(main, ["check", str(file)])
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert line.startswith(
        f"{file}:3:44: {CERTIFICATE}: {tmp_path}/imap.example.com-ec.pem: is not in date: "
    )


def test_run_serves_a_certificate_that_is_out_of_date_and_says_so(
    throw_away_ca: ThrowAwayCA, tmp_path: Path
) -> None:
    text = expired_file(throw_away_ca, tmp_path) + 'log.format = "json"'
    with Program(text, tmp_path) as program:
        program.wait_for("mailproxy is ready")
        said = f'"event":"certificate-expires","level":"warning","message":"{CERTIFICATE}: '
        program.wait_for(re.escape(said))


def test_an_empty_folder(tmp_path: Path) -> None:
    write(tmp_path / "imap.key", b"")
    assert faults_of(terminating(tmp_path)) == [
        f"{CERTIFICATE}: {tmp_path}: no .pem, .crt or .cer file in this folder"
    ]


def test_one_bad_file_in_a_folder(pem: Path, tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.pem", b"")
    assert faults_of(terminating(tmp_path)) == [f"{CERTIFICATE}: {bad}: has no certificate in PEM form"]


def test_files_that_may_not_be_read(pem: Path, open_folder: Path) -> None:
    file = write(open_folder / "imap.pem", pem.read_bytes())
    file.chmod(0)
    with as_nobody():
        assert faults_of(terminating(file)) == [f"{CERTIFICATE}: {file}: Permission denied"]


@pytest.mark.parametrize("bits", [0o000, 0o111, 0o444])
def test_a_folder_that_may_not_be_looked_into(pem: Path, open_folder: Path, bits: int) -> None:
    folder = open_folder / "certs"
    folder.mkdir()
    file = write(folder / "imap.pem", pem.read_bytes())
    file.chmod(0)
    folder.chmod(bits)
    try:
        with as_nobody():
            for place in (folder, file):
                (fault,) = faults_of(terminating(place))
                assert fault.startswith(f"{CERTIFICATE}: {folder}")
                assert fault.endswith(": Permission denied")
    finally:
        folder.chmod(0o755)


def test_a_key_that_may_not_be_read_is_named_itself(pem: Path, open_folder: Path) -> None:
    chain, key = write(open_folder / "imap.crt", chain_of(pem)), write(open_folder / "imap.key", key_of(pem))
    chain.chmod(0o644)
    key.chmod(0o600 if ROOT else 0)
    with as_nobody():
        (fault,) = faults_of(terminating(chain))
    assert fault.endswith(f"{key}: Permission denied")


def test_every_bind_has_its_own_place_in_the_file(tmp_path: Path) -> None:
    own, shared = tmp_path / "own.pem", tmp_path / "shared.pem"
    config = startup_config(
        frontends__imap__bind=[
            {"address": "127.0.0.1:0", "name": "a", "mode": "tls"},
            {"address": "127.0.0.1:0", "name": "b", "mode": "tls", "tls": {"certificates": [str(own)]}},
            {"address": "127.0.0.1:0", "name": "c", "mode": "tls"},
        ],
        frontends__imap__tls={"certificates": [str(shared)]},
    )
    assert faults_of(config) == [
        f"{CERTIFICATE}: {shared}: No such file or directory",
        f"frontends.imap.bind[1].tls.certificates[0] (b): {own}: No such file or directory",
    ]


# Words for OpenSSL.


@pytest.mark.parametrize("ciphers", ["NOPE", "\u00e9", "TLS_AES_128_GCM_SHA256"])
def test_ciphers_that_openssl_does_not_know(pem: Path, ciphers: str) -> None:
    fact = f'"{ciphers}": OpenSSL knows no such cipher of TLS 1.2 (those of 1.3 are named by ciphersuites)'
    assert faults_of(terminating(pem, ciphers=ciphers)) == [f"frontends.imap.tls.ciphers: {fact}"]
    assert faults_of(connecting(ciphers=ciphers)) == [f"backends.dovecot.tls.ciphers: {fact}"]


def test_the_longest_application_protocol(pem: Path) -> None:
    assert faults_of(terminating(pem, alpn=["imap", "x" * 255])) == []


# Servers.


def test_a_missing_ca(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    assert faults_of(connecting(ca=str(ca))) == [f"backends.dovecot.tls.ca: {ca}: No such file or directory"]


def test_a_folder_as_ca(tmp_path: Path) -> None:
    assert faults_of(connecting(ca=str(tmp_path))) == [f"backends.dovecot.tls.ca: {tmp_path}: Is a directory"]


def test_a_ca_that_is_no_regular_file(pem: Path, tmp_path: Path) -> None:
    """Reading a pipe or /dev/zero would never end."""
    pipe = tmp_path / "pipe.pem"
    os.mkfifo(pipe)
    for file in ("/dev/zero", str(pipe)):
        assert faults_of(connecting(ca=file)) == [f"backends.dovecot.tls.ca: {file}: is not a regular file"]
        assert faults_of(terminating(pem, client_ca=file, client_verify="required")) == [
            f"frontends.imap.tls.client_ca: {file}: is not a regular file"
        ]


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_a_ca_that_is_none(tmp_path: Path, content: bytes) -> None:
    ca = write(tmp_path / "ca.pem", content)
    (fault,) = faults_of(connecting(ca=str(ca)))
    assert fault.startswith(f"backends.dovecot.tls.ca: {ca}: no certificate in PEM form")


def test_a_key_as_ca(pem: Path, tmp_path: Path) -> None:
    ca = write(tmp_path / "ca.pem", key_of(pem))
    (fault,) = faults_of(connecting(ca=str(ca)))
    assert fault.startswith(f"backends.dovecot.tls.ca: {ca}: no certificate in PEM form")


def test_every_server_has_its_own_place_in_the_file(tmp_path: Path) -> None:
    own, shared = tmp_path / "own.pem", tmp_path / "shared.pem"
    config = startup_config(
        backends__dovecot__tls={"ca": str(shared)},
        backends__dovecot__servers=[
            "192.0.2.1",
            {"address": "192.0.2.2", "tls": {"ca": str(own)}},
            "192.0.2.3",
        ],
    )
    assert faults_of(config) == [
        f"backends.dovecot.tls.ca: {shared}: No such file or directory",
        f"backends.dovecot.servers[1].tls.ca: {own}: No such file or directory",
    ]


# Client certificates: what those of clients are verified by, and what servers are shown.


def verifying(pem: Path, **tls: Any) -> mailproxy.Config:
    return terminating(pem, client_verify="required", **tls)


def test_client_certificates_are_verified_by_ca_and_revocation_list(
    throw_away_ca: ThrowAwayCA, pem: Path, tmp_path: Path
) -> None:
    ca, crl = str(throw_away_ca.pem), str(throw_away_ca.revoke(folder=tmp_path))
    offer = (
        load_and_check(verifying(pem, client_ca=ca, client_crl=crl)).bind_terminators["imap", 0].select(None)
    )
    assert offer is not None
    context = offer.context
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.verify_flags & ssl.VERIFY_CRL_CHECK_CHAIN == ssl.VERIFY_CRL_CHECK_CHAIN
    assert context.cert_store_stats() == {"x509": 1, "x509_ca": 1, "crl": 1}


def test_a_missing_client_ca_and_a_missing_revocation_list(pem: Path, tmp_path: Path) -> None:
    ca, crl = tmp_path / "ca.pem", tmp_path / "crl.pem"
    assert faults_of(verifying(pem, client_ca=str(ca), client_crl=str(crl))) == [
        f"frontends.imap.tls.client_ca: {ca}: No such file or directory",
        f"frontends.imap.tls.client_crl: {crl}: No such file or directory",
    ]


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_client_ca_and_a_revocation_list_that_are_none(pem: Path, tmp_path: Path, content: bytes) -> None:
    ca, crl = write(tmp_path / "ca.pem", content), write(tmp_path / "crl.pem", content)
    one, other = faults_of(verifying(pem, client_ca=str(ca), client_crl=str(crl)))
    assert one.startswith(f"frontends.imap.tls.client_ca: {ca}: no certificate in PEM form")
    assert other.startswith(f"frontends.imap.tls.client_crl: {crl}: no revocation list in PEM form")


def test_client_ca_and_revocation_list_that_were_mistaken_for_each_other(
    throw_away_ca: ThrowAwayCA, pem: Path, tmp_path: Path
) -> None:
    ca, crl = throw_away_ca.pem, throw_away_ca.revoke(folder=tmp_path)
    assert faults_of(verifying(pem, client_ca=str(crl), client_crl=str(ca))) == [
        f"frontends.imap.tls.client_ca: {crl}: no certificate in PEM form",
        f"frontends.imap.tls.client_crl: {ca}: no revocation list in PEM form",
    ]


def test_a_client_ca_that_may_not_be_read(throw_away_ca: ThrowAwayCA, open_folder: Path) -> None:
    pem = write(open_folder / "imap.pem", throw_away_ca.issue("imap.example.com").read_bytes())
    ca = write(open_folder / "ca.pem", throw_away_ca.pem.read_bytes())
    pem.chmod(0o644)
    ca.chmod(0)
    with as_nobody():
        assert faults_of(verifying(pem, client_ca=str(ca))) == [
            f"frontends.imap.tls.client_ca: {ca}: Permission denied"
        ]


SHOWN = "backends.dovecot.tls.certificate"


def test_servers_are_shown_a_certificate(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    pem = throw_away_ca.issue_client("proxy", folder=tmp_path)
    material = load_and_check(connecting(certificate=str(pem)))
    assert str(material.certificates[pem, None][0]) == SHOWN
    chain, key = write(tmp_path / "chain.pem", chain_of(pem)), write(tmp_path / "secret.pem", key_of(pem))
    assert faults_of(connecting(certificate=str(chain), key=str(key))) == []


def test_a_key_beside_the_certificate_for_servers(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    pem = throw_away_ca.issue_client("proxy", folder=tmp_path)
    write(tmp_path / "pair.key", key_of(pem))
    assert faults_of(connecting(certificate=str(write(tmp_path / "pair.crt", chain_of(pem))))) == []


def test_a_missing_certificate_for_servers(tmp_path: Path) -> None:
    file = tmp_path / "proxy.pem"
    assert faults_of(connecting(certificate=str(file))) == [f"{SHOWN}: {file}: No such file or directory"]


def test_a_folder_as_certificate_for_servers(tmp_path: Path) -> None:
    assert faults_of(connecting(certificate=str(tmp_path))) == [f"{SHOWN}: {tmp_path}: Is a directory"]


def test_a_certificate_for_servers_that_is_none(tmp_path: Path) -> None:
    file = write(tmp_path / "proxy.pem", b"hello")
    assert faults_of(connecting(certificate=str(file))) == [
        f"{SHOWN}: {file}: has no certificate in PEM form"
    ]


def test_a_certificate_for_servers_that_may_not_be_read(
    throw_away_ca: ThrowAwayCA, open_folder: Path
) -> None:
    file = write(open_folder / "proxy.pem", throw_away_ca.issue_client("proxy").read_bytes())
    file.chmod(0)
    with as_nobody():
        assert faults_of(connecting(certificate=str(file))) == [f"{SHOWN}: {file}: Permission denied"]


def test_keys_for_servers_that_are_no_good(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    pem = throw_away_ca.issue_client("proxy", folder=tmp_path)
    chain = write(tmp_path / "chain.pem", chain_of(pem))
    missing, none = tmp_path / "missing.key", write(tmp_path / "none.key", b"hello")
    other = write(tmp_path / "other.key", key_of(throw_away_ca.issue_client("other", folder=tmp_path)))
    foreign = f"the private key in {other} does not belong to the certificate, which must be the first one in its file"
    for key, said in (
        (missing, f"{missing}: No such file or directory"),
        (none, f"{chain}: {none} has no private key in PEM form"),
        (other, f"{chain}: {foreign}"),
    ):
        assert faults_of(connecting(certificate=str(chain), key=str(key))) == [f"{SHOWN}: {said}"]


def test_a_certificate_for_servers_without_its_key(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    file = write(tmp_path / "chain.pem", chain_of(throw_away_ca.issue_client("proxy", folder=tmp_path)))
    place = "put it into the same file, beside it with the suffix .key, or name it as key"
    assert faults_of(connecting(certificate=str(file))) == [f"{SHOWN}: {file}: has no private key: {place}"]


def test_a_certificate_for_servers_that_is_out_of_date_is_said(
    throw_away_ca: ThrowAwayCA, tmp_path: Path
) -> None:
    file = throw_away_ca.issue_client(
        "proxy", folder=tmp_path, not_after=datetime.now(UTC) - timedelta(days=1)
    )
    (said,) = load_and_check(connecting(certificate=str(file))).expired
    assert str(said).startswith(f"{SHOWN}: {file}: is not in date: ")


# Users and the log.


def test_users_and_groups_that_are_not_here(tmp_path: Path) -> None:
    config = startup_config(
        process={"user": "nobody-here", "group": "no-group-here"},
        frontends__imap__bind=[
            {
                "address": f"unix:{tmp_path}/imap.sock",
                "unix_user": "nobody-there",
                "unix_group": "no-group-there",
            }
        ],
    )
    assert sorted(faults_of(config)) == [
        'frontends.imap.bind[0].unix_group: there is no group "no-group-there" on this machine',
        'frontends.imap.bind[0].unix_user: there is no user "nobody-there" on this machine',
        'process.group: there is no group "no-group-here" on this machine',
        'process.user: there is no user "nobody-here" on this machine',
    ]


def test_a_log_without_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "mail.log"
    assert faults_of(startup_config(log__to=str(file))) == [
        f"log.to: {file}: there is no folder {file.parent}"
    ]


def test_a_folder_as_log(tmp_path: Path) -> None:
    assert faults_of(startup_config(log__to=str(tmp_path))) == [f"log.to: {tmp_path}: is a folder"]


def test_a_log_that_may_not_be_written(open_folder: Path) -> None:
    file = write(open_folder / "mail.log")
    file.chmod(0o444)
    open_folder.chmod(0o555)
    with as_nobody():
        assert faults_of(startup_config(log__to=str(file))) == [f"log.to: {file}: cannot be written"]
        assert faults_of(startup_config(log__to=str(file.with_name("new.log")))) == [
            f"log.to: {file.with_name('new.log')}: cannot be written"
        ]


def test_a_log_behind_a_closed_folder(open_folder: Path) -> None:
    closed = open_folder / "closed"
    (closed / "logs").mkdir(parents=True)
    closed.chmod(0)
    try:
        with as_nobody():
            (fault,) = faults_of(startup_config(log__to=str(closed / "logs" / "mail.log")))
        assert fault.startswith(f"log.to: {closed}/logs/mail.log: ")
    finally:
        closed.chmod(0o755)


async def test_a_log_that_proves_to_be_no_good_when_it_is_opened() -> None:
    config = startup_config(
        log__to="/proc/mail.log"
    )  # where root, too, cannot make files, although the bits say so
    with pytest.raises(ConfigError) as caught:
        await mailproxy.serve(config)
    assert str(caught.value).startswith("log.to: /proc/mail.log: ")


# All at once.


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    config = startup_config(
        process__user="nobody-here",
        log__to=str(tmp_path),
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        frontends__imap__tls={
            "certificates": [str(tmp_path / "a.pem"), str(tmp_path / "b.pem")],
            "client_verify": "required",
            "client_ca": str(tmp_path / "clients.pem"),
            "client_crl": str(tmp_path / "crl.pem"),
        },
        backends__dovecot__tls={"ca": str(tmp_path / "ca.pem"), "certificate": str(tmp_path / "proxy.pem")},
    )
    assert faults_of(config) == [
        f"frontends.imap.tls.certificates[0]: {tmp_path}/a.pem: No such file or directory",
        f"frontends.imap.tls.certificates[1]: {tmp_path}/b.pem: No such file or directory",
        f"frontends.imap.tls.client_ca: {tmp_path}/clients.pem: No such file or directory",
        f"frontends.imap.tls.client_crl: {tmp_path}/crl.pem: No such file or directory",
        f"backends.dovecot.tls.ca: {tmp_path}/ca.pem: No such file or directory",
        f"backends.dovecot.tls.certificate: {tmp_path}/proxy.pem: No such file or directory",
        'process.user: there is no user "nobody-here" on this machine',
        f"log.to: {tmp_path}: is a folder",
    ]


def test_check_says_them_as_it_says_those_of_the_text(tmp_path: Path) -> None:
    file = tmp_path / "mailproxy.toml"
    file.write_text("""
        log.to = "logs/mail.log"
        frontends.imap.bind = [{ address = "127.0.0.1:0", mode = "tls" }]
        frontends.imap.tls.certificates = ["certs"]
    """)
    result = CliRunner().invoke(main, ["check", str(file)])
    assert result.exit_code == 2
    assert result.output.splitlines() == [
        f"{file}:2:13: log.to: {tmp_path}/logs/mail.log: there is no folder {tmp_path}/logs",
        f"{file}:4:44: frontends.imap.tls.certificates[0]: {tmp_path}/certs: No such file or directory",
    ]


def test_nothing_is_made_or_changed_by_looking(pem: Path, tmp_path: Path) -> None:
    def everything() -> dict[Path, tuple[int, ...]]:
        """All but the time of the last access, which reading changes."""
        found = {file: file.stat() for file in tmp_path.rglob("*")}
        return {
            file: (
                each.st_mode,
                each.st_ino,
                each.st_uid,
                each.st_gid,
                each.st_size,
                each.st_mtime_ns,
                each.st_ctime_ns,
            )
            for file, each in found.items()
        }

    before = everything()
    material = load_and_check(
        startup_config(
            log__to=str(tmp_path / "mail.log"),
            frontends__imap__bind=[
                {"address": f"unix:{tmp_path}/imap.sock", "mode": "tls", "tls": {"certificates": [str(pem)]}}
            ],
        )
    )
    assert isinstance(material, CertificateStore)
    assert everything() == before
    assert stat.S_IMODE(pem.stat().st_mode) == 0o600


# Paths in messages.


def test_paths_are_shown_without_detours(tmp_path: Path) -> None:
    for folder in ("pki", "cfg"):
        (tmp_path / folder).mkdir()
    missing = f"{tmp_path}/pki/../cfg/../pki/x.pem"
    config = startup_config(
        log__to=f"{tmp_path}/cfg/../logs/mail.log",
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        frontends__imap__tls={"certificates": [missing]},
    )
    assert faults_of(config) == [
        f"{CERTIFICATE}: {tmp_path}/pki/x.pem: No such file or directory",
        f"log.to: {tmp_path}/logs/mail.log: there is no folder {tmp_path}/logs",
    ]


def test_a_detour_by_a_link_is_shown_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "live").mkdir(parents=True)
    (tmp_path / "live").symlink_to(tmp_path / "elsewhere" / "live")
    missing = f"{tmp_path}/live/../x.pem"  # is in elsewhere
    config = startup_config(
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        frontends__imap__tls={"certificates": [missing]},
    )
    assert faults_of(config) == [f"{CERTIFICATE}: {missing}: No such file or directory"]


def test_a_log_that_is_a_socket(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(file))
        assert faults_of(startup_config(log__to=str(file))) == [
            f"log.to: {file}: is a socket, did you mean syslog:{file}?"
        ]
