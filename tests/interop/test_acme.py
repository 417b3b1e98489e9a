"""Certificates from Pebble, in strict mode: each challenge, the life cycle, several processes."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mailproxy.testing import ThrowAwayCA
from tests.support.acme.front import Answer, Front, waits
from tests.support.acme.pebble import Pebble
from tests.support.acme.site import (
    NAME,
    certificate_at,
    certificate_of_all_workers,
    certs,
    configuration,
    eventually,
    verified_certificate,
)
from tests.support.acme.zone import Zone
from tests.support.ports import free_port
from tests.support.program import TIMEOUT_S, Program
from tests.support.worker_group import GreetingServer

pytestmark = [pytest.mark.peers, pytest.mark.slow]

WORKERS = pytest.mark.parametrize("process", ["", "workers = 2"], ids=["one process", "two workers"])


@pytest.fixture
def server() -> Iterator[GreetingServer]:
    server = GreetingServer("* OK d1")
    yield server
    server.close()


@pytest.fixture
def ca(tmp_path: Path) -> ThrowAwayCA:
    return ThrowAwayCA(tmp_path)


@pytest.fixture
def port() -> int:
    return free_port()


@WORKERS
def test_tls_alpn_gives_verified_certificate(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer, process: str
) -> None:
    """From an empty folder, on the port that serves users, which get a self-signed certificate until then."""
    with Pebble(tmp_path, ca, tls_port=port) as pebble:
        text = configuration(
            directory=pebble.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server, process=process
        )  # fmt: skip
        with Program(text, tmp_path) as proxy:
            proxy.wait_for("mailproxy is ready")
            context = pebble.client_context()
            certificate = eventually(lambda: verified_certificate(port, context))
            proxy.wait_for(r"taken up: imap\.example\.com")
            for _ in range(20):  # all workers
                assert certificate_at(port, context=context) == certificate
            assert pebble.orders == 1
            proxy.wait_for("acme-challenge")
            with (  # users are served
                socket.create_connection(("127.0.0.1", port)) as plain,
                context.wrap_socket(plain, server_hostname=NAME) as tls,
            ):
                assert tls.recv(100) == b"* OK d1\r\n"


def test_challenge_is_answered_behind_proxy_header(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer
) -> None:
    """A load balancer in front sends PROXY headers, also in front of the authority's connections."""
    front_port = free_port()
    with Pebble(tmp_path, ca, tls_port=front_port) as pebble, balancer(front_port, port):
        text = configuration(
            directory=pebble.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server,
            process="workers = 2", bind='accept_proxy = ["127.0.0.0/8"]',
        )  # fmt: skip
        with Program(text, tmp_path) as proxy:
            context = pebble.client_context()
            eventually(lambda: verified_certificate(front_port, context))
            proxy.wait_for(
                r"imaps 192\.0\.2\.7:\d+ by 127\.0\.0\.1:\d+ for imap\.example\.com acme-challenge"
            )


@contextlib.contextmanager
def balancer(front_port: int, port: int) -> Iterator[None]:
    """Run a balancer in front of a port of the proxy."""
    with socket.create_server(("127.0.0.1", front_port)) as front:
        thread = threading.Thread(target=_add_headers, args=(front, port), daemon=True)
        thread.start()
        yield
        front.shutdown(socket.SHUT_RDWR)
        thread.join()  # before the descriptor is another socket's


def _add_headers(front: socket.socket, port: int) -> None:
    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as server:
            server.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.8 4000 443\r\n")
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join()

    while True:
        try:
            client, _ = front.accept()
        except OSError:
            return
        threading.Thread(target=serve, args=(client,), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@WORKERS
def test_http_listener_gives_verified_certificate(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer, process: str
) -> None:
    http = free_port()
    with Pebble(tmp_path, ca, http_port=http) as pebble:
        text = configuration(
            directory=pebble.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server, process=process,
            acme=f'challenge = "http-01"\nhttp = "127.0.0.1:{http}"',
        )  # fmt: skip
        with Program(text, tmp_path):
            context = pebble.client_context()
            eventually(lambda: verified_certificate(port, context))
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", http))


def test_webroot_gives_verified_certificate(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer
) -> None:
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    webroot = tmp_path / "www"
    webroot.mkdir()
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(webroot)))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    with Pebble(tmp_path, ca, http_port=web.server_address[1]) as pebble:
        text = configuration(
            directory=pebble.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server,
            acme=f'challenge = "http-01"\nwebroot = "{webroot}"',
        )  # fmt: skip
        with Program(text, tmp_path):
            context = pebble.client_context()
            eventually(lambda: verified_certificate(port, context))
    web.shutdown()
    web.server_close()
    assert not list((webroot / ".well-known" / "acme-challenge").iterdir())


