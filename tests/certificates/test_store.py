"""Files that a configuration names: every unusable file is reported at once, with its key and its path."""

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
UNPRIVILEGED_ID = 65534
CERTIFICATE = "frontends.imap.tls.certificates[0]"


def bind_config(*certificates: Path, **tls: Any) -> mailproxy.Config:
    return startup_config(
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        frontends__imap__tls={"certificates": [str(file) for file in certificates], **tls},
    )


def server_config(**tls: Any) -> mailproxy.Config:
    return startup_config(backends__dovecot__tls=tls)


def faults_in(config: mailproxy.Config) -> list[str]:
    try:
        load_and_check(config)
    except ConfigError as error:
        return str(error).splitlines()
    return []


def key_bytes(pem: Path) -> bytes:
    return pem.read_bytes().partition(b"-----BEGIN CERTIFICATE")[0]


def chain_bytes(pem: Path) -> bytes:
    return pem.read_bytes().removeprefix(key_bytes(pem))


def write(file: Path, *parts: bytes) -> Path:
    file.write_bytes(b"".join(parts))
    return file


@contextmanager
def unprivileged() -> Iterator[None]:
    """Run the block as an unprivileged user, because root may read every file."""
    if not ROOT:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, 0)
    os.setresuid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


# Usable files.


def test_file_with_chain_and_key(pem: Path) -> None:
    store = load_and_check(bind_config(pem))
    assert store.bind_terminators["imap", 0].select(None) is not None
    assert str(store.certificates[pem, None][0]) == CERTIFICATE
    assert store.certificates[pem, None][1].names == ("imap.example.com",)


def test_configured_key_file(pem: Path, tmp_path: Path) -> None:
    chain, key = (
        write(tmp_path / "chain.crt", chain_bytes(pem)),
        write(tmp_path / "secret.pem", key_bytes(pem)),
    )
    assert faults_in(bind_config(chain, key=str(key))) == []


def test_key_file_beside_its_certificate(pem: Path, tmp_path: Path) -> None:
    write(tmp_path / "pair.key", key_bytes(pem))
    assert faults_in(bind_config(write(tmp_path / "pair.crt", chain_bytes(pem)))) == []


def test_folder_with_files_and_pairs(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    first = throw_away_ca.issue("a.example", folder=tmp_path)
    second = throw_away_ca.issue("b.example", key_type="rsa", folder=tmp_path)
    write(tmp_path / "c.key", key_bytes(second))
    third = write(tmp_path / "c.crt", chain_bytes(second))
    certificates = load_and_check(bind_config(tmp_path)).certificates
    assert set(certificates) == {(first, None), (second, None), (third, None)}


def test_binds_with_equal_tls_share_a_terminator(pem: Path) -> None:
    binds = [{"address": "127.0.0.1:0", "mode": "tls", "name": str(number)} for number in range(3)]
    store = load_and_check(
        startup_config(
            frontends__imap__bind=[*binds, {"address": "127.0.0.1:0", "name": "clear"}],
            frontends__imap__tls={"certificates": [str(pem)]},
        )
    )
    assert set(store.bind_terminators) == {("imap", 0), ("imap", 1), ("imap", 2)}
    assert len(set(store.bind_terminators.values())) == 1


def test_plain_bind_needs_no_certificates(tmp_path: Path) -> None:
    config = startup_config(defaults__frontend__tls={"certificates": [str(tmp_path / "missing.pem")]})
    assert load_and_check(config).bind_terminators == {}


def test_passthrough_bind_with_tls_route_loads_certificates(pem: Path, tmp_path: Path) -> None:
    def passthrough_config(file: Path) -> mailproxy.Config:
        return startup_config(
            frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "passthrough"}],
            frontends__imap__routes=[{"sni": ["imap.example.com"], "mode": "tls", "backend": "dovecot"}],
            frontends__imap__tls={"certificates": [str(file)]},
        )

    assert set(load_and_check(passthrough_config(pem)).bind_terminators) == {("imap", 0)}
    missing = tmp_path / "missing.pem"
    assert faults_in(passthrough_config(missing)) == [f"{CERTIFICATE}: {missing}: No such file or directory"]


def test_every_loaded_file_is_recorded(throw_away_ca: ThrowAwayCA, pem: Path, tmp_path: Path) -> None:
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


