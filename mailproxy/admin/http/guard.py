"""What every HTTP request must pass: the host that it names, and the token where one is needed.

A page in a browser of this machine can have requests sent to a loopback address: under a name of its own whose
address it changes (DNS rebinding), or across sites. The first has a foreign ``Host``, the second a foreign ``Origin``.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from urllib.parse import urlsplit

from attrs import frozen
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from mailproxy.address import is_loopback_address

_PUBLIC = ("/healthz", "/readyz")
_CHALLENGE = 'Bearer realm="mailproxy", Basic realm="mailproxy"'

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Headers of every response."""


@frozen
class Guard:
    """Refuses requests.

    Attributes:
        is_local: Whether only this machine's users reach the address. Then reading needs no token.
        token: The token; None if there are no commands.
    """

    is_local: bool
    token: str | None

    def refusal(self, request: Request) -> Response | None:
        """Return the answer to a request that may not be answered; None if it may."""
        if self.is_local and not _is_local_host(request.headers.get("host")):
            text = "this is the address of a proxy: use localhost, 127.0.0.1 or [::1] as the host\n"
            return PlainTextResponse(text, 421)
        if not self.is_local and request.url.path not in _PUBLIC and not self.has_token(request):
            return unauthorized()
        return None

    def has_token(self, request: Request, *, only_bearer: bool = False) -> bool:
        """Whether a request has the token: as Bearer, or as the password of Basic, which browsers can send.

        Args:
            request: The request.
            only_bearer: Whether Basic does not count, because browsers send it across sites, too.
        """
        if self.token is None:
            return False
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic" and not only_bearer:
            value = _password(value)
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(value.strip().encode(), self.token.encode())


def unauthorized() -> Response:
    """Return the answer to a request without the token."""
    return PlainTextResponse(
        "this needs the token: Authorization: Bearer TOKEN\n", 401, {"www-authenticate": _CHALLENGE}
    )


def is_foreign(request: Request) -> bool:
    """Whether a browser says that a request comes from another site's page."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site not in (None, "same-origin", "none"):
        return True
    if origin is None:
        return False
    return origin != f"{request.url.scheme}://{request.headers.get('host', '')}"


def _is_local_host(host: str | None) -> bool:
    """Whether a header ``Host`` names a loopback address. Clients without one are no browsers."""
    if not host:
        return True
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or is_loopback_address(name)


def _password(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