def test_dns_hook_gives_wildcard_certificate(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer
) -> None:
    """The program tells Pebble's DNS server, which is asked for propagation as well."""
    with Pebble(tmp_path, ca) as pebble:
        hook = tmp_path / "hook"
        hook.write_text(
            f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
            'if [ "$1" = add ]; then command=set-txt; else command=clear-txt; fi\n'
            'curl -sf -d "{\\"host\\": \\"$2.\\", \\"value\\": \\"$3\\"}" '
            f"http://127.0.0.1:{pebble.dns_management}/$command\n"
        )
        hook.chmod(0o755)
        text = configuration(
            directory=pebble.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server,
            acme=f'challenge = "dns-01"\ndns = {{ hook = "{hook}", resolvers = ["{pebble.dns_server}"] }}',
            tls='names = ["*.example.com", "example.com"]',
        )  # fmt: skip
        with Program(text, tmp_path):
            context = pebble.client_context()
            certificate = eventually(lambda: verified_certificate(port, context))
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert set(names.get_values_for_type(x509.DNSName)) == {"*.example.com", "example.com"}
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    assert sorted(call[0] for call in calls) == ["add", "add", "remove", "remove"]
    assert {call[1] for call in calls} == {"_acme-challenge.example.com"}


def test_rfc2136_gives_verified_certificate(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer
) -> None:
    with (
        Zone(tmp_path, "_acme-challenge.imap 60 TXT other") as zone,
        Pebble(tmp_path, ca, dns=f"127.0.0.1:{zone.port}") as pebble,
    ):
        dns = (
            f'{{ rfc2136 = {{ server = "127.0.0.1:{zone.port}", zone = "example.com", key_name = "update", '
            f'key_file = "{zone.key_file}" }}, resolvers = ["127.0.0.1:{zone.port}"] }}'
        )
        text = configuration(
            directory=pebble.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server,
            acme=f'challenge = "dns-01"\ndns = {dns}',
        )  # fmt: skip
        with Program(text, tmp_path):
            context = pebble.client_context()
            eventually(lambda: verified_certificate(port, context))
        assert zone.texts("_acme-challenge.imap.example.com") == {
            "other"
        }  # ours is gone, the other one is not


def test_wrong_tsig_key_is_reported(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer
) -> None:
    with Zone(tmp_path) as zone, Pebble(tmp_path, ca) as pebble:
        (tmp_path / "wrong.key").write_text("d3Jvbmc=")
        dns = (
            f'{{ rfc2136 = {{ server = "127.0.0.1:{zone.port}", zone = "example.com", key_name = "update", '
            f'key_file = "{tmp_path}/wrong.key" }}, resolvers = ["127.0.0.1:{zone.port}"] }}'
        )
        text = configuration(
            directory=pebble.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server,
            acme=f'challenge = "dns-01"\ndns = {dns}',
        )  # fmt: skip
        with Program(text, tmp_path) as proxy:
            proxy.wait_for(r"cannot obtain imap\.example\.com .*: the update of example\.com at .* failed")
            assert "d3Jvbmc" not in proxy.text


