"""Where TLS of clients ends: what is demanded of them holds whichever certificate they get; what is renewed holds from then on."""

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
    """Nothing here waits for ever."""
    nursery.start_soon(fail_after_timeout)


@frozen
class Seen:
    """What a client saw of a connection that came about."""

    names: list[str]
    alpn: str | None
    is_resumed: bool
    session: ssl.SSLSession | None
    certificate: bytes


@frozen
class Outcome:
    """What a handshake came to on both sides; ``shown`` is the certificate that the client has shown, DER."""

    facts: TlsInfo | None = None
    shown: bytes | None = None
    refusal: str = ""
    seen: Seen | None = None
    alert: str = ""

    @property
    def is_refused(self) -> bool:
        """Did both sides end it?"""
        assert (self.facts is None) == (self.seen is None) == bool(self.refusal) == bool(self.alert)
        return self.facts is None


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
        """A client that takes any certificate of ours, for whatever name it was issued."""
        context = self.ca.client_context(certificate)
        context.check_hostname = False
        if version is not None:
            context.minimum_version = context.maximum_version = VERSIONS[version]
        return context

    async def greet(
        self, client: ssl.SSLContext, name: str | None, session: ssl.SSLSession | None = None
    ) -> Outcome:
        """Let a client come, and greet it."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        outcome: dict[str, Any] = {}

        async def serve() -> None:
            offer = self.terminator.select(name and name.lower().rstrip("."))
            if offer is None:
                await trio.lowlevel.wait_readable(ours)  # its hello, which the name is from
                send_alert(ours, Alert.UNRECOGNIZED_NAME)
                ours.close()
                outcome["refusal"] = "no certificate for that name"
                return
            try:
                tls = await accept_tls(ours, offer.context)
                tls.certificates = offer.certificates
            except ClientHandshakeError as error:
                outcome["refusal"] = str(error)
                return
            with tls:
                outcome["facts"], outcome["shown"] = tls_info(tls), client_certificate(tls)
                tls.send(b"* OK ready\r\n")

        def connect() -> None:
            theirs.settimeout(10)
            try:
                with client.wrap_socket(theirs, server_hostname=name, session=session) as tls:
                    # only with the greeting it is sure that it was let in, and the ticket of TLS 1.3 is there
                    assert tls.recv(100) == b"* OK ready\r\n"
                    der = tls.getpeercert(binary_form=True)
                    assert der is not None
                    names = _names(x509.load_der_x509_certificate(der))
                    outcome["seen"] = Seen(
                        names, tls.selected_alpn_protocol(), bool(tls.session_reused), tls.session, der
                    )
            except ssl.SSLError as error:
                outcome["alert"] = error.reason or str(error)
            finally:
                theirs.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await trio.to_thread.run_sync(connect)
        return Outcome(**outcome)

    async def shown_to(self, name: str | None) -> bytes:
        """The certificate that a client gets in a full handshake, DER."""
        outcome = await self.greet(self.client(), name)
        assert outcome.seen is not None
        return outcome.seen.certificate


def _names(certificate: x509.Certificate) -> list[str]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return extension.value.get_values_for_type(x509.DNSName)


def served(name: str | None) -> list[str]:
    """The names of the certificate that belongs to a name."""
    return {"second.example": ["second.example"], "imap.third.example": ["*.third.example"]}.get(
        name or "", ["first.example"]
    )


@pytest.fixture
def foreign(tmp_path: Path) -> ThrowAwayCA:
    """A CA that nobody here knows."""
    (tmp_path / "foreign").mkdir()
    return ThrowAwayCA(tmp_path / "foreign")


# Client certificates.


@versions
@names
@pytest.mark.parametrize("verify", ["optional", "required"])
async def test_a_client_with_a_good_certificate_is_let_in_and_known(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, verify: str, name: str | None, version: str
) -> None:
    bind = Bind(throw_away_ca, tmp_path, client_verify=verify, client_ca=throw_away_ca.pem)
    alice = throw_away_ca.issue_client("alice@example.com", folder=tmp_path)
    outcome = await bind.greet(bind.client(alice, version=version), name)
    assert outcome.facts is not None
    assert outcome.seen is not None
    assert (outcome.facts.has_client_certificate, outcome.facts.client_name) == (True, "alice@example.com")
    assert outcome.shown == ssl.PEM_cert_to_DER_cert(_first_certificate(alice))
    assert outcome.seen.names == served(name)


def _first_certificate(pem: Path) -> str:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    text = pem.read_text()
    return text[text.index(begin) : text.index(end) + len(end)]


@versions
@names
async def test_a_client_without_a_certificate_is_refused_where_one_is_required(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    bind = Bind(throw_away_ca, tmp_path, client_verify="required", client_ca=throw_away_ca.pem)
    outcome = await bind.greet(bind.client(version=version), name)
    assert outcome.is_refused
    assert outcome.refusal == "peer did not return a certificate"


@versions
@names
async def test_a_client_without_a_certificate_is_let_in_where_one_is_optional(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    bind = Bind(throw_away_ca, tmp_path, client_verify="optional", client_ca=throw_away_ca.pem)
    outcome = await bind.greet(bind.client(version=version), name)
    assert outcome.facts is not None
    assert (outcome.facts.has_client_certificate, outcome.facts.client_name, outcome.shown) == (
        False,
        None,
        None,
    )


@versions
@names
@pytest.mark.parametrize("verify", ["optional", "required"])
async def test_a_client_with_a_bad_certificate_is_refused_even_where_none_is_needed(
    throw_away_ca: ThrowAwayCA, foreign: ThrowAwayCA, tmp_path: Path, *, verify: str, name: str | None, version: str
) -> None:  # fmt: skip
    bind = Bind(throw_away_ca, tmp_path, client_verify=verify, client_ca=throw_away_ca.pem)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    for bad, reason in (
        (foreign.issue_client("mallory"), "unable to get local issuer certificate"),
        (throw_away_ca.issue_client("bob", folder=tmp_path, not_after=yesterday), "certificate has expired"),
    ):
        outcome = await bind.greet(bind.client(bad, version=version), name)
        assert outcome.is_refused
        assert outcome.refusal == reason


@versions
@names
async def test_nobody_is_asked_where_it_is_not_said(
    throw_away_ca: ThrowAwayCA, foreign: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    bind = Bind(throw_away_ca, tmp_path)
    for certificate in (None, throw_away_ca.issue_client("alice"), foreign.issue_client("mallory")):
        outcome = await bind.greet(bind.client(certificate, version=version), name)
        assert outcome.facts is not None
        assert (outcome.facts.has_client_certificate, outcome.shown) == (False, None)


async def test_a_certificate_without_a_common_name_is_one_all_the_same(
    throw_away_ca: ThrowAwayCA, tmp_path: Path
) -> None:
    bind = Bind(throw_away_ca, tmp_path, client_verify="required", client_ca=throw_away_ca.pem)
    outcome = await bind.greet(bind.client(throw_away_ca.issue("client.example")), None)
    assert outcome.facts is not None
    assert (outcome.facts.has_client_certificate, outcome.facts.client_name) == (True, None)


# Revocation.


@versions
@names
async def test_who_is_revoked_is_refused_and_nobody_else(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    alice, bob = throw_away_ca.issue_client("alice"), throw_away_ca.issue_client("bob")
    crl = throw_away_ca.revoke(bob, folder=tmp_path)
    bind = Bind(
        throw_away_ca, tmp_path, client_verify="required", client_ca=throw_away_ca.pem, client_crl=crl
    )
    outcome = await bind.greet(bind.client(bob, version=version), name)
    assert outcome.is_refused
    assert outcome.refusal == "certificate revoked"
    assert not (await bind.greet(bind.client(alice, version=version), name)).is_refused


async def test_without_its_own_list_a_ca_is_not_believed(
    throw_away_ca: ThrowAwayCA, foreign: ThrowAwayCA, tmp_path: Path
) -> None:
    crl = foreign.revoke(folder=tmp_path)
    bind = Bind(
        throw_away_ca, tmp_path, client_verify="required", client_ca=throw_away_ca.pem, client_crl=crl
    )
    outcome = await bind.greet(bind.client(throw_away_ca.issue_client("alice")), None)
    assert outcome.is_refused
    assert outcome.refusal == "unable to get certificate CRL"


# Names.


@versions
async def test_strictly_only_names_that_a_certificate_has_are_served(
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
        assert outcome.seen is not None
        assert outcome.seen.names == served(name.lower())


@versions
@names
async def test_otherwise_who_asks_for_none_of_them_gets_the_first(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    bind = Bind(throw_away_ca, tmp_path)
    outcome = await bind.greet(bind.client(version=version), name)
    assert outcome.seen is not None
    assert outcome.facts is not None
    assert outcome.seen.names == served(name)


@names
async def test_the_facts_have_the_certificate_that_was_served(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None
) -> None:
    bind = Bind(throw_away_ca, tmp_path)
    outcome = await bind.greet(bind.client(), name)
    assert outcome.facts is not None
    assert outcome.facts.certificate is not None
    assert list(outcome.facts.certificate.names) == served(name)


async def test_which_of_two_it_was_openssl_does_not_tell(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    bind = Bind(throw_away_ca, tmp_path)
    throw_away_ca.issue("second.example", key_type="rsa", folder=bind.folder)
    bind.renew()
    for name, is_sure in (("second.example", False), ("first.example", True)):
        outcome = await bind.greet(bind.client(), name)
        assert outcome.facts is not None
        assert (outcome.facts.certificate is not None) == is_sure


@versions
@names
async def test_what_else_is_said_holds_for_every_certificate(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    bind = Bind(throw_away_ca, tmp_path, alpn=("imap", "pop3"), min_version="1.3")
    client = bind.client(version=version)
    client.set_alpn_protocols(["pop3", "imap"])
    outcome = await bind.greet(client, name)
    assert outcome.is_refused == (version == "1.2")
    if outcome.seen is not None and outcome.facts is not None:
        assert outcome.seen.alpn == outcome.facts.alpn == "imap"


# Resumption.


@versions
@names
async def test_a_resumed_session_still_has_its_client_certificate(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    bind = Bind(throw_away_ca, tmp_path, client_verify="required", client_ca=throw_away_ca.pem)
    client = bind.client(throw_away_ca.issue_client("alice", folder=tmp_path), version=version)
    first = await bind.greet(client, name)
    assert first.seen is not None
    again = await bind.greet(client, name, first.seen.session)
    assert first.facts is not None
    assert again.facts is not None
    assert again.seen is not None
    assert (first.facts.is_resumed, again.facts.is_resumed, again.seen.is_resumed) == (False, True, True)
    assert (again.facts.has_client_certificate, again.facts.client_name) == (True, "alice")
    assert again.shown == first.shown


@versions
@names
async def test_a_resumed_session_without_client_certificate_has_none(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    bind = Bind(throw_away_ca, tmp_path, client_verify="optional", client_ca=throw_away_ca.pem)
    client = bind.client(version=version)
    first = await bind.greet(client, name)
    assert first.seen is not None
    again = await bind.greet(client, name, first.seen.session)
    assert again.facts is not None
    assert (again.facts.is_resumed, again.facts.has_client_certificate) == (True, False)


@versions
async def test_no_session_of_a_bind_that_asks_for_nothing_leads_into_one_that_does(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, version: str
) -> None:
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
    lax = Bind(throw_away_ca, tmp_path / "open")
    strict = Bind(throw_away_ca, tmp_path / "closed", client_verify="required", client_ca=throw_away_ca.pem)
    client = lax.client(version=version)
    first = await lax.greet(client, None)
    assert first.seen is not None
    assert (await strict.greet(client, None, first.seen.session)).is_refused


# Renewing.


def replace(file: Path, new: Path) -> None:
    new.rename(file)


@names
async def test_a_certificate_that_is_renewed_is_served_from_then_on(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None
) -> None:
    bind = Bind(throw_away_ca, tmp_path)
    for number, served_name in enumerate(("first.example", "second.example", "*.third.example")):
        replace(
            bind.folder / f"{number}.pem", throw_away_ca.issue(served_name, "new.example", folder=tmp_path)
        )
    bind.renew()
    outcome = await bind.greet(bind.client(), name)
    assert outcome.seen is not None
    assert outcome.seen.names == [*served(name), "new.example"]


async def test_what_is_unchanged_keeps_its_context(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:  # noqa: ASYNC124 - its fixtures are Trio's
    bind = Bind(throw_away_ca, tmp_path)
    before = dict(bind.terminator._state.contexts)
    replace(bind.folder / "1.pem", throw_away_ca.issue("second.example", folder=tmp_path))
    bind.renew()
    after = dict(bind.terminator._state.contexts)
    assert len(before.keys() & after.keys()) == 2
    assert all(before[together] is after[together] for together in before.keys() & after.keys())


@versions
async def test_sessions_can_be_resumed_while_their_certificate_stays(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, version: str
) -> None:
    bind = Bind(throw_away_ca, tmp_path, client_verify="required", client_ca=throw_away_ca.pem)
    client = bind.client(throw_away_ca.issue_client("alice"), version=version)
    first = await bind.greet(client, "first.example")
    assert first.seen is not None
    replace(bind.folder / "1.pem", throw_away_ca.issue("second.example", folder=tmp_path))
    bind.renew()
    again = await bind.greet(client, "first.example", first.seen.session)
    assert again.facts is not None
    assert again.facts.is_resumed


@versions
@names
async def test_where_others_take_the_tickets_a_renewed_certificate_keeps_its_context(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    """Prepared apart, taken up where handshakes begin; until then nothing has changed."""
    bind = Bind(throw_away_ca, tmp_path)
    client, before = bind.client(version=version), dict(bind.terminator._state.contexts)
    first = await bind.greet(client, name)
    assert first.seen is not None
    for number, served_name in enumerate(("first.example", "second.example", "*.third.example")):
        replace(bind.folder / f"{number}.pem", throw_away_ca.issue(served_name, folder=tmp_path))
    take_up = bind.terminator.stage(list(bind.certificates()))
    assert bind.terminator._state.contexts == before
    assert (await bind.shown_to(name)) == first.seen.certificate
    take_up()
    assert set(bind.terminator._state.contexts.values()) == set(before.values())
    assert (await bind.shown_to(name)) != first.seen.certificate
    again = await bind.greet(client, name, first.seen.session)
    assert again.facts is not None
    assert again.facts.is_resumed


@pytest.mark.parametrize("change", ["names", "kind of key", "ca"])
async def test_where_more_than_dates_change_a_context_is_made_anew(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, change: str
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(throw_away_ca.pem.read_bytes())
    bind = Bind(throw_away_ca, tmp_path, client_verify="optional", client_ca=ca)
    before = bind.terminator.select(None)
    assert before is not None
    if change == "ca":
        (tmp_path / "again.pem").write_bytes(throw_away_ca.pem.read_bytes())
        replace(ca, tmp_path / "again.pem")
    else:
        names = ("first.example", "other.example") if change == "names" else ("first.example",)
        key_type: Any = "rsa" if change == "kind of key" else "ec"
        replace(bind.folder / "0.pem", throw_away_ca.issue(*names, key_type=key_type, folder=tmp_path))
    bind.terminator.stage(list(bind.certificates()))()
    after = bind.terminator.select(None)
    assert after is not None
    assert after.context is not before.context
    assert not (await bind.greet(bind.client(), "first.example")).is_refused


async def test_a_certificate_that_is_no_good_is_found_before_anything_changes(  # noqa: ASYNC124 - its fixtures are Trio's
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
async def test_who_is_revoked_meanwhile_does_not_come_back_with_his_old_session(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, name: str | None, version: str
) -> None:
    crl = throw_away_ca.revoke(folder=tmp_path)
    bind = Bind(
        throw_away_ca, tmp_path, client_verify="required", client_ca=throw_away_ca.pem, client_crl=crl
    )
    bob = throw_away_ca.issue_client("bob")
    client = bind.client(bob, version=version)
    first = await bind.greet(client, name)
    assert first.seen is not None
    replace(crl, throw_away_ca.revoke(bob, folder=tmp_path))
    bind.renew()
    again = await bind.greet(client, name, first.seen.session)
    assert again.is_refused
    assert again.refusal == "certificate revoked"


@names
async def test_a_ca_that_is_replaced_decides_who_comes_in(
    throw_away_ca: ThrowAwayCA, foreign: ThrowAwayCA, tmp_path: Path, name: str | None
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(throw_away_ca.pem.read_bytes())
    bind = Bind(throw_away_ca, tmp_path, client_verify="required", client_ca=ca)
    ours, theirs = throw_away_ca.issue_client("alice"), foreign.issue_client("eve")
    replace(ca, foreign.pem)
    bind.renew()
    assert (await bind.greet(bind.client(ours), name)).is_refused
    assert not (await bind.greet(bind.client(theirs), name)).is_refused


@pytest.mark.parametrize("which", ["client_ca", "client_crl"])
@pytest.mark.parametrize("content", [None, b"hello"])
async def test_renewing_with_what_is_no_good_raises_and_changes_nothing(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, which: str, content: bytes | None
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(throw_away_ca.pem.read_bytes())
    crl = throw_away_ca.revoke(folder=tmp_path)
    bind = Bind(throw_away_ca, tmp_path, client_verify="required", client_ca=ca, client_crl=crl)
    before = bind.terminator._state
    broken = ca if which == "client_ca" else crl
    broken.unlink()
    if content is not None:
        broken.write_bytes(content)
    replace(bind.folder / "0.pem", throw_away_ca.issue("new.example", folder=tmp_path))
    with pytest.raises(OSError):
        bind.renew()
    assert bind.terminator._state is before
    alice = throw_away_ca.issue_client("alice")
    outcome = await bind.greet(bind.client(alice), None)
    assert outcome.seen is not None
    assert outcome.seen.names == ["first.example"]


async def test_a_certificate_that_is_gone_takes_its_name_with_it(
    throw_away_ca: ThrowAwayCA, tmp_path: Path
) -> None:
    bind = Bind(throw_away_ca, tmp_path, strict_sni=True)
    (bind.folder / "1.pem").unlink()
    bind.renew()
    assert (await bind.greet(bind.client(), "second.example")).is_refused
    assert not (await bind.greet(bind.client(), "first.example")).is_refused


async def test_a_handshake_that_began_before_ends_well(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
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
