"""TLS termination: client certificates, CRLs, names, resumption, and renewal of files."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
import trio
from attrs import evolve, frozen
from cryptography import x509

from mailproxy.config import FrontendTls
from mailproxy.errors import ClientHandshakeError
from mailproxy.net.tls.certificate import read_certificate
from mailproxy.net.tls.close import Alert, send_alert
from mailproxy.net.tls.handshake import TlsInfo, accept_tls, tls_info
from mailproxy.net.tls.openssl import can_clear_auto_retry
from mailproxy.net.tls.terminator import Terminator
from mailproxy.net.tls.tls_socket import client_certificate
from mailproxy.testing import ThrowAwayCA
from tests.support.timeouts import fail_after_timeout

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
NAMES = (None, "first.example", "second.example", "imap.third.example", "nobody.example")
Version = Literal["1.2", "1.3"]

versions = pytest.mark.parametrize("version", VERSIONS)
names = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Fail tests that hang."""
    nursery.start_soon(fail_after_timeout)


@frozen
class ClientView:
    """Facts of a successful handshake, as the client saw them. ``sent`` is the number of certificates it got."""

    names: list[str]
    sent: int
    alpn: str | None
    is_resumed: bool
    session: ssl.SSLSession | None
    certificate: bytes


@frozen
class Outcome:
    """Results of a handshake on both sides.

    ``client_certificate`` is the certificate that the client sent, in DER. ``server_error`` and ``alert``
    are empty if the handshake succeeded.
    """

    info: TlsInfo | None = None
    client_certificate: bytes | None = None
    server_error: str = ""
    client_view: ClientView | None = None
    alert: str = ""

    @property
    def is_refused(self) -> bool:
        """Whether the handshake failed, on both sides."""
        assert (
            (self.info is None) == (self.client_view is None) == bool(self.server_error) == bool(self.alert)
        )
        return self.info is None