def test_both_key_types_are_served_side_by_side(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer
) -> None:
    with Pebble(tmp_path, ca, tls_port=port) as pebble:
        text = configuration(
            directory=pebble.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server,
            acme='keys = ["ecdsa-p256", "rsa-2048"]', process="workers = 2",
        )  # fmt: skip
        with Program(text, tmp_path) as proxy:
            for key in ("rsa-2048", "ecdsa-p256"):
                eventually(lambda key=key: re.search(rf"taken up: .*{key}\.pem", proxy.text))  # type: ignore[misc]
            keys = set()
            for ciphers in ("ECDHE+ECDSA", "ECDHE+aRSA"):
                context = pebble.client_context()
                context.maximum_version = ssl.TLSVersion.TLSv1_2
                context.set_ciphers(ciphers)
                keys.add(type(certificate_at(port, context=context).public_key()))
            assert len(keys) == 2
            assert any(issubclass(key, rsa.RSAPublicKey) for key in keys)
            assert any(issubclass(key, ec.EllipticCurvePublicKey) for key in keys)


def test_names_of_routes_make_one_certificate(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer
) -> None:
    with Pebble(tmp_path, ca, tls_port=port) as pebble:
        text = configuration(
            directory=pebble.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server,
            tls='names = "routes"',
            frontend='routes = [{ sni = ["imap.example.com", "mail.example.com"], backend = "dovecot" }]',
        )  # fmt: skip
        with Program(text, tmp_path):
            context = pebble.client_context()
            for name in ("imap.example.com", "mail.example.com"):
                eventually(lambda name=name: verified_certificate(port, context, name))  # type: ignore[misc]
            assert pebble.orders == 1


def test_external_account_is_bound(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer
) -> None:
    key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
    (tmp_path / "hmac").write_text(f"{key}\n")
    with Pebble(tmp_path, ca, tls_port=port, eab={"kid-1": key}) as pebble:
        text = configuration(
            directory=pebble.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server,
            acme=f'eab = {{ key_id = "kid-1", hmac_file = "{tmp_path}/hmac" }}',
        )  # fmt: skip
        with Program(text, tmp_path) as proxy:
            context = pebble.client_context()
            eventually(lambda: verified_certificate(port, context))
            assert key not in proxy.text


def test_preferred_chain_is_chosen(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer
) -> None:
    with Pebble(tmp_path, ca, tls_port=port, environment={"PEBBLE_ALTERNATE_ROOTS": "2"}) as pebble:
        root = x509.load_pem_x509_certificate(pebble._get(f"https://127.0.0.1:{pebble._management}/roots/2"))
        (name,) = root.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        text = configuration(
            directory=pebble.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server,
            acme=f'preferred_chain = "{name.value!s}"',
        )  # fmt: skip
        with Program(text, tmp_path):
            context = ssl.create_default_context(
                cadata=pebble._get(f"https://127.0.0.1:{pebble._management}/roots/2").decode()
            )
            eventually(lambda: verified_certificate(port, context))


def test_refused_clients_are_closed_before_the_handshake(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer
) -> None:
    with Pebble(tmp_path, ca, tls_port=port) as pebble, Front(pebble, ca, tmp_path) as front:
        gate = threading.Event()
        front.rules.append(waits(gate))
        text = configuration(
            directory=front.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server,
            acme='until_ready = "refuse"',
        )  # fmt: skip
        with Program(text, tmp_path) as proxy:
            proxy.wait_for("mailproxy is ready")
            with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
                certificate_at(port)
            gate.set()
            context = pebble.client_context()
            eventually(lambda: verified_certificate(port, context))
            assert "the certificate has not been obtained yet" in proxy.text


def renewed(port: int, context: ssl.SSLContext, *before: x509.Certificate) -> x509.Certificate:
    """Return the certificate that is served after others. One of the workers may still have an earlier one."""

    def get() -> x509.Certificate | None:
        now = verified_certificate(port, context)
        return now if now not in before else None

    return eventually(get)


@WORKERS
def test_renewal_keeps_open_sessions(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer, process: str
) -> None:
    """200 open sessions over two renewals: none is lost, and the key stays (reuse_key)."""
    validity = 90 * 86400
    with Pebble(tmp_path, ca, tls_port=port, validity=validity) as pebble:
        text = configuration(
            directory=pebble.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server, process=process,
            acme=f'reuse_key = true\nrenew_before = "{validity - 8}s"',
        )  # fmt: skip
        with Program(text, tmp_path) as proxy:
            context = pebble.client_context()
            first = certificate_of_all_workers(port, context)
            sessions = []
            for _ in range(200):
                plain = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
                sessions.append(context.wrap_socket(plain, server_hostname=NAME))
            second = renewed(port, context, first)
            assert second.public_key() == first.public_key()
            third = renewed(port, context, first, second)
            due = second.not_valid_after_utc - timedelta(seconds=validity - 8)
            assert timedelta() <= third.not_valid_before_utc - due <= timedelta(seconds=5)
            for number, session in enumerate(sessions):
                assert session.recv(100) == b"* OK d1\r\n"
                session.sendall(b"%d\r\n" % number)
                assert session.recv(100) == b"%d\r\n" % number
                session.close()
            assert "helper-failed" not in proxy.text


