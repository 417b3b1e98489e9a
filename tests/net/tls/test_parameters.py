"""TLS parameters: versions, ciphers, curves and tickets as configured reach clients and servers."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import frozen

from mailproxy.config import FrontendTls, ServerTls
from mailproxy.config.values import Text
from mailproxy.net.tls.certificate import read_certificate
from mailproxy.net.tls.context import TlsKeyError, make_client_context, set_parameters
from mailproxy.net.tls.terminator import Terminator
from mailproxy.testing import ThrowAwayCA, server_context
from tests.support.timeouts import TIMEOUT_S

needs_ciphersuites = pytest.mark.skipif(
    not hasattr(ssl.SSLContext, "set_ciphersuites"), reason="needs Python 3.15: SSLContext.set_ciphersuites"
)
needs_groups = pytest.mark.skipif(
    not hasattr(ssl.SSLContext, "set_groups"), reason="needs Python 3.15: SSLContext.set_groups"
)
needs_the_same_openssl = pytest.mark.skipif(
    ssl.OPENSSL_VERSION not in subprocess.run(["openssl", "version"], capture_output=True, text=True).stdout,
    reason=f"the openssl program does not use Python's {ssl.OPENSSL_VERSION}",
)


@frozen
class Handshake:
    """Facts of a handshake, as the client saw it. ``version`` is None if the handshake failed."""

    version: str | None = None
    cipher: str | None = None
    is_resumed: bool = False
    session: ssl.SSLSession | None = None
    has_ticket: bool = False


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> Handshake:
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with contextlib.suppress(OSError), server.wrap_socket(ours, server_side=True) as tls:
            tls.send(b"* OK ready\r\n")
            tls.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        theirs.settimeout(TIMEOUT_S)
        with client.wrap_socket(theirs, server_hostname="localhost", session=session) as tls:
            # The greeting arrives after the tickets of TLS 1.3.
            assert tls.recv(100) == b"* OK ready\r\n"
            cipher = tls.cipher()
            assert cipher is not None
            has_ticket = tls.session is not None and tls.session.has_ticket
            return Handshake(tls.version(), cipher[0], bool(tls.session_reused), tls.session, has_ticket)
    except ssl.SSLError:
        return Handshake()
    finally:
        theirs.close()
        thread.join()


Server = Callable[..., ssl.SSLContext]


@pytest.fixture(scope="module")
def rsa(throw_away_ca: ThrowAwayCA) -> Path:
    return throw_away_ca.issue("localhost", key_type="rsa")


@pytest.fixture
def bind(rsa: Path) -> Server:
    """Return the function that makes a bind's server context from its ``tls`` keys."""

    def make(**tls: object) -> ssl.SSLContext:
        offer = Terminator(FrontendTls(**tls), [read_certificate(rsa)]).select(None)  # type: ignore[arg-type]  # a few keys
        assert offer is not None
        return offer.context

    return make


