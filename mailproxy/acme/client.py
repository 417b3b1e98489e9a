"""The authority as calls: directory, account, orders, renewal information. Written on certbot's ``acme``.

``AcmeClient`` blocks, and is for one thread at a time. ``call`` runs one of its methods in a thread, with a
deadline. certbot's library signs, and keeps the nonces. What it does not do is here: it forgets
``Retry-After`` with an error, repeats ``badNonce`` once only, and has no bound on the size of an answer.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import requests
import trio
from acme.client import ClientNetwork
from acme.messages import Directory, ExternalAccountBinding, Registration, RegistrationResource
from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from josepy.b64 import b64encode
from josepy.interfaces import JSONDeSerializable
from josepy.jwa import ES256
from josepy.jwk import JWKEC

from mailproxy.acme.errors import AcmeError, ProblemError, shown
from mailproxy.acme.keys import renewal_id
from mailproxy.config import Acme
from mailproxy.version import __version__

T = TypeVar("T")

_READ_TIMEOUT_S = 30.0  # between two packets of an answer
_ANSWER_TIMEOUT_S = 60.0  # for a whole answer
_CALL_TIMEOUT_S = 120.0  # for a call, which may repeat a request
_ANSWER_MAX = 1 << 20  # bytes
_NONCE_TRIES = 40  # Pebble can refuse nine nonces of ten
_RETRY_AFTER_MAX_S = 7 * 86400.0
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,256}")  # base64url, at least 128 bits (RFC 8555 section 8.1)

Json = Mapping[str, Any]


async def call(function: Callable[..., T], *args: object) -> T:
    """Call a method of a client in a thread.

    Raises:
        AcmeError: If the authority does not answer as it should.

    Cancellation:
        The thread is abandoned; its request ends within two minutes.
    """
    with trio.move_on_after(_CALL_TIMEOUT_S):
        return await trio.to_thread.run_sync(
            _translated, function, *args, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
        )
    raise AcmeError(f"the authority has not answered within {_CALL_TIMEOUT_S:g} s")


def _translated(function: Callable[..., T], *args: object) -> T:
    try:
        return function(*args)
    except AcmeError:
        raise
    except requests.exceptions.SSLError as error:
        raise AcmeError(f"TLS with the authority failed: {shown(_root(error))}") from None
    except requests.exceptions.JSONDecodeError:
        raise AcmeError("the authority's answer cannot be used: it is no JSON") from None
    except (requests.exceptions.RequestException, OSError) as error:
        raise AcmeError(f"the authority cannot be reached: {shown(_root(error))}") from None
    except Exception as error:  # noqa: BLE001 - the border: certbot's and josepy's errors about nonsense
        raise AcmeError(f"the authority's answer cannot be used: {shown(repr(error))}") from None


def _root(error: BaseException) -> object:
    """Return the reason that urllib3 has wrapped several times."""
    while True:
        inner = getattr(error, "reason", None) or next(
            (each for each in error.args if isinstance(each, BaseException)), None
        )
        if not isinstance(inner, BaseException):
            return error
        error = inner


class _Payload(JSONDeSerializable):
    """The payload of a request, as it is."""

    def __init__(self, content: Json) -> None:
        self._content = content

    def to_partial_json(self) -> Any:
        return dict(self._content)

    @classmethod
    def from_json(cls, jobj: Any) -> _Payload:
        return cls(jobj)


class _Network(ClientNetwork):
    """Signed requests, with the rules that certbot's library lacks."""

    def post(self, *args: Any, **kwargs: Any) -> Any:
        """Post, and repeat it with a fresh nonce up to 40 times in all."""
        for _ in range(_NONCE_TRIES - 1):
            try:
                return self._post_once(*args, **kwargs)
            except ProblemError as error:
                if error.kind != "badNonce":
                    raise
                self._nonces.clear()
        return self._post_once(*args, **kwargs)

    def _send_request(self, method: str, url: str, *_args: Any, **kwargs: Any) -> Any:
        headers = {"User-Agent": self.user_agent, **kwargs.pop("headers", {})}
        end = time.monotonic() + _ANSWER_TIMEOUT_S
        response = self.session.request(
            method, url, data=kwargs.get("data"), headers=headers, verify=self.verify_ssl,
            timeout=_READ_TIMEOUT_S, stream=True,
        )  # fmt: skip
        with response:
            content = bytearray()
            for chunk in response.iter_content(16384):
                content += chunk
                if len(content) > _ANSWER_MAX:
                    raise AcmeError(f"the authority's answer has more than {_ANSWER_MAX} bytes")
                if time.monotonic() > end:
                    raise AcmeError(f"the authority's answer takes longer than {_ANSWER_TIMEOUT_S:g} s")
        response._content = bytes(content)  # noqa: SLF001 - requests has no bounded way to read a body
        response.encoding = "utf-8"
        return response

    @classmethod
    def _check_response(cls, response: Any, content_type: str | None = None) -> Any:  # noqa: ARG003 - the base class has it
        if response.ok:
            return response
        retry_after = seconds_to_wait(response.headers.get("Retry-After"))
        try:
            problem = response.json()
        except ValueError:
            problem = None
        if not isinstance(problem, dict) or "type" not in problem:
            text = f"the authority answers with HTTP status {response.status_code}"
            raise AcmeError(text, retry_after=retry_after)
        kind = shown(problem["type"], 80).rpartition(":")[2]
        raise ProblemError(kind, describe(problem), response.status_code, retry_after=retry_after)