def test_two_processes_make_one_order(tmp_path: Path, ca: ThrowAwayCA, server: GreetingServer) -> None:
    """Two machines share the storage: one obtains the certificate, both serve it."""
    ports = [free_port(), free_port()]
    both_listen = threading.Event()  # the authority connects to one of them, whichever has asked
    with Pebble(tmp_path, ca, tls_port=ports[0]) as pebble, Front(pebble, ca, tmp_path) as front:
        front.rules.append(waits(both_listen))
        folders = [tmp_path / "a", tmp_path / "b"]
        proxies = []
        for folder, port in zip(folders, ports, strict=True):
            folder.mkdir()
            text = configuration(
                directory=front.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server,
                process="workers = 2",
            )  # fmt: skip
            proxies.append(Program(text, folder))
        with proxies[0], proxies[1]:
            for proxy in proxies:
                proxy.wait_for("mailproxy is ready")
            both_listen.set()
            context = pebble.client_context()
            served = [eventually(lambda port=port: verified_certificate(port, context)) for port in ports]  # type: ignore[misc]
            assert served[0] == served[1]
            assert pebble.orders == 1
            assert pebble.count("There are now 2 accounts") == 0  # a bad nonce repeats the request


def day_in(days: int) -> str:
    return f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%d}"


def test_window_of_authority_renews(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer
) -> None:
    """The authority wants the first certificate to be renewed at once, and the next one much later."""
    with Pebble(tmp_path, ca, tls_port=port) as pebble, Front(pebble, ca, tmp_path) as front:
        asked: list[str] = []
        later = day_in(30), day_in(31)

        def window(certificate: str) -> Answer:
            if certificate not in asked:
                asked.append(certificate)
            start, end = ("2020-01-01", "2020-01-02") if certificate == asked[0] else later
            body = f'{{"suggestedWindow": {{"start": "{start}T00:00:00Z", "end": "{end}T00:00:00Z"}}}}'
            return Answer(200, body.encode(), (("Content-Type", "application/json"), ("Retry-After", "3600")))

        front.window = window
        text = configuration(
            directory=front.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server
        )
        with Program(text, tmp_path) as proxy:
            eventually(lambda: len(asked) == 2)
            proxy.wait_for(r"(?s)obtained .*obtained ")
            assert pebble.orders == 2
            assert front.orders[1]["replaces"] == asked[0]
            eventually(lambda: later[0] in certs("list", proxy.file).stdout)


def test_bad_nonces_are_repeated(tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer) -> None:
    with Pebble(tmp_path, ca, tls_port=port, environment={"PEBBLE_WFE_NONCEREJECT": "70"}) as pebble:
        text = configuration(
            directory=pebble.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server
        )
        with Program(text, tmp_path):
            context = pebble.client_context()
            eventually(lambda: verified_certificate(port, context))


def test_slow_validation_is_waited_for(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer
) -> None:
    environment = {"PEBBLE_VA_NOSLEEP": "0", "PEBBLE_VA_SLEEPTIME": "4"}
    with Pebble(tmp_path, ca, tls_port=port, environment=environment) as pebble:
        text = configuration(
            directory=pebble.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server
        )
        with Program(text, tmp_path):
            context = pebble.client_context()
            eventually(lambda: verified_certificate(port, context))
            assert pebble.count("/authZ/") < 12


