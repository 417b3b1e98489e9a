"""A small authority in Python, for tests that need no other program.

It checks no signatures. It validates a name by what it finds in the storage of tls-alpn-01, as if it had connected.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attrs import define, field
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.b64 import b64decode

from mailproxy.testing import ThrowAwayCA

TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"

Reply = tuple[int, Any, dict[str, str]]


@define(eq=False)
class FakeAuthority:
    """The authority, closed at the end of the `with` block.

    Attributes:
        challenges: The folder in which answers to tls-alpn-01 are looked for.
        lifetime: That of its certificates.
        faults: Answers in place of its own, by the first part of the path. Each is used once for each item.
        window: Its renewal window; None for an authority without one.
        orders: The payloads of orders.
        paths: The paths of all requests.
        revoked: How many certificates were revoked.
    """

    ca: ThrowAwayCA
    folder: Path
    challenges: Path
    lifetime: timedelta = timedelta(days=90)
    faults: dict[str, list[Reply]] = field(factory=dict)
    window: tuple[datetime, datetime] | None = None
    orders: list[dict[str, Any]] = field(factory=list)
    paths: list[str] = field(factory=list)
    revoked: int = 0
    _states: list[str] = field(factory=list)
    _chains: dict[int, str] = field(factory=dict)
    _accounts: int = 0
    _server: ThreadingHTTPServer = field(init=False)
    _key: ec.EllipticCurvePrivateKey = field(factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __enter__(self) -> Self:
        authority: FakeAuthority = self

        class Handler(_Handler):
            owner = authority

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.ca.issue("127.0.0.1", folder=self.folder))
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    @property
    def directory(self) -> str:
        """The URL of the directory."""
        return f"{self.url}/directory"

    def reply(self, path: str, payload: Any) -> Reply:
        self.paths.append(path)
        _, name, *rest = path.split("/")
        if self.faults.get(name):
            return self.faults[name].pop(0)
        answer: Callable[..., Reply] = getattr(self, f"_{name}")
        return answer(payload, *rest)

    def _directory(self, _payload: Any) -> Reply:
        names = {"newNonce": "nonce", "newAccount": "account", "newOrder": "neworder", "revokeCert": "revoke"}
        content = {key: f"{self.url}/{name}" for key, name in names.items()}
        if self.window is not None:
            content["renewalInfo"] = f"{self.url}/renewal"
        return 200, content, {}

    def _nonce(self, _payload: Any) -> Reply:
        return 200, b"", {}

    def _account(self, _payload: Any, *rest: str) -> Reply:
        if rest:
            return 200, {"status": "valid", "orders": f"{self.url}/orders"}, {}
        self._accounts += 1
        return 201, {"status": "valid"}, {"Location": f"{self.url}/account/1"}

    def _orders(self, _payload: Any) -> Reply:
        return 200, {"orders": [f"{self.url}/order/{number}" for number in range(len(self.orders))]}, {}

    def _neworder(self, payload: Any) -> Reply:
        self.orders.append(payload)
        self._states.append("pending")
        number = len(self.orders) - 1
        status, body, _ = self._order(None, str(number))
        return status, body, {"Location": f"{self.url}/order/{number}"}

    def _order(self, _payload: Any, number: str) -> Reply:
        body = {
            "status": self._states[int(number)],
            "identifiers": self.orders[int(number)]["identifiers"],
            "authorizations": [f"{self.url}/authz/{number}"],
            "finalize": f"{self.url}/finalize/{number}",
            "certificate": f"{self.url}/cert/{number}",
        }
        return 200, body, {}

    def _authz(self, _payload: Any, number: str) -> Reply:
        state = self._states[int(number)]
        challenge: dict[str, Any] = {
            "type": "tls-alpn-01",
            "token": TOKEN,
            "url": f"{self.url}/answer/{number}",
        }
        if state == "invalid":
            challenge["error"] = {"type": "unauthorized", "detail": "nothing answers"}
        body = {
            "status": {"pending": "pending", "invalid": "invalid"}.get(state, "valid"),
            "identifier": self.orders[int(number)]["identifiers"][0],
            "challenges": [{"type": "http-01", "token": "x"}, challenge],
        }
        return 200, body, {}

    def _answer(self, _payload: Any, number: str) -> Reply:
        (identifier,) = self.orders[int(number)]["identifiers"]
        file = self.challenges / f"{identifier['value']}.pem"
        self._states[int(number)] = "ready" if file.exists() else "invalid"
        return 200, {}, {}

    def _finalize(self, payload: Any, number: str) -> Reply:
        csr = x509.load_der_x509_csr(b64decode(payload["csr"]))
        self._chains[int(number)] = self._issue(csr)
        self._states[int(number)] = "valid"
        return self._order(None, number)

    def _cert(self, _payload: Any, number: str) -> Reply:
        return 200, self._chains[int(number)].encode(), {"Content-Type": "application/pem-certificate-chain"}

    def _revoke(self, _payload: Any) -> Reply:
        self.revoked += 1
        return 200, b"", {}

    def _renewal(self, _payload: Any, _certificate: str) -> Reply:
        assert self.window is not None
        start, end = (each.strftime("%Y-%m-%dT%H:%M:%SZ") for each in self.window)
        return 200, {"suggestedWindow": {"start": start, "end": end}}, {"Retry-After": "3600"}

    def _issue(self, csr: x509.CertificateSigningRequest) -> str:
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Fake CA")])
        now = datetime.now(UTC).replace(microsecond=0)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(issuer)
            .public_key(csr.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + self.lifetime)
            .add_extension(names.value, critical=True)
            .add_extension(x509.AuthorityKeyIdentifier(b"fake", None, None), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()


class _Handler(BaseHTTPRequestHandler):
    disable_nagle_algorithm = (
        True  # else each answer takes 40 ms, until the client acknowledges its first part
    )
    owner: FakeAuthority
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        payload = json.loads(body)["payload"] if body else ""
        status, content, headers = self.owner.reply(
            self.path, json.loads(b64decode(payload)) if payload else None
        )
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response_only(status)
        kind = "application/json" if status < 400 else "application/problem+json"
        all_headers = {"Content-Type": kind, "Replay-Nonce": "AAAAAAAAAAAAAAAAAAAAAA", **headers}
        for name, value in all_headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_HEAD = _handle  # noqa: N815 - the base class looks for these names

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # the client is gone
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Write nothing."""


def problem(status: int, kind: str, detail: str = "no", **headers: str) -> Reply:
    """Return a problem document."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail}, names
