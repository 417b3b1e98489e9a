"""One order, from its beginning or from where a crash has left it, to the certificate (RFC 8555 section 7.4).

Before each step that the authority remembers, what is needed to go on is stored: the key before the order,
and the order's URL before anything is proved. So a process that is killed at any step leaves the old
certificate in use, and the next one goes on with the same order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import trio
from attrs import frozen

from mailproxy.acme.challenges.solver import Proof, Solver
from mailproxy.acme.client import AcmeClient, Resource, call, describe
from mailproxy.acme.errors import AcmeError, ProblemError, shown
from mailproxy.acme.keys import (
    Issued,
    NotIssuedError,
    PrivateKey,
    has_issuer,
    key_from_pem,
    key_to_pem,
    make_csr,
    renewal_id,
    verify_issued,
)
from mailproxy.acme.storage import Storage
from mailproxy.config.acme_plan import ManagedCertificate

_POLLS_TIMEOUT_S = 600.0  # for the authority to validate, and again for it to issue
_FIRST_POLL_S = 0.5
_MAX_POLL_S = 60.0
_PENDING_MAX_S = 7 * 86400.0  # Let's Encrypt's orders expire after a week
_UNFINISHED = ("pending", "ready", "processing", "valid")


@frozen(kw_only=True)
class _Pending:
    """An order that is under way, as it is stored."""

    key: PrivateKey
    url: str | None
    names: tuple[str, ...]
    directory: str


@frozen(kw_only=True)
class OrderFlow:
    """Obtains one certificate.

    Attributes:
        certificate: What is wanted.
        storage: Where the order and the certificate are kept.
        client: The account.
        directory: The authority's directory: an order belongs to one authority.
        solver: Answers the challenges.
    """

    certificate: ManagedCertificate
    storage: Storage
    client: AcmeClient
    directory: str
    solver: Solver

    async def run(self, make_key: Callable[[], PrivateKey], replaced: Issued | None) -> Issued:
        """Obtain the certificate. The caller stores it, and calls `forget` then.

        Args:
            make_key: Returns the key of a new order. Called in a thread.
            replaced: The certificate that is renewed.

        Raises:
            AcmeError: If the authority does not issue it.
            StorageError: If the order cannot be stored.
        """
        pending, order = await self._resume()
        if pending is None or order is None:
            pending = _Pending(
                key=await trio.to_thread.run_sync(make_key),
                url=None,
                names=self.certificate.names,
                directory=self.directory,
            )
            await self._remember(pending)
            order = await self._new_order(replaced)
            await self._remember(pending, order.url)
        try:
            return await self._complete(order, pending.key)
        except _InvalidOrderError as error:
            failure = error
        await trio.to_thread.run_sync(self.forget)
        raise failure

    def forget(self) -> None:
        """Remove what is stored of the order. Blocks on files."""
        self.storage.remove(self._file)

    def stored_key(self) -> PrivateKey | None:
        """Return the key of the order that is stored; None without one. Blocks on files."""
        pending = self._stored()
        return pending.key if pending is not None else None

    @property
    def _file(self) -> str:
        return f"orders/{self.certificate.stem}.json"

    # Begin, or go on

    async def _remember(self, pending: _Pending, url: str | None = None) -> None:
        content = {
            "directory": pending.directory,
            "names": pending.names,
            "url": url,
            "created": time.time(),
            "key": key_to_pem(pending.key).decode(),
        }
        await trio.to_thread.run_sync(self.storage.write_json, self._file, content)

    def _stored(self) -> _Pending | None:
        content = self.storage.read_json(self._file) or {}
        key = key_from_pem(str(content.get("key", "")))
        url, names = content.get("url"), content.get("names")
        if key is None or not isinstance(names, list) or content.get("directory") != self.directory:
            return None
        created = content.get("created")
        if not isinstance(created, (int, float)) or not abs(time.time() - created) < _PENDING_MAX_S:
            return None
        if set(map(str, names)) != set(self.certificate.names):
            return None
        return _Pending(
            key=key, url=url if isinstance(url, str) else None, names=tuple(names), directory=self.directory
        )

    async def _resume(self) -> tuple[_Pending | None, Resource | None]:
        """Return the order that a process has left unfinished; None if there is none that can be used."""
        pending = await trio.to_thread.run_sync(self._stored)
        if pending is None:
            return None, None
        if pending.url is None:
            return pending, await self._find_order()
        try:
            order = await call(self.client.read, pending.url)
        except ProblemError as error:
            if error.status >= 500 or error.kind == "rateLimited":  # it says nothing about the order
                raise
            return None, None
        return pending, order if order.status in _UNFINISHED else None

    async def _find_order(self) -> Resource | None:
        """Return the order that was made when the process ended before it knew the order's URL.

        Not every authority lists orders. Without a list, a second order is made.
        """
        try:
            for url in await call(self.client.orders):
                order = await call(self.client.read, url)
                if order.status in ("pending", "ready") and _names_of(order) == set(self.certificate.names):
                    return order
        except AcmeError:
            pass
        return None

    async def _new_order(self, replaced: Issued | None) -> Resource:
        names = self.certificate.names
        identifier = renewal_id(replaced.leaf) if replaced is not None else None
        try:
            return await call(self.client.new_order, names, identifier)
        except ProblemError as error:
            # Some other order has replaced the certificate already, or the authority does not know it.
            if identifier is None or (
                error.status != 409 and error.kind not in ("alreadyReplaced", "malformed")
            ):
                raise
            return await call(self.client.new_order, names, None)

    # Prove, finalize, download

    async def _complete(self, order: Resource, key: PrivateKey) -> Issued:
        if order.status == "pending":
            await self._authorize(order)
            order = await self._poll(order.url, ("pending",))
        if order.status == "ready":
            csr = make_csr(key, self.certificate.names)
            try:
                await call(self.client.finalize, _text(order.body, "finalize"), csr)
            except ProblemError as error:
                if error.kind in ("badCSR", "badPublicKey"):
                    raise _InvalidOrderError(str(error)) from None
                if error.kind != "orderNotReady":
                    raise
            order = await self._poll(order.url, ("ready", "processing"))
        elif order.status == "processing":
            order = await self._poll(order.url, ("processing",))
        if order.status != "valid":
            raise _InvalidOrderError(_failure(order, "the authority has given up the order"))
        chains = await call(self.client.chains, _text(order.body, "certificate"))
        try:
            return verify_issued(self._choose(chains), key, self.certificate.names)
        except NotIssuedError as error:
            raise _InvalidOrderError(str(error)) from None

    def _choose(self, chains: Sequence[bytes]) -> bytes:
        preferred = self.certificate.acme.preferred_chain
        if preferred is None:
            return chains[0]
        return next((chain for chain in chains if has_issuer(chain, preferred)), chains[0])

    async def _authorize(self, order: Resource) -> None:
        urls = order.body.get("authorizations")
        if not isinstance(urls, list) or len(urls) > len(self.certificate.names):
            raise AcmeError("the authority's order has no usable list of authorizations")
        proofs: list[Proof] = []
        to_answer: list[tuple[str, str]] = []
        for url in urls:
            authorization = await call(self.client.read, str(url))
            if authorization.status == "valid":
                continue
            if authorization.status != "pending":
                raise _InvalidOrderError(_authorization_failure(authorization))
            proof, challenge_url = self._proof(authorization)
            proofs.append(proof)
            to_answer.append((authorization.url, challenge_url))
        if not proofs:
            return
        async with self.solver.answering(proofs):
            for _, challenge_url in to_answer:
                await call(self.client.answer, challenge_url)
            for url, _ in to_answer:
                authorization = await self._poll(url, ("pending", "processing"))
                if authorization.status != "valid":
                    raise _InvalidOrderError(_authorization_failure(authorization))

    def _proof(self, authorization: Resource) -> tuple[Proof, str]:
        """Return what proves a name, and the URL of the challenge."""
        identifier = authorization.body.get("identifier")
        name = identifier.get("value") if isinstance(identifier, dict) else None
        # The name becomes a file's name and a program's argument.
        if name not in {each.removeprefix("*.") for each in self.certificate.names}:
            raise AcmeError(f"the authority asks about {shown(repr(name), 80)}, which was not ordered")
        challenges = authorization.body.get("challenges")
        for each in challenges if isinstance(challenges, list) else ():
            if isinstance(each, dict) and each.get("type") == self.solver.type:
                token = each.get("token")
                proof = Proof(
                    name=str(name), token=str(token), key_authorization=self.client.key_authorization(token)
                )
                return proof, _text(each, "url")
        raise AcmeError(f"the authority does not offer {self.solver.type} for {name}")

    async def _poll(self, url: str, while_in: Sequence[str]) -> Resource:
        """Ask for a resource until it has another status, no sooner than the authority wants."""
        pause = _FIRST_POLL_S
        with trio.move_on_after(_POLLS_TIMEOUT_S):
            while True:
                resource = await call(self.client.read, url)
                if resource.status not in while_in:
                    return resource
                await trio.sleep(max(pause, min(resource.retry_after or 0.0, _MAX_POLL_S)))
                pause = min(2 * pause, _MAX_POLL_S / 6)
        raise AcmeError(f"the authority is still busy with the order after {_POLLS_TIMEOUT_S:g} s")


class _InvalidOrderError(AcmeError):
    """The order cannot lead to a certificate any longer: the next attempt makes another one."""


def _text(body: Any, key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise AcmeError(f"the authority's answer has no {key}")
    return value


def _names_of(order: Resource) -> set[str]:
    identifiers = order.body.get("identifiers")
    return {
        str(each.get("value"))
        for each in (identifiers if isinstance(identifiers, list) else ())
        if isinstance(each, dict)
    }


def _failure(resource: Resource, otherwise: str) -> str:
    error = resource.body.get("error")
    return (
        describe(error) if isinstance(error, dict) else f"{otherwise} (status {shown(resource.status, 40)})"
    )


def _authorization_failure(authorization: Resource) -> str:
    identifier = authorization.body.get("identifier")
    name = shown(identifier.get("value"), 80) if isinstance(identifier, dict) else "a name"
    challenges = authorization.body.get("challenges")
    for each in challenges if isinstance(challenges, list) else ():
        if isinstance(each, dict) and isinstance(each.get("error"), dict):
            return f"the authority cannot validate {name} by {shown(each.get('type'), 40)}: {describe(each['error'])}"
    return f"the authority cannot validate {name} (status {shown(authorization.status, 40)})"