def test_added_name_keeps_old_certificate_until_reload_has_new_one(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer
) -> None:
    import signal

    with Pebble(tmp_path, ca, tls_port=port) as pebble:
        text = configuration(
            directory=pebble.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server
        )
        with Program(text, tmp_path) as proxy:
            context = pebble.client_context()
            eventually(lambda: verified_certificate(port, context))
            proxy.edit(text.replace(f'["{NAME}"]', f'["{NAME}", "mail.example.com"]'))
            proxy.send(signal.SIGHUP)
            end = time.monotonic() + 2 * TIMEOUT_S
            while verified_certificate(port, context, "mail.example.com") is None:
                assert verified_certificate(port, context) is not None
                assert time.monotonic() < end


def test_profile_and_contact_are_sent(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer
) -> None:
    """Pebble has no profiles, and ignores the key."""
    with Pebble(tmp_path, ca, tls_port=port) as pebble, Front(pebble, ca, tmp_path) as front:
        text = configuration(
            directory=front.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server,
            acme='profile = "shortlived"',
        )  # fmt: skip
        with Program(text, tmp_path) as proxy:
            proxy.wait_for("obtained imap")
        assert front.orders[0]["profile"] == "shortlived"


def test_authority_is_asked_for_its_window_soon(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer
) -> None:
    with Pebble(tmp_path, ca, tls_port=port) as pebble, Front(pebble, ca, tmp_path) as front:
        day = day_in(30)
        body = f'{{"suggestedWindow": {{"start": "{day}T00:00:00Z", "end": "{day}T00:00:01Z"}}}}'
        front.window = lambda _: Answer(200, body.encode(), (("Content-Type", "application/json"),))
        text = configuration(
            directory=front.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server
        )
        with Program(text, tmp_path) as proxy:
            proxy.wait_for("obtained imap")
            eventually(lambda: front.count("/renewal/"))
            eventually(lambda: f"{day} 00:00:00" in certs("list", proxy.file).stdout)


@WORKERS
def test_reload_adds_an_authority(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer, process: str
) -> None:
    """At the start there is no certificate to obtain, and so nothing of ACME in the process."""
    import signal

    with Pebble(tmp_path, ca, tls_port=port) as pebble:
        text = configuration(
            directory=pebble.directory,
            ca=ca.pem,
            storage=tmp_path / "acme",
            port=port,
            server=server,
            process=process,
        )
        pem = ca.issue(NAME, folder=tmp_path)
        before = re.sub(r"(?s)\[acme.test\].*?\[frontends", "[frontends", text)
        before = re.sub(r"tls = .*", f'tls = {{ certificates = ["{pem}"] }}', before)
        with Program(before, tmp_path) as proxy:
            proxy.wait_for("mailproxy is ready")
            proxy.edit(text)
            proxy.send(signal.SIGHUP)
            context = pebble.client_context()
            eventually(lambda: verified_certificate(port, context))
            assert "+ acme test" in proxy.text


def test_live_check_reports_tlsa_records_that_do_not_match(tmp_path: Path, ca: ThrowAwayCA) -> None:
    pem = ca.issue(NAME, folder=tmp_path)
    file = tmp_path / "mailproxy.toml"
    text = f"""
[acme.unused]
terms_agreed = true
storage = "acme"
dns = {{ resolvers = ["127.0.0.1:PORT"] }}

[frontends.imaps]
protocol = "imap"
backend = "dovecot"
tls = {{ certificates = ["{pem}"] }}
bind = [{{ address = "127.0.0.1:1993", mode = "tls" }}]

[backends.dovecot]
check = false
servers = ["127.0.0.1:9"]
"""
    file.write_text(text.replace("PORT", "1"))
    good = certs("tlsa", file).stdout.split()[6]
    for record, is_reported in ((good, False), ("00" * 32, True)):
        folder = tmp_path / record[:4]
        folder.mkdir()
        with Zone(folder, f"_1993._tcp.imap 60 TLSA 3 1 1 {record}") as zone:
            file.write_text(text.replace("PORT", str(zone.port)))
            result = subprocess.run(
                [sys.executable, "-m", "mailproxy", "check", "--live", str(file)],
                capture_output=True,
                text=True,
            )
        found = f"no TLSA record of _1993._tcp.{NAME} matches the certificate {pem}" in result.stdout
        assert found == is_reported, result