def client(version: str = "1.2", ciphers: str | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    versions = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
    context.minimum_version = context.maximum_version = versions[version]
    if ciphers is not None:
        context.set_ciphers(ciphers)
    return context


# Ciphers.


def openssl_ciphers() -> list[str]:
    result = subprocess.run(["openssl", "ciphers", "DEFAULT"], capture_output=True, text=True, check=True)
    return result.stdout.strip().split(":")


@needs_the_same_openssl
def test_default_ciphers_match_openssl(bind: Server) -> None:
    client_context = make_client_context(ServerTls(verify="none"), None)
    for context in (bind(), client_context):
        assert [cipher["name"] for cipher in context.get_ciphers()] == openssl_ciphers()


@pytest.mark.parametrize("cipher", ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-RSA-AES256-SHA"])
def test_old_ciphers_are_accepted_as_in_openssl(bind: Server, rsa: Path, cipher: str) -> None:
    """Python's own cipher list, in the builds that have one, does not include these."""
    assert shake_hands(bind(), client("1.2", cipher)).cipher == cipher
    old = server_context(rsa)
    old.set_ciphers(cipher)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    ours = make_client_context(ServerTls(verify="none"), None)
    assert shake_hands(old, ours).cipher == cipher


def test_configured_cipher_is_the_only_one(bind: Server) -> None:
    server = bind(ciphers="ECDHE-RSA-AES128-GCM-SHA256")
    assert shake_hands(server, client("1.2")).cipher == "ECDHE-RSA-AES128-GCM-SHA256"
    assert shake_hands(server, client("1.2", "AES128-SHA")) == Handshake()


@needs_ciphersuites
def test_tls13_ciphersuites_are_set(bind: Server) -> None:
    server = bind(ciphersuites="TLS_CHACHA20_POLY1305_SHA256")
    assert shake_hands(server, client("1.3")).cipher == "TLS_CHACHA20_POLY1305_SHA256"
    with pytest.raises(TlsKeyError, match=r"knows no such cipher of TLS 1\.3"):
        bind(ciphersuites="NOPE")


@pytest.mark.skipif(hasattr(ssl.SSLContext, "set_ciphersuites"), reason="this Python can choose them")
@pytest.mark.parametrize("tls", [FrontendTls(ciphersuites=Text("x")), ServerTls(ciphersuites=Text("x"))])
def test_tls13_ciphersuites_rejected_by_old_python(tls: FrontendTls | ServerTls) -> None:
    with pytest.raises(
        TlsKeyError, match=r"of Python 3\.\d+ cannot choose ciphers of TLS 1\.3, .* 3\.15 can"
    ) as caught:
        set_parameters(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), tls)
    assert caught.value.key == "ciphersuites"


# Versions.


@pytest.mark.parametrize(
    ("tls", "versions"),
    [
        ({}, {"1.2", "1.3"}),
        ({"min_version": "1.3"}, {"1.3"}),
        ({"max_version": "1.2"}, {"1.2"}),
        ({"min_version": "1.3", "max_version": "1.3"}, {"1.3"}),
    ],
)
def test_configured_versions_are_accepted(
    bind: Server, rsa: Path, tls: dict[str, str], versions: set[str]
) -> None:
    server = bind(**tls)
    assert {version for version in ("1.2", "1.3") if shake_hands(server, client(version)).version} == versions
    ours = make_client_context(ServerTls(verify="none", **tls), None)  # type: ignore[arg-type]  # versions
    for version in ("1.2", "1.3"):
        theirs = server_context(rsa)
        theirs.minimum_version = theirs.maximum_version = client(version).maximum_version
        assert bool(shake_hands(theirs, ours).version) == (version in versions)


@pytest.mark.parametrize("table", [FrontendTls, ServerTls])
def test_max_version_below_min_version_is_rejected(table: type[FrontendTls | ServerTls]) -> None:
    with pytest.raises(TlsKeyError, match=r'"1\.2" is below min_version, which is "1\.3"') as caught:
        set_parameters(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), table(min_version="1.3", max_version="1.2"))
    assert caught.value.key == "max_version"


# Curves.


@pytest.mark.parametrize("curve", ["X25519", "P-384", "secp384r1"])
def test_configured_curve_is_the_only_one(bind: Server, rsa: Path, curve: str) -> None:
    matching, other = client("1.3"), client("1.3")
    matching.set_ecdh_curve({"P-384": "secp384r1"}.get(curve, curve))
    other.set_ecdh_curve("prime256v1")
    server = bind(curves=curve)
    assert shake_hands(server, matching).version == "TLSv1.3"
    assert shake_hands(server, other) == Handshake()
    ours, theirs = (
        make_client_context(ServerTls(verify="none", curves=Text(curve)), None),
        server_context(rsa),
    )
    theirs.set_ecdh_curve("prime256v1")
    assert shake_hands(theirs, ours) == Handshake()


@pytest.mark.parametrize("curve", ["NOPE", "\u00e9"])
def test_unknown_curve_is_rejected(curve: str) -> None:
    with pytest.raises(TlsKeyError, match="knows no such curve") as caught:
        set_parameters(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), FrontendTls(curves=Text(curve)))
    assert caught.value.key == "curves"


@needs_groups
def test_several_curves(bind: Server) -> None:
    server = bind(curves="X25519:P-384")
    for curve, is_accepted in (("X25519", True), ("secp384r1", True), ("prime256v1", False)):
        context = client("1.3")
        context.set_ecdh_curve(curve)
        assert bool(shake_hands(server, context).version) == is_accepted


@pytest.mark.skipif(hasattr(ssl.SSLContext, "set_groups"), reason="this Python can set several curves")
def test_several_curves_rejected_by_old_python() -> None:
    with pytest.raises(TlsKeyError, match=r"of Python 3\.\d+ cannot choose more than one curve") as caught:
        set_parameters(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), FrontendTls(curves=Text("X25519:P-256")))
    assert caught.value.key == "curves"


# Tickets.


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("tickets", [True, False])
def test_tickets_for_clients(bind: Server, version: str, tickets: bool) -> None:
    server, context = bind(tickets=tickets), client(version)
    first = shake_hands(server, context)
    assert first.has_ticket is tickets
    second = shake_hands(server, context, first.session)
    # In TLS 1.2 this process caches sessions itself.
    if tickets or version == "1.3":
        assert second.is_resumed is tickets


@pytest.mark.parametrize("tickets", [True, False])
def test_tickets_from_servers(rsa: Path, tickets: bool) -> None:
    theirs = server_context(rsa)
    theirs.maximum_version = ssl.TLSVersion.TLSv1_2
    ours = make_client_context(ServerTls(verify="none", tickets=tickets), None)
    assert shake_hands(theirs, ours).has_ticket is tickets