def test_possible_key_files_are_recorded(pem: Path, tmp_path: Path) -> None:
    chain = write(tmp_path / "chain.crt", chain_bytes(pem))
    key = write(tmp_path / "chain.crt.key", key_bytes(pem))
    assert set(load_and_check(bind_config(chain)).files) == {chain, key, tmp_path / "chain.key"}


def test_config_without_tls_records_no_files() -> None:
    assert load_and_check(startup_config()).files == {}


def test_servers_with_equal_tls_share_a_context(throw_away_ca: ThrowAwayCA) -> None:
    store = load_and_check(
        startup_config(
            backends__dovecot__tls={"ca": str(throw_away_ca.pem)},
            backends__dovecot__servers=[
                "192.0.2.1:993",
                "192.0.2.2:993",
                {"address": "192.0.2.3:143", "tls": False},
            ],
        )
    )
    assert [tls.ca for tls in store.server_contexts] == [throw_away_ca.pem]


@pytest.mark.parametrize(
    ("verify", "mode", "checks_name"),
    [
        ("required", ssl.CERT_REQUIRED, True),
        ("chain", ssl.CERT_REQUIRED, False),
        ("none", ssl.CERT_NONE, False),
    ],
)
def test_servers_are_verified_as_configured(
    throw_away_ca: ThrowAwayCA, verify: str, mode: ssl.VerifyMode, checks_name: bool
) -> None:
    config = server_config(verify=verify, ca=str(throw_away_ca.pem), min_version="1.3")
    (context,) = load_and_check(config).server_contexts.values()
    assert (context.verify_mode, context.check_hostname) == (mode, checks_name)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3


def test_system_cas_verify_servers_by_default() -> None:
    (context,) = load_and_check(server_config()).server_contexts.values()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


# Unusable certificates.


def test_missing_certificate_file(tmp_path: Path) -> None:
    file = tmp_path / "missing.pem"
    assert faults_in(bind_config(file)) == [f"{CERTIFICATE}: {file}: No such file or directory"]


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_file_without_a_certificate(tmp_path: Path, content: bytes) -> None:
    file = write(tmp_path / "imap.pem", content)
    assert faults_in(bind_config(file)) == [f"{CERTIFICATE}: {file}: has no certificate in PEM form"]


def test_huge_certificate_file(tmp_path: Path) -> None:
    file = write(tmp_path / "imap.pem", b"x" * (2**20 + 1))
    assert faults_in(bind_config(file)) == [f"{CERTIFICATE}: {file}: is larger than 1048576 bytes"]


def test_certificate_without_its_key(pem: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "chain.pem", chain_bytes(pem))
    remedy = "put it into the same file, beside it with the suffix .key, or name it as key"
    assert faults_in(bind_config(file)) == [f"{CERTIFICATE}: {file}: has no private key: {remedy}"]


@pytest.mark.parametrize(("certificate", "key"), [("ec", "ec"), ("rsa", "rsa"), ("rsa", "ec"), ("ec", "rsa")])
@pytest.mark.parametrize("key_location", ["inside", "beside", "named"])
def test_key_of_another_certificate(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, certificate: Any, key: Any, key_location: str
) -> None:
    one = throw_away_ca.issue("one.example", key_type=certificate, folder=tmp_path)
    other = throw_away_ca.issue("other.example", key_type=key, folder=tmp_path)
    key_option = {}
    key_description = "the private key"
    if key_location == "inside":
        file = write(tmp_path / "mixed.pem", key_bytes(other), chain_bytes(one))
    else:
        file = write(tmp_path / "mixed.crt", chain_bytes(one))
        key_file = write(
            tmp_path / ("mixed.key" if key_location == "beside" else "named.key"), key_bytes(other)
        )
        key_option = {"key": str(key_file)} if key_location == "named" else {}
        key_description = f"the private key in {key_file}"
    fact = f"{key_description} does not belong to the certificate, which must be the first one in its file"
    assert faults_in(bind_config(file, **key_option)) == [f"{CERTIFICATE}: {file}: {fact}"]