def describe(problem: Json) -> str:
    """Return what a problem document says, with its subproblems."""
    parts = [shown(problem.get("detail") or problem.get("title") or problem.get("type") or "no reason")]
    subproblems = problem.get("subproblems")
    for each in subproblems[:5] if isinstance(subproblems, list) else ():
        if isinstance(each, dict):
            identifier = each.get("identifier")
            name = identifier.get("value", "") if isinstance(identifier, dict) else ""
            parts.append(shown(f"{name}: {each.get('detail', '')}"))
    return "; ".join(parts)


def seconds_to_wait(header: str | None, now: float | None = None) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, a week at most; None without a usable value."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return min(float(header.strip()[:9]), _RETRY_AFTER_MAX_S)
    try:
        moment = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = moment.timestamp() - (time.time() if now is None else now)
    return min(max(0.0, seconds), _RETRY_AFTER_MAX_S)


@frozen(kw_only=True)
class Resource:
    """A resource of the authority.

    Attributes:
        url: Where it is.
        body: Its content.
        retry_after: Seconds until it is to be asked for again, None if the authority does not say.
    """

    url: str
    body: Json
    retry_after: float | None = None

    @property
    def status(self) -> str:
        """The status, such as ``pending``."""
        return str(self.body.get("status", ""))


@frozen(kw_only=True)
class RenewalWindow:
    """When the authority wants a certificate to be renewed (RFC 9773).

    Attributes:
        start: The begin of the window.
        end: Its end.
        explanation: A page that says why; empty if there is none.
        retry_after: Seconds until the authority is asked again.
    """

    start: datetime
    end: datetime
    explanation: str
    retry_after: float | None