class Bind:
    """Three certificates, of which the first is the default, in files that can be replaced."""

    def __init__(self, ca: ThrowAwayCA, folder: Path, **tls: Any) -> None:
        self.ca = ca
        self.folder = folder / "bind"
        self.folder.mkdir()
        for number, name in enumerate(("first.example", "second.example", "*.third.example")):
            ca.issue(name, folder=folder).rename(self.folder / f"{number}.pem")
        self.tls = FrontendTls(**tls)
        self.terminator = Terminator(self.tls, list(self.certificates()))

    def certificates(self) -> Iterator[Any]:
        for file in sorted(self.folder.glob("*.pem")):
            yield read_certificate(file)

    def renew(self) -> None:
        self.terminator.reload(list(self.certificates()))

    def client(self, certificate: Path | None = None, *, version: str | None = None) -> ssl.SSLContext:
        """Return a client context that accepts certificates of this CA for any name."""
        context = self.ca.client_context(certificate)
        context.check_hostname = False
        if version is not None:
            context.minimum_version = context.maximum_version = VERSIONS[version]
        return context

    async def greet(
        self, client: ssl.SSLContext, name: str | None, session: ssl.SSLSession | None = None
    ) -> Outcome:
        """Connect a client, and send it a greeting."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        outcome: dict[str, Any] = {}

        async def serve() -> None:
            offer = self.terminator.select(name and name.lower().rstrip("."))
            if offer is None:
                await trio.lowlevel.wait_readable(ours)  # its ClientHello, which contains the name
                send_alert(ours, Alert.UNRECOGNIZED_NAME)
                ours.close()
                outcome["server_error"] = "no certificate for that name"
                return
            try:
                tls = await accept_tls(ours, offer.context)
                tls.certificates = offer.certificates
            except ClientHandshakeError as error:
                outcome["server_error"] = str(error)
                return
            with tls:
                outcome["info"], outcome["client_certificate"] = tls_info(tls), client_certificate(tls)
                tls.send(b"* OK ready\r\n")

        def connect() -> None:
            theirs.settimeout(10)
            try:
                with client.wrap_socket(theirs, server_hostname=name, session=session) as tls:
                    # Only the greeting proves that the client was accepted, and it follows the TLS 1.3 ticket.
                    assert tls.recv(100) == b"* OK ready\r\n"
                    der = tls.getpeercert(binary_form=True)
                    assert der is not None
                    names = _names(x509.load_der_x509_certificate(der))
                    sent = len(tls._sslobj.get_unverified_chain() or ())  # type: ignore[attr-defined]
                    outcome["client_view"] = ClientView(
                        names, sent, tls.selected_alpn_protocol(), bool(tls.session_reused), tls.session, der
                    )
            except ssl.SSLError as error:
                outcome["alert"] = error.reason or str(error)
            finally:
                theirs.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await trio.to_thread.run_sync(connect)
        return Outcome(**outcome)

    async def served_certificate(self, name: str | None) -> bytes:
        """Return the certificate that a client gets in a full handshake, in DER."""
        outcome = await self.greet(self.client(), name)
        assert outcome.client_view is not None
        return outcome.client_view.certificate


def _names(certificate: x509.Certificate) -> list[str]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return extension.value.get_values_for_type(x509.DNSName)


def served_names(name: str | None) -> list[str]:
    """Return the names of the certificate that is served for a name."""
    return {"second.example": ["second.example"], "imap.third.example": ["*.third.example"]}.get(
        name or "", ["first.example"]
    )


@pytest.fixture
def untrusted_ca(tmp_path: Path) -> ThrowAwayCA:
    """A CA that the bind does not trust."""
    (tmp_path / "foreign").mkdir()
    return ThrowAwayCA(tmp_path / "foreign")


# Client certificates.


@versions
@names
@pytest.mark.parametrize("verify", ["optional", "required"])
async def test_valid_client_certificate_is_accepted_and_reported(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, verify: str, name: str | None, version: str
) -> None:
    bind = Bind(throw_away_ca, tmp_path, client_verify=verify, client_ca=throw_away_ca.pem)
    alice = throw_away_ca.issue_client("alice@example.com", folder=tmp_path)
    outcome = await bind.greet(bind.client(alice, version=version), name)
    assert outcome.info is not None
    assert outcome.client_view is not None
    assert (outcome.info.has_client_certificate, outcome.info.client_name) == (True, "alice@example.com")
    assert outcome.client_certificate == ssl.PEM_cert_to_DER_cert(_first_certificate(alice))
    assert outcome.client_view.names == served_names(name)


def _first_certificate(pem: Path) -> str:
    start, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    text = pem.read_text()
    return text[text.index(start) : text.index(end) + len(end)]


@versions
@names
async def test_missing_required_client_certificate_is_rejected(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    bind = Bind(throw_away_ca, tmp_path, client_verify="required", client_ca=throw_away_ca.pem)
    outcome = await bind.greet(bind.client(version=version), name)
    assert outcome.is_refused
    assert outcome.server_error == "peer did not return a certificate"


@versions
@names
async def test_missing_optional_client_certificate_is_accepted(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    bind = Bind(throw_away_ca, tmp_path, client_verify="optional", client_ca=throw_away_ca.pem)
    outcome = await bind.greet(bind.client(version=version), name)
    assert outcome.info is not None
    assert (outcome.info.has_client_certificate, outcome.info.client_name, outcome.client_certificate) == (
        False,
        None,
        None,
    )


@pytest.mark.skipif(not can_clear_auto_retry(), reason="this Python has OpenSSL built in")
@versions
@names
async def test_no_client_ca_is_sent_with_the_certificate(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    """The file has the certificate alone. Its issuer is known, but only as the CA of client certificates."""
    bind = Bind(throw_away_ca, tmp_path, client_verify="optional", client_ca=throw_away_ca.pem)
    outcome = await bind.greet(bind.client(version=version), name)
    assert outcome.client_view is not None
    assert outcome.client_view.sent == 1


@versions
@names
@pytest.mark.parametrize("verify", ["optional", "required"])
async def test_invalid_client_certificate_is_rejected_even_if_optional(
    throw_away_ca: ThrowAwayCA, untrusted_ca: ThrowAwayCA, tmp_path: Path, *, verify: str, name: str | None, version: str
) -> None:  # fmt: skip
    bind = Bind(throw_away_ca, tmp_path, client_verify=verify, client_ca=throw_away_ca.pem)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    for bad, reason in (
        (untrusted_ca.issue_client("mallory"), "unable to get local issuer certificate"),
        (throw_away_ca.issue_client("bob", folder=tmp_path, not_after=yesterday), "certificate has expired"),
    ):
        outcome = await bind.greet(bind.client(bad, version=version), name)
        assert outcome.is_refused
        assert outcome.server_error == reason


@versions
@names
async def test_client_certificate_is_not_requested_by_default(
    throw_away_ca: ThrowAwayCA, untrusted_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    bind = Bind(throw_away_ca, tmp_path)
    for certificate in (None, throw_away_ca.issue_client("alice"), untrusted_ca.issue_client("mallory")):
        outcome = await bind.greet(bind.client(certificate, version=version), name)
        assert outcome.info is not None
        assert (outcome.info.has_client_certificate, outcome.client_certificate) == (False, None)


async def test_client_certificate_without_common_name_is_accepted(
    throw_away_ca: ThrowAwayCA, tmp_path: Path
) -> None:
    bind = Bind(throw_away_ca, tmp_path, client_verify="required", client_ca=throw_away_ca.pem)
    outcome = await bind.greet(bind.client(throw_away_ca.issue("client.example")), None)
    assert outcome.info is not None
    assert (outcome.info.has_client_certificate, outcome.info.client_name) == (True, None)


# Revocation.


@versions
@names
async def test_only_revoked_client_certificate_is_rejected(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    alice, bob = throw_away_ca.issue_client("alice"), throw_away_ca.issue_client("bob")
    crl = throw_away_ca.revoke(bob, folder=tmp_path)
    bind = Bind(
        throw_away_ca, tmp_path, client_verify="required", client_ca=throw_away_ca.pem, client_crl=crl
    )
    outcome = await bind.greet(bind.client(bob, version=version), name)
    assert outcome.is_refused
    assert outcome.server_error == "certificate revoked"
    assert not (await bind.greet(bind.client(alice, version=version), name)).is_refused


async def test_ca_without_crl_is_rejected(
    throw_away_ca: ThrowAwayCA, untrusted_ca: ThrowAwayCA, tmp_path: Path
) -> None:
    crl = untrusted_ca.revoke(folder=tmp_path)
    bind = Bind(
        throw_away_ca, tmp_path, client_verify="required", client_ca=throw_away_ca.pem, client_crl=crl
    )
    outcome = await bind.greet(bind.client(throw_away_ca.issue_client("alice")), None)
    assert outcome.is_refused
    assert outcome.server_error == "unable to get certificate CRL"


# Names.


@versions
async def test_strict_sni_rejects_unknown_names(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, version: str
) -> None:
    bind = Bind(throw_away_ca, tmp_path, strict_sni=True)
    client = bind.client(version=version)
    for name in (None, "nobody.example", "a.b.third.example", "third.example"):
        outcome = await bind.greet(client, name)
        assert outcome.is_refused
        assert outcome.alert == "TLSV1_UNRECOGNIZED_NAME"
    for name in ("first.example", "SECOND.example", "imap.third.example"):
        outcome = await bind.greet(client, name)
        assert outcome.client_view is not None
        assert outcome.client_view.names == served_names(name.lower())


@versions
@names
async def test_unknown_name_gets_first_certificate(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    bind = Bind(throw_away_ca, tmp_path)
    outcome = await bind.greet(bind.client(version=version), name)
    assert outcome.client_view is not None
    assert outcome.info is not None
    assert outcome.client_view.names == served_names(name)


@names
async def test_tls_info_has_served_certificate(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None
) -> None:
    bind = Bind(throw_away_ca, tmp_path)
    outcome = await bind.greet(bind.client(), name)
    assert outcome.info is not None
    assert outcome.info.certificate is not None
    assert list(outcome.info.certificate.names) == served_names(name)


async def test_certificate_is_unknown_with_two_key_types(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    bind = Bind(throw_away_ca, tmp_path)
    throw_away_ca.issue("second.example", key_type="rsa", folder=bind.folder)
    bind.renew()
    for name, is_known in (("second.example", False), ("first.example", True)):
        outcome = await bind.greet(bind.client(), name)
        assert outcome.info is not None
        assert (outcome.info.certificate is not None) == is_known


@versions
@names
async def test_alpn_and_version_apply_to_every_certificate(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    bind = Bind(throw_away_ca, tmp_path, alpn=("imap", "pop3"), min_version="1.3")
    client = bind.client(version=version)
    client.set_alpn_protocols(["pop3", "imap"])
    outcome = await bind.greet(client, name)
    assert outcome.is_refused == (version == "1.2")
    if outcome.client_view is not None and outcome.info is not None:
        assert outcome.client_view.alpn == outcome.info.alpn == "imap"


# Resumption.


@versions
@names
async def test_resumed_session_keeps_client_certificate(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    bind = Bind(throw_away_ca, tmp_path, client_verify="required", client_ca=throw_away_ca.pem)
    client = bind.client(throw_away_ca.issue_client("alice", folder=tmp_path), version=version)
    first = await bind.greet(client, name)
    assert first.client_view is not None
    resumed = await bind.greet(client, name, first.client_view.session)
    assert first.info is not None
    assert resumed.info is not None
    assert resumed.client_view is not None
    assert (first.info.is_resumed, resumed.info.is_resumed, resumed.client_view.is_resumed) == (
        False,
        True,
        True,
    )
    assert (resumed.info.has_client_certificate, resumed.info.client_name) == (True, "alice")
    assert resumed.client_certificate == first.client_certificate


@versions
@names
async def test_resumed_session_without_client_certificate(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    bind = Bind(throw_away_ca, tmp_path, client_verify="optional", client_ca=throw_away_ca.pem)
    client = bind.client(version=version)
    first = await bind.greet(client, name)
    assert first.client_view is not None
    resumed = await bind.greet(client, name, first.client_view.session)
    assert resumed.info is not None
    assert (resumed.info.is_resumed, resumed.info.has_client_certificate) == (True, False)


@versions
async def test_session_of_permissive_bind_fails_at_strict_bind(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, version: str
) -> None:
    for name in ("lax", "strict"):
        (tmp_path / name).mkdir()
    permissive = Bind(throw_away_ca, tmp_path / "lax")
    strict = Bind(throw_away_ca, tmp_path / "strict", client_verify="required", client_ca=throw_away_ca.pem)
    client = permissive.client(version=version)
    first = await permissive.greet(client, None)
    assert first.client_view is not None
    assert (await strict.greet(client, None, first.client_view.session)).is_refused


# Renewal.


def replace(file: Path, new: Path) -> None:
    new.rename(file)


@names
async def test_renewed_certificate_is_served(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None
) -> None:
    bind = Bind(throw_away_ca, tmp_path)
    for number, served_name in enumerate(("first.example", "second.example", "*.third.example")):
        replace(
            bind.folder / f"{number}.pem", throw_away_ca.issue(served_name, "new.example", folder=tmp_path)
        )
    bind.renew()
    outcome = await bind.greet(bind.client(), name)
    assert outcome.client_view is not None
    assert outcome.client_view.names == [*served_names(name), "new.example"]


async def test_unchanged_certificates_keep_their_context(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:  # noqa: ASYNC124 - its fixtures are Trio's
    bind = Bind(throw_away_ca, tmp_path)
    before = dict(bind.terminator._state.contexts)
    replace(bind.folder / "1.pem", throw_away_ca.issue("second.example", folder=tmp_path))
    bind.renew()
    after = dict(bind.terminator._state.contexts)
    assert len(before.keys() & after.keys()) == 2
    assert all(
        before[certificate_set] is after[certificate_set] for certificate_set in before.keys() & after.keys()
    )


@versions
async def test_unchanged_certificate_allows_resumption_after_reload(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, version: str
) -> None:
    bind = Bind(throw_away_ca, tmp_path, client_verify="required", client_ca=throw_away_ca.pem)
    client = bind.client(throw_away_ca.issue_client("alice"), version=version)
    first = await bind.greet(client, "first.example")
    assert first.client_view is not None
    replace(bind.folder / "1.pem", throw_away_ca.issue("second.example", folder=tmp_path))
    bind.renew()
    resumed = await bind.greet(client, "first.example", first.client_view.session)
    assert resumed.info is not None
    assert resumed.info.is_resumed


@versions
@names
async def test_staged_renewal_keeps_contexts_and_tickets(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    """A renewal is prepared apart, and applied where handshakes begin.

    Until then nothing changes. The context stays, so other processes still accept its session tickets.
    """
    bind = Bind(throw_away_ca, tmp_path)
    client, before = bind.client(version=version), dict(bind.terminator._state.contexts)
    first = await bind.greet(client, name)
    assert first.client_view is not None
    for number, served_name in enumerate(("first.example", "second.example", "*.third.example")):
        replace(bind.folder / f"{number}.pem", throw_away_ca.issue(served_name, folder=tmp_path))
    apply = bind.terminator.stage(list(bind.certificates()))
    assert bind.terminator._state.contexts == before
    assert (await bind.served_certificate(name)) == first.client_view.certificate
    apply()
    assert set(bind.terminator._state.contexts.values()) == set(before.values())
    assert (await bind.served_certificate(name)) != first.client_view.certificate
    resumed = await bind.greet(client, name, first.client_view.session)
    assert resumed.info is not None
    assert resumed.info.is_resumed


@pytest.mark.parametrize("change", ["names", "key type", "ca"])
async def test_changed_names_key_or_ca_replace_context(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, change: str
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(throw_away_ca.pem.read_bytes())
    bind = Bind(throw_away_ca, tmp_path, client_verify="optional", client_ca=ca)
    before = bind.terminator.select(None)
    assert before is not None
    if change == "ca":
        (tmp_path / "copy.pem").write_bytes(throw_away_ca.pem.read_bytes())
        replace(ca, tmp_path / "copy.pem")
    else:
        names = ("first.example", "other.example") if change == "names" else ("first.example",)
        key_type: Any = "rsa" if change == "key type" else "ec"
        replace(bind.folder / "0.pem", throw_away_ca.issue(*names, key_type=key_type, folder=tmp_path))
    bind.terminator.stage(list(bind.certificates()))()
    after = bind.terminator.select(None)
    assert after is not None
    assert after.context is not before.context
    assert not (await bind.greet(bind.client(), "first.example")).is_refused


async def test_staging_invalid_certificate_changes_nothing(  # noqa: ASYNC124 - its fixtures are Trio's
    throw_away_ca: ThrowAwayCA, tmp_path: Path
) -> None:
    bind = Bind(throw_away_ca, tmp_path)
    before, other = bind.terminator._state, throw_away_ca.issue("other.example", folder=tmp_path)
    certificate = evolve(next(bind.certificates()), key_pem=other.read_bytes(), stamps=())
    with pytest.raises(ssl.SSLError):
        bind.terminator.stage([certificate])
    assert bind.terminator._state is before


@versions
@names
async def test_revoked_client_cannot_resume_its_session(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    crl = throw_away_ca.revoke(folder=tmp_path)
    bind = Bind(
        throw_away_ca, tmp_path, client_verify="required", client_ca=throw_away_ca.pem, client_crl=crl
    )
    bob = throw_away_ca.issue_client("bob")
    client = bind.client(bob, version=version)
    first = await bind.greet(client, name)
    assert first.client_view is not None
    replace(crl, throw_away_ca.revoke(bob, folder=tmp_path))
    bind.renew()
    resumed = await bind.greet(client, name, first.client_view.session)
    assert resumed.is_refused
    assert resumed.server_error == "certificate revoked"


@names
async def test_replaced_ca_decides_accepted_clients(
    throw_away_ca: ThrowAwayCA, untrusted_ca: ThrowAwayCA, tmp_path: Path, name: str | None
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(throw_away_ca.pem.read_bytes())
    bind = Bind(throw_away_ca, tmp_path, client_verify="required", client_ca=ca)
    ours, theirs = throw_away_ca.issue_client("alice"), untrusted_ca.issue_client("eve")
    replace(ca, untrusted_ca.pem)
    bind.renew()
    assert (await bind.greet(bind.client(ours), name)).is_refused
    assert not (await bind.greet(bind.client(theirs), name)).is_refused


@pytest.mark.parametrize("broken_key", ["client_ca", "client_crl"])
@pytest.mark.parametrize("content", [None, b"hello"])
async def test_reload_with_broken_file_changes_nothing(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, broken_key: str, content: bytes | None
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(throw_away_ca.pem.read_bytes())
    crl = throw_away_ca.revoke(folder=tmp_path)
    bind = Bind(throw_away_ca, tmp_path, client_verify="required", client_ca=ca, client_crl=crl)
    before = bind.terminator._state
    broken = ca if broken_key == "client_ca" else crl
    broken.unlink()
    if content is not None:
        broken.write_bytes(content)
    replace(bind.folder / "0.pem", throw_away_ca.issue("new.example", folder=tmp_path))
    with pytest.raises(OSError):
        bind.renew()
    assert bind.terminator._state is before
    alice = throw_away_ca.issue_client("alice")
    outcome = await bind.greet(bind.client(alice), None)
    assert outcome.client_view is not None
    assert outcome.client_view.names == ["first.example"]


async def test_removed_certificate_removes_its_name(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    bind = Bind(throw_away_ca, tmp_path, strict_sni=True)
    (bind.folder / "1.pem").unlink()
    bind.renew()
    assert (await bind.greet(bind.client(), "second.example")).is_refused
    assert not (await bind.greet(bind.client(), "first.example")).is_refused


async def test_handshake_in_progress_survives_reload(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    bind = Bind(throw_away_ca, tmp_path)
    offer = bind.terminator.select("first.example")
    assert offer is not None
    replace(bind.folder / "0.pem", throw_away_ca.issue("new.example", folder=tmp_path))
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    def connect() -> list[str]:
        theirs.settimeout(10)
        with bind.client().wrap_socket(theirs, server_hostname="first.example") as client:
            der = client.getpeercert(binary_form=True)
            assert der is not None
            return _names(x509.load_der_x509_certificate(der))

    async def accept() -> None:
        (await accept_tls(ours, offer.context)).close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        bind.renew()
        assert await trio.to_thread.run_sync(connect) == ["first.example"]