def test_certificate_is_loaded_with_each_configured_key(
    throw_away_ca: ThrowAwayCA, pem: Path, tmp_path: Path
) -> None:
    chain, right = (
        write(tmp_path / "chain.crt", chain_bytes(pem)),
        write(tmp_path / "right.pem", key_bytes(pem)),
    )
    wrong = write(tmp_path / "wrong.pem", key_bytes(throw_away_ca.issue("other.example", folder=tmp_path)))
    binds = [
        {
            "address": f"127.0.0.1:{port}",
            "mode": "tls",
            "tls": {"certificates": [str(chain)], "key": str(key)},
        }
        for port, key in ((993, right), (994, wrong))
    ]
    (fault,) = faults_in(startup_config(frontends__imap__bind=binds))
    assert fault.startswith(
        f"frontends.imap.bind[1].tls.certificates[0]: {chain}: the private key in {wrong} does not belong"
    )


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_encrypted_key_is_rejected(pem: Path, tmp_path: Path, form: PrivateFormat) -> None:
    key = load_pem_private_key(key_bytes(pem), None)
    encrypted = key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret"))
    file = write(tmp_path / "sealed.pem", encrypted, chain_bytes(pem))
    assert faults_in(bind_config(file)) == [
        f"{CERTIFICATE}: {file}: the private key is encrypted: a proxy that starts by itself cannot ask for its pass phrase"
    ]


def test_missing_key_is_named(pem: Path, tmp_path: Path) -> None:
    chain, key = write(tmp_path / "chain.crt", chain_bytes(pem)), tmp_path / "missing.key"
    (fault,) = faults_in(bind_config(chain, key=str(key)))
    assert fault.endswith(f"{key}: No such file or directory")


def test_irregular_or_huge_key_file_is_named(pem: Path, tmp_path: Path) -> None:
    chain = write(tmp_path / "chain.crt", chain_bytes(pem))
    assert faults_in(bind_config(chain, key="/dev/zero")) == [
        f"{CERTIFICATE}: /dev/zero: is not a regular file"
    ]
    large = write(tmp_path / "large.key", b"#" * 2**21)
    assert faults_in(bind_config(chain, key=str(large))) == [
        f"{CERTIFICATE}: {large}: is larger than 1048576 bytes"
    ]