class AcmeClient:
    """An account at an authority.

    Args:
        acme: The authority's table.
        directory: The URL of its directory, which is another one in tests.
        account_key: The key of the account, in PEM form.
        account_url: The account's URL; None if it is not registered.
    """

    def __init__(self, acme: Acme, directory: str, account_key: bytes, account_url: str | None) -> None:
        self._acme = acme
        self.directory_url = directory
        self._directory: Directory | None = None
        self._key = JWKEC(key=serialization.load_pem_private_key(account_key, None))
        self._net = _Network(
            self._key,
            alg=ES256,
            # ``requests`` takes a file, too, though certbot's annotation has only a boolean.
            verify_ssl=str(acme.ca) if acme.ca is not None else True,  # type: ignore[arg-type]
            user_agent=f"mailproxy/{__version__}",
        )
        self._use_account(account_url)

    @property
    def account_url(self) -> str | None:
        """The URL of the account; None before it is registered."""
        return self._net.account.uri if self._net.account is not None else None

    def _use_account(self, url: str | None) -> None:
        self._net.account = RegistrationResource(uri=url, body=Registration()) if url is not None else None

    @property
    def directory(self) -> Directory:
        """The authority's directory. The first use asks for it."""
        if self._directory is None:
            content = self._net.get(self.directory_url).json()
            directory = Directory.from_json(content)
            for name in ("newNonce", "newAccount", "newOrder"):
                if not isinstance(content.get(name), str):
                    raise AcmeError(f"{self.directory_url} is no ACME directory: it has no {name}")
            self._directory = directory
        return self._directory

    def _url(self, name: str) -> str | None:
        try:
            return str(self.directory[name])
        except KeyError:
            return None

    def _post(self, url: str, content: Json | None, **options: object) -> Any:
        nonce_url = self._url("newNonce")
        payload = None if content is None else _Payload(content)
        return self._net.post(url, payload, new_nonce_url=nonce_url, **options)

    def _resource(self, url: str, response: Any) -> Resource:
        body = response.json()
        if not isinstance(body, dict):
            raise AcmeError("the authority's answer is no JSON object")
        return Resource(url=url, body=body, retry_after=seconds_to_wait(response.headers.get("Retry-After")))

    def read(self, url: str) -> Resource:
        """Return a resource (POST-as-GET)."""
        return self._resource(url, self._post(url, None))

    # The account

    def register(self, eab_hmac: str | None) -> str:
        """Register the account's key, or find the account that it has. Return the account's URL."""
        content: dict[str, Any] = {"termsOfServiceAgreed": True, "contact": list(self._acme.contact)}
        if self._acme.eab is not None and eab_hmac is not None:
            content["externalAccountBinding"] = ExternalAccountBinding.from_data(
                self._key.public_key(), self._acme.eab.key_id, eab_hmac, self.directory
            )
        self._use_account(None)
        response = self._post(self._url("newAccount") or "", content)
        url = response.headers.get("Location")
        if not url:
            raise AcmeError("the authority's answer has no URL of the account")
        self._use_account(url)
        return str(url)

    def update_contact(self) -> None:
        """Tell the authority the configured addresses."""
        self._post(self.account_url or "", {"contact": list(self._acme.contact)})

    def orders(self) -> list[str]:
        """Return the URLs of the account's orders, newest first. Empty if the authority does not list them."""
        url = self.read(self.account_url or "").body.get("orders")
        listed = self.read(url).body.get("orders") if isinstance(url, str) else None
        return [str(each) for each in reversed(listed)][:20] if isinstance(listed, list) else []

    # Orders

    def new_order(self, names: Sequence[str], replaces: str | None) -> Resource:
        """Order a certificate.

        Args:
            names: Its names.
            replaces: The renewal identifier of the certificate that it replaces (RFC 9773 section 5).
        """
        content: dict[str, Any] = {"identifiers": [{"type": "dns", "value": name} for name in names]}
        if self._acme.profile is not None:
            content["profile"] = self._acme.profile
        if replaces is not None and self._url("renewalInfo") is not None:
            content["replaces"] = replaces
        response = self._post(self._url("newOrder") or "", content)
        url = response.headers.get("Location")
        if not url:
            raise AcmeError("the authority's answer has no URL of the order")
        return self._resource(str(url), response)

    def key_authorization(self, token: object) -> str:
        """Return what proves that the account's owner answers a challenge (RFC 8555 section 8.1)."""
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise AcmeError(
                f"the authority's challenge has the token {shown(repr(token), 60)}, which is none"
            )
        thumbprint = b64encode(self._key.thumbprint()).decode()
        return f"{token}.{thumbprint}"

    def answer(self, challenge_url: str) -> None:
        """Have the authority validate a challenge."""
        self._post(challenge_url, {})

    def finalize(self, url: str, csr: bytes) -> None:
        """Send the signing request of an order."""
        self._post(url, {"csr": b64encode(csr).decode()})

    def chains(self, url: str) -> list[bytes]:
        """Return the certificate with its chain in PEM form, then with each alternative chain."""
        response = self._post(url, None, headers={
            "Accept": "application/pem-certificate-chain", "Content-Type": ClientNetwork.JOSE_CONTENT_TYPE,
        })  # fmt: skip
        chains = [bytes(response.content)]
        if self._acme.preferred_chain is not None:
            links = requests.utils.parse_header_links(response.headers.get("Link", ""))[:5]
            urls = [link["url"] for link in links if link.get("rel") == "alternate"]
            chains += [bytes(self._post(url, None).content) for url in urls]
        return chains

    def revoke(self, certificate: x509.Certificate, reason: int) -> None:
        """Revoke a certificate of this account.

        Args:
            certificate: The certificate.
            reason: A code of RFC 5280 section 5.3.1.
        """
        url = self._url("revokeCert")
        if url is None:
            raise AcmeError("the authority does not revoke certificates")
        der = certificate.public_bytes(serialization.Encoding.DER)
        self._post(url, {"certificate": b64encode(der).decode(), "reason": reason})

    # Renewal information

    def renewal_window(self, certificate: x509.Certificate) -> RenewalWindow | None:
        """Return when the authority wants a certificate to be renewed. None if it does not say that."""
        base, identifier = self._url("renewalInfo"), renewal_id(certificate)
        if base is None or identifier is None:
            return None
        response = self._net.get(f"{base}/{identifier}")
        content = response.json()
        window = content["suggestedWindow"]
        start, end = (_moment(window[key]) for key in ("start", "end"))
        if end <= start:
            raise AcmeError("the authority's renewal window ends before it begins")
        return RenewalWindow(
            start=start,
            end=end,
            explanation=shown(content.get("explanationURL", ""), 200),
            retry_after=seconds_to_wait(response.headers.get("Retry-After")),
        )


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