@pytest.mark.parametrize(
    "content", [b"hello", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_invalid_key_message_hides_openssl_internals(pem: Path, tmp_path: Path, content: bytes) -> None:
    chain, key = write(tmp_path / "chain.crt", chain_bytes(pem)), write(tmp_path / "imap.key", content)
    (fault,) = faults_in(bind_config(chain, key=str(key)))
    assert str(key) in fault
    assert "_ssl.c" not in fault


@pytest.mark.parametrize(("first_day", "last_day"), [(-30, -1), (1, 30)])
def test_certificate_outside_its_dates_is_reported(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, first_day: int, last_day: int
) -> None:
    dates = [datetime.now(UTC) + timedelta(days=days) for days in (first_day, last_day)]
    file = throw_away_ca.issue("imap.example.com", folder=tmp_path, not_before=dates[0], not_after=dates[1])
    first, last = (f"{date:%Y-%m-%d}" for date in dates)
    # The proxy serves an expired certificate all the same.
    expired = load_and_check(bind_config(file)).expired
    message = f"{CERTIFICATE}: {file}: is not in date: from {first} to {last}"
    assert [str(fault) for fault in expired] == [message]


def expired_config(throw_away_ca: ThrowAwayCA, folder: Path) -> str:
    """Return a configuration with a certificate that expired yesterday."""
    dates = [datetime.now(UTC) + timedelta(days=days) for days in (-30, -1)]
    pem = throw_away_ca.issue("imap.example.com", folder=folder, not_before=dates[0], not_after=dates[1])
    return f"""
        frontends.imap.bind = [{{ address = "127.0.0.1:0", mode = "tls" }}]
        frontends.imap.tls.certificates = ["{pem}"]
    """


def test_check_command_rejects_expired_certificate(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    file = tmp_path / "mailproxy.toml"
    file.write_text(expired_config(throw_away_ca, tmp_path))
    result = CliRunner().invoke(main, ["check", str(file)])
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert line.startswith(
        f"{file}:3:44: {CERTIFICATE}: {tmp_path}/imap.example.com-ec.pem: is not in date: "
    )


def test_run_serves_expired_certificate_with_a_warning(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    text = expired_config(throw_away_ca, tmp_path) + 'log.format = "json"'
    with Program(text, tmp_path) as program:
        program.wait_for("mailproxy is ready")
        pattern = f'"event":"certificate-expires","level":"warning","message":"{CERTIFICATE}: '
        program.wait_for(re.escape(pattern))


def test_folder_without_certificate_files(tmp_path: Path) -> None:
    write(tmp_path / "imap.key", b"")
    assert faults_in(bind_config(tmp_path)) == [
        f"{CERTIFICATE}: {tmp_path}: no .pem, .crt or .cer file in this folder"
    ]


def test_invalid_file_in_a_folder(pem: Path, tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.pem", b"")
    assert faults_in(bind_config(tmp_path)) == [f"{CERTIFICATE}: {bad}: has no certificate in PEM form"]


def test_unreadable_certificate_file(pem: Path, open_folder: Path) -> None:
    file = write(open_folder / "imap.pem", pem.read_bytes())
    file.chmod(0)
    with unprivileged():
        assert faults_in(bind_config(file)) == [f"{CERTIFICATE}: {file}: Permission denied"]


@pytest.mark.parametrize("bits", [0o000, 0o111, 0o444])
def test_unreadable_certificate_folder(pem: Path, open_folder: Path, bits: int) -> None:
    folder = open_folder / "certs"
    folder.mkdir()
    file = write(folder / "imap.pem", pem.read_bytes())
    file.chmod(0)
    folder.chmod(bits)
    try:
        with unprivileged():
            for path in (folder, file):
                (fault,) = faults_in(bind_config(path))
                assert fault.startswith(f"{CERTIFICATE}: {folder}")
                assert fault.endswith(": Permission denied")
    finally:
        folder.chmod(0o755)


def test_unreadable_key_is_named(pem: Path, open_folder: Path) -> None:
    chain, key = (
        write(open_folder / "imap.crt", chain_bytes(pem)),
        write(open_folder / "imap.key", key_bytes(pem)),
    )
    chain.chmod(0o644)
    key.chmod(0o600 if ROOT else 0)
    with unprivileged():
        (fault,) = faults_in(bind_config(chain))
    assert fault.endswith(f"{key}: Permission denied")


def test_fault_names_the_bind_with_the_file(tmp_path: Path) -> None:
    own, shared = tmp_path / "own.pem", tmp_path / "shared.pem"
    config = startup_config(
        frontends__imap__bind=[
            {"address": "127.0.0.1:0", "name": "a", "mode": "tls"},
            {"address": "127.0.0.1:0", "name": "b", "mode": "tls", "tls": {"certificates": [str(own)]}},
            {"address": "127.0.0.1:0", "name": "c", "mode": "tls"},
        ],
        frontends__imap__tls={"certificates": [str(shared)]},
    )
    assert faults_in(config) == [
        f"{CERTIFICATE}: {shared}: No such file or directory",
        f"frontends.imap.bind[1].tls.certificates[0] (b): {own}: No such file or directory",
    ]


# OpenSSL's names.


@pytest.mark.parametrize("ciphers", ["NOPE", "\u00e9", "TLS_AES_128_GCM_SHA256"])
def test_unknown_ciphers_are_faults(pem: Path, ciphers: str) -> None:
    fact = f'"{ciphers}": OpenSSL knows no such cipher of TLS 1.2 (those of 1.3 are named by ciphersuites)'
    assert faults_in(bind_config(pem, ciphers=ciphers)) == [f"frontends.imap.tls.ciphers: {fact}"]
    assert faults_in(server_config(ciphers=ciphers)) == [f"backends.dovecot.tls.ciphers: {fact}"]


def test_longest_alpn_protocol_is_accepted(pem: Path) -> None:
    assert faults_in(bind_config(pem, alpn=["imap", "x" * 255])) == []


# Servers.


def test_missing_server_ca(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    assert faults_in(server_config(ca=str(ca))) == [
        f"backends.dovecot.tls.ca: {ca}: No such file or directory"
    ]


def test_folder_as_server_ca(tmp_path: Path) -> None:
    assert faults_in(server_config(ca=str(tmp_path))) == [
        f"backends.dovecot.tls.ca: {tmp_path}: Is a directory"
    ]


def test_irregular_ca_file(pem: Path, tmp_path: Path) -> None:
    """Reading from a pipe or from /dev/zero would never end."""
    pipe = tmp_path / "pipe.pem"
    os.mkfifo(pipe)
    for file in ("/dev/zero", str(pipe)):
        assert faults_in(server_config(ca=file)) == [
            f"backends.dovecot.tls.ca: {file}: is not a regular file"
        ]
        assert faults_in(bind_config(pem, client_ca=file, client_verify="required")) == [
            f"frontends.imap.tls.client_ca: {file}: is not a regular file"
        ]


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_invalid_server_ca(tmp_path: Path, content: bytes) -> None:
    ca = write(tmp_path / "ca.pem", content)
    (fault,) = faults_in(server_config(ca=str(ca)))
    assert fault.startswith(f"backends.dovecot.tls.ca: {ca}: no certificate in PEM form")


def test_key_as_server_ca(pem: Path, tmp_path: Path) -> None:
    ca = write(tmp_path / "ca.pem", key_bytes(pem))
    (fault,) = faults_in(server_config(ca=str(ca)))
    assert fault.startswith(f"backends.dovecot.tls.ca: {ca}: no certificate in PEM form")


def test_fault_names_the_server_with_the_file(tmp_path: Path) -> None:
    own, shared = tmp_path / "own.pem", tmp_path / "shared.pem"
    config = startup_config(
        backends__dovecot__tls={"ca": str(shared)},
        backends__dovecot__servers=[
            "192.0.2.1",
            {"address": "192.0.2.2", "tls": {"ca": str(own)}},
            "192.0.2.3",
        ],
    )
    assert faults_in(config) == [
        f"backends.dovecot.tls.ca: {shared}: No such file or directory",
        f"backends.dovecot.servers[1].tls.ca: {own}: No such file or directory",
    ]


# Client certificates: how those of clients are verified, and which one is sent to servers.


def verifying_bind_config(pem: Path, **tls: Any) -> mailproxy.Config:
    return bind_config(pem, client_verify="required", **tls)


def test_client_ca_and_crl_are_loaded(throw_away_ca: ThrowAwayCA, pem: Path, tmp_path: Path) -> None:
    ca, crl = str(throw_away_ca.pem), str(throw_away_ca.revoke(folder=tmp_path))
    offer = (
        load_and_check(verifying_bind_config(pem, client_ca=ca, client_crl=crl))
        .bind_terminators["imap", 0]
        .select(None)
    )
    assert offer is not None
    context = offer.context
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.verify_flags & ssl.VERIFY_CRL_CHECK_CHAIN == ssl.VERIFY_CRL_CHECK_CHAIN
    assert context.cert_store_stats() == {"x509": 1, "x509_ca": 1, "crl": 1}


def test_missing_client_ca_and_crl(pem: Path, tmp_path: Path) -> None:
    ca, crl = tmp_path / "ca.pem", tmp_path / "crl.pem"
    assert faults_in(verifying_bind_config(pem, client_ca=str(ca), client_crl=str(crl))) == [
        f"frontends.imap.tls.client_ca: {ca}: No such file or directory",
        f"frontends.imap.tls.client_crl: {crl}: No such file or directory",
    ]


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_invalid_client_ca_and_crl(pem: Path, tmp_path: Path, content: bytes) -> None:
    ca, crl = write(tmp_path / "ca.pem", content), write(tmp_path / "crl.pem", content)
    one, other = faults_in(verifying_bind_config(pem, client_ca=str(ca), client_crl=str(crl)))
    assert one.startswith(f"frontends.imap.tls.client_ca: {ca}: no certificate in PEM form")
    assert other.startswith(f"frontends.imap.tls.client_crl: {crl}: no revocation list in PEM form")


def test_swapped_client_ca_and_crl(throw_away_ca: ThrowAwayCA, pem: Path, tmp_path: Path) -> None:
    ca, crl = throw_away_ca.pem, throw_away_ca.revoke(folder=tmp_path)
    assert faults_in(verifying_bind_config(pem, client_ca=str(crl), client_crl=str(ca))) == [
        f"frontends.imap.tls.client_ca: {crl}: no certificate in PEM form",
        f"frontends.imap.tls.client_crl: {ca}: no revocation list in PEM form",
    ]


def test_unreadable_client_ca(throw_away_ca: ThrowAwayCA, open_folder: Path) -> None:
    pem = write(open_folder / "imap.pem", throw_away_ca.issue("imap.example.com").read_bytes())
    ca = write(open_folder / "ca.pem", throw_away_ca.pem.read_bytes())
    pem.chmod(0o644)
    ca.chmod(0)
    with unprivileged():
        assert faults_in(verifying_bind_config(pem, client_ca=str(ca))) == [
            f"frontends.imap.tls.client_ca: {ca}: Permission denied"
        ]


CLIENT_CERTIFICATE = "backends.dovecot.tls.certificate"


def test_client_certificate_for_servers_is_loaded(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    pem = throw_away_ca.issue_client("proxy", folder=tmp_path)
    store = load_and_check(server_config(certificate=str(pem)))
    assert str(store.certificates[pem, None][0]) == CLIENT_CERTIFICATE
    chain, key = (
        write(tmp_path / "chain.pem", chain_bytes(pem)),
        write(tmp_path / "secret.pem", key_bytes(pem)),
    )
    assert faults_in(server_config(certificate=str(chain), key=str(key))) == []


def test_key_file_beside_client_certificate(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    pem = throw_away_ca.issue_client("proxy", folder=tmp_path)
    write(tmp_path / "pair.key", key_bytes(pem))
    assert faults_in(server_config(certificate=str(write(tmp_path / "pair.crt", chain_bytes(pem))))) == []


def test_missing_client_certificate(tmp_path: Path) -> None:
    file = tmp_path / "proxy.pem"
    assert faults_in(server_config(certificate=str(file))) == [
        f"{CLIENT_CERTIFICATE}: {file}: No such file or directory"
    ]


def test_folder_as_client_certificate(tmp_path: Path) -> None:
    assert faults_in(server_config(certificate=str(tmp_path))) == [
        f"{CLIENT_CERTIFICATE}: {tmp_path}: Is a directory"
    ]


def test_invalid_client_certificate(tmp_path: Path) -> None:
    file = write(tmp_path / "proxy.pem", b"hello")
    assert faults_in(server_config(certificate=str(file))) == [
        f"{CLIENT_CERTIFICATE}: {file}: has no certificate in PEM form"
    ]


def test_unreadable_client_certificate(throw_away_ca: ThrowAwayCA, open_folder: Path) -> None:
    file = write(open_folder / "proxy.pem", throw_away_ca.issue_client("proxy").read_bytes())
    file.chmod(0)
    with unprivileged():
        assert faults_in(server_config(certificate=str(file))) == [
            f"{CLIENT_CERTIFICATE}: {file}: Permission denied"
        ]


def test_unusable_client_certificate_keys(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    pem = throw_away_ca.issue_client("proxy", folder=tmp_path)
    chain = write(tmp_path / "chain.pem", chain_bytes(pem))
    missing, invalid = tmp_path / "missing.key", write(tmp_path / "none.key", b"hello")
    other = write(tmp_path / "other.key", key_bytes(throw_away_ca.issue_client("other", folder=tmp_path)))
    mismatch = f"the private key in {other} does not belong to the certificate, which must be the first one in its file"
    for key, message in (
        (missing, f"{missing}: No such file or directory"),
        (invalid, f"{chain}: {invalid} has no private key in PEM form"),
        (other, f"{chain}: {mismatch}"),
    ):
        assert faults_in(server_config(certificate=str(chain), key=str(key))) == [
            f"{CLIENT_CERTIFICATE}: {message}"
        ]


def test_client_certificate_without_its_key(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    file = write(tmp_path / "chain.pem", chain_bytes(throw_away_ca.issue_client("proxy", folder=tmp_path)))
    remedy = "put it into the same file, beside it with the suffix .key, or name it as key"
    assert faults_in(server_config(certificate=str(file))) == [
        f"{CLIENT_CERTIFICATE}: {file}: has no private key: {remedy}"
    ]


def test_expired_client_certificate_is_reported(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    file = throw_away_ca.issue_client(
        "proxy", folder=tmp_path, not_after=datetime.now(UTC) - timedelta(days=1)
    )
    (fault,) = load_and_check(server_config(certificate=str(file))).expired
    assert str(fault).startswith(f"{CLIENT_CERTIFICATE}: {file}: is not in date: ")


# Users and the log.


def test_unknown_users_and_groups(tmp_path: Path) -> None:
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
    assert sorted(faults_in(config)) == [
        'frontends.imap.bind[0].unix_group: there is no group "no-group-there" on this machine',
        'frontends.imap.bind[0].unix_user: there is no user "nobody-there" on this machine',
        'process.group: there is no group "no-group-here" on this machine',
        'process.user: there is no user "nobody-here" on this machine',
    ]


def test_log_file_without_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "mail.log"
    assert faults_in(startup_config(log__to=str(file))) == [
        f"log.to: {file}: there is no folder {file.parent}"
    ]


def test_folder_as_log_file(tmp_path: Path) -> None:
    assert faults_in(startup_config(log__to=str(tmp_path))) == [f"log.to: {tmp_path}: is a folder"]


def test_unwritable_log_file(open_folder: Path) -> None:
    file = write(open_folder / "mail.log")
    file.chmod(0o444)
    open_folder.chmod(0o555)
    with unprivileged():
        assert faults_in(startup_config(log__to=str(file))) == [f"log.to: {file}: cannot be written"]
        assert faults_in(startup_config(log__to=str(file.with_name("new.log")))) == [
            f"log.to: {file.with_name('new.log')}: cannot be written"
        ]


def test_log_file_in_a_closed_folder(open_folder: Path) -> None:
    closed = open_folder / "closed"
    (closed / "logs").mkdir(parents=True)
    closed.chmod(0)
    try:
        with unprivileged():
            (fault,) = faults_in(startup_config(log__to=str(closed / "logs" / "mail.log")))
        assert fault.startswith(f"log.to: {closed}/logs/mail.log: ")
    finally:
        closed.chmod(0o755)


async def test_log_file_failing_at_open_is_a_fault() -> None:
    # Even root cannot create files there, although the permission bits allow it.
    config = startup_config(log__to="/proc/mail.log")
    with pytest.raises(ConfigError) as caught:
        await mailproxy.serve(config)
    assert str(caught.value).startswith("log.to: /proc/mail.log: ")


# All at once.


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
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
    assert faults_in(config) == [
        f"frontends.imap.tls.certificates[0]: {tmp_path}/a.pem: No such file or directory",
        f"frontends.imap.tls.certificates[1]: {tmp_path}/b.pem: No such file or directory",
        f"frontends.imap.tls.client_ca: {tmp_path}/clients.pem: No such file or directory",
        f"frontends.imap.tls.client_crl: {tmp_path}/crl.pem: No such file or directory",
        f"backends.dovecot.tls.ca: {tmp_path}/ca.pem: No such file or directory",
        f"backends.dovecot.tls.certificate: {tmp_path}/proxy.pem: No such file or directory",
        'process.user: there is no user "nobody-here" on this machine',
        f"log.to: {tmp_path}: is a folder",
    ]


def test_check_command_reports_faults_with_positions(tmp_path: Path) -> None:
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


def test_loading_changes_no_files(pem: Path, tmp_path: Path) -> None:
    def file_metadata() -> dict[Path, tuple[int, ...]]:
        """Return the metadata of all files, without the access time, which reading changes."""
        files = {file: file.stat() for file in tmp_path.rglob("*")}
        return {
            file: (
                status.st_mode,
                status.st_ino,
                status.st_uid,
                status.st_gid,
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
            )
            for file, status in files.items()
        }

    before = file_metadata()
    store = load_and_check(
        startup_config(
            log__to=str(tmp_path / "mail.log"),
            frontends__imap__bind=[
                {"address": f"unix:{tmp_path}/imap.sock", "mode": "tls", "tls": {"certificates": [str(pem)]}}
            ],
        )
    )
    assert isinstance(store, CertificateStore)
    assert file_metadata() == before
    assert stat.S_IMODE(pem.stat().st_mode) == 0o600


# Paths in messages.


def test_paths_in_messages_are_normalized(tmp_path: Path) -> None:
    for folder in ("pki", "cfg"):
        (tmp_path / folder).mkdir()
    missing = f"{tmp_path}/pki/../cfg/../pki/x.pem"
    config = startup_config(
        log__to=f"{tmp_path}/cfg/../logs/mail.log",
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        frontends__imap__tls={"certificates": [missing]},
    )
    assert faults_in(config) == [
        f"{CERTIFICATE}: {tmp_path}/pki/x.pem: No such file or directory",
        f"log.to: {tmp_path}/logs/mail.log: there is no folder {tmp_path}/logs",
    ]


def test_path_through_a_link_is_not_normalized(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "live").mkdir(parents=True)
    (tmp_path / "live").symlink_to(tmp_path / "elsewhere" / "live")
    missing = f"{tmp_path}/live/../x.pem"  # resolves to a path in elsewhere/
    config = startup_config(
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        frontends__imap__tls={"certificates": [missing]},
    )
    assert faults_in(config) == [f"{CERTIFICATE}: {missing}: No such file or directory"]


def test_socket_as_log_file_suggests_syslog(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with socket.socket(socket.AF_UNIX) as log_socket:
        log_socket.bind(str(file))
        assert faults_in(startup_config(log__to=str(file))) == [
            f"log.to: {file}: is a socket, did you mean syslog:{file}?"
        ]
