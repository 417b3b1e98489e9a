"""One authority with its storage: what is there, and obtaining one certificate under the storage's lock."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial

import trio
from attrs import define, evolve, field, frozen

from mailproxy.acme.account import open_account, register
from mailproxy.acme.challenges.http import HttpListenerSolver, HttpSocket, WebrootSolver
from mailproxy.acme.challenges.solver import Solver
from mailproxy.acme.challenges.tls_alpn import TlsAlpnSolver
from mailproxy.acme.client import AcmeClient, call
from mailproxy.acme.errors import AcmeError, ProblemError
from mailproxy.acme.keys import (
    Issued,
    PrivateKey,
    is_of_type,
    key_from_pem,
    key_to_pem,
    make_key,
    read_issued,
    spki_of,
)
from mailproxy.acme.lock import LockLostError, StorageLock
from mailproxy.acme.order import OrderFlow
from mailproxy.acme.schedule import (
    Held,
    Record,
    asks_authority,
    when_due,
    with_window,
    without_window,
)
from mailproxy.acme.storage import Storage, StorageError
from mailproxy.certificates.acme_status import AcmeStatus
from mailproxy.config import Acme
from mailproxy.config.acme_plan import ManagedCertificate

_RANDOM = random.SystemRandom()
FAILURES = (AcmeError, StorageError, LockLostError)


@frozen(kw_only=True)
class Entry:
    """What the storage has of a certificate.

    Attributes:
        certificate: The certificate that is wanted.
        issued: The one that is there; None without one.
        record: Its attempts.
    """

    certificate: ManagedCertificate
    issued: Issued | None
    record: Record

    @property
    def held(self) -> Held | None:
        """The dates of what is there."""
        if self.issued is None:
            return None
        wanted, leaf = self.certificate, self.issued.leaf
        return Held(
            begin=leaf.not_valid_before_utc.timestamp(),
            end=leaf.not_valid_after_utc.timestamp(),
            serial=f"{leaf.serial_number:x}",
            covers=set(wanted.names) <= set(self.issued.names)
            and is_of_type(self.issued.key, wanted.key_type)
            and self.record.directory in ("", wanted.acme.directory),
        )

    def due_at(self) -> float:
        """Return when the certificate is to be obtained."""
        return when_due(self.held, self.record, self.certificate.acme.renew_before).at

    def status(self) -> AcmeStatus:
        """Return what operators see."""
        certificate, held = self.certificate, self.held
        return AcmeStatus(
            name=certificate.names[0],
            names=certificate.names,
            key_type=certificate.key_type,
            authority=certificate.acme.name,
            file=str(certificate.file),
            expiry=held.end if held is not None else None,
            last_attempt=self.record.last_attempt,
            last_result=self.record.last_result,
            next_attempt=self.due_at(),
            failures=self.record.failures,
        )


def read_entry(certificate: ManagedCertificate) -> Entry:
    """Return what the storage has of a certificate. Blocks on files.

    Raises:
        StorageError: If it cannot be read.
    """
    storage = Storage(certificate.acme.storage)
    return Entry(
        certificate=certificate,
        issued=read_issued(storage.read(f"certificates/{certificate.stem}.pem")),
        record=Record.from_json(storage.read_json(_record_file(certificate))).at(time.time()),
    )


def _record_file(certificate: ManagedCertificate) -> str:
    return f"state/{certificate.stem}.json"


def _next_key_file(certificate: ManagedCertificate) -> str:
    return f"state/{certificate.stem}.next.pem"


def read_next_key(certificate: ManagedCertificate) -> PrivateKey | None:
    """Return the key of the next certificate, if it was made ahead. Blocks on files."""
    pem = Storage(certificate.acme.storage).read(_next_key_file(certificate))
    return key_from_pem(pem) if pem is not None else None


@define(eq=False)
class Authority:
    """One authority, as one process uses it.

    Attributes:
        acme: Its table.
        http: The socket for http-01; None with other challenges.
        on_wait: Called with the name of the process that holds the storage's lock, when it is waited for.
    """

    acme: Acme
    http: HttpSocket | None = None
    on_wait: Callable[[str], None] = field(default=lambda _holder: None, kw_only=True)
    _client: AcmeClient | None = field(default=None, init=False)
    # Records that could not be written, as on a full disk. Without them, a back-off would be forgotten.
    _unwritten: dict[str, Record] = field(factory=dict, init=False)

    @property
    def storage(self) -> Storage:
        """Its storage."""
        return Storage(self.acme.storage)

    def lock(self) -> StorageLock:
        """Return the lock of its storage."""
        return StorageLock(self.acme.storage / "lock", on_wait=self.on_wait)

    async def read(self, certificate: ManagedCertificate) -> Entry:
        """Return what is known of a certificate.

        Raises:
            StorageError: If the storage cannot be read.
        """
        entry = await trio.to_thread.run_sync(read_entry, certificate)
        unwritten = self._unwritten.get(certificate.stem)
        return entry if unwritten is None else evolve(entry, record=unwritten)

    async def obtain(self, certificate: ManagedCertificate, *, is_forced: bool = False) -> Issued | None:
        """Obtain a certificate and store it. Wait until no other process obtains one.

        Args:
            certificate: The certificate.
            is_forced: Obtain it even if nothing is due.

        Returns:
            The certificate; None if another process has obtained it meanwhile.

        Raises:
            AcmeError, StorageError, LockLostError: If that fails. It is recorded, and what was in use stays.
        """
        try:
            await trio.to_thread.run_sync(self.storage.prepare)
            return await self.lock().run(partial(self._obtain_locked, certificate, is_forced=is_forced))
        except Exception as error:  # noqa: BLE001 - raised below; without a back-off, a bug would order again and again
            failure = error
        self._client = None
        retry_after = failure.retry_after if isinstance(failure, AcmeError) else None
        record = (await self._record(certificate)).failed(
            time.time(), str(failure), retry_after, _RANDOM.random()
        )
        await self._write_record(certificate, record)
        raise failure

    async def _record(self, certificate: ManagedCertificate) -> Record:
        try:
            return (await self.read(certificate)).record
        except StorageError:
            return self._unwritten.get(certificate.stem, Record())

    async def _obtain_locked(self, certificate: ManagedCertificate, *, is_forced: bool) -> Issued | None:
        entry = await self.read(certificate)
        now = time.time()
        if not is_forced and entry.due_at() > now:
            return None
        await self._write_record(certificate, evolve(entry.record, last_attempt=now))
        flow = OrderFlow(
            certificate=certificate,
            storage=self.storage,
            client=await self.client(),
            directory=self.acme.directory,
            solver=self.solver(),
        )
        await trio.to_thread.run_sync(self._drop_finished_order, entry, flow)
        make = partial(self._make_key, entry)
        try:
            issued = await flow.run(make, entry.issued)
        except ProblemError as error:
            if error.kind != "accountDoesNotExist":
                raise
            await call(register, flow.client, self.acme, self.storage)
            issued = await flow.run(make, entry.issued)
        await trio.to_thread.run_sync(self._store, entry, issued)
        await trio.to_thread.run_sync(flow.forget)
        await self._write_record(
            certificate, (await self._record(certificate)).succeeded(time.time(), self.acme.directory)
        )
        return issued

    def _drop_finished_order(self, entry: Entry, flow: OrderFlow) -> None:
        """Forget an order whose certificate was stored before the process was killed."""
        key = flow.stored_key()
        if key is None or entry.issued is None or self.acme.reuse_key:
            return
        if spki_of(key) == spki_of(entry.issued.key):
            flow.forget()

    def _make_key(self, entry: Entry) -> PrivateKey:
        key_type, known = entry.certificate.key_type, None
        if self.acme.reuse_key and entry.issued is not None and not entry.record.is_compromised:
            known = entry.issued.key
        elif self.acme.next_key:
            known = read_next_key(entry.certificate)
        return known if known is not None and is_of_type(known, key_type) else make_key(key_type)

    def _store(self, entry: Entry, issued: Issued) -> None:
        certificate = entry.certificate
        if self.acme.next_key:
            # Before the certificate: a crash in between leaves a next key that is not yet in use.
            known = read_next_key(certificate)
            if known is None or spki_of(known) == spki_of(issued.key):
                self.storage.write(_next_key_file(certificate), key_to_pem(make_key(certificate.key_type)))
        self.storage.write(f"certificates/{certificate.stem}.pem", issued.pem)

    async def client(self) -> AcmeClient:
        """Return the account, registered.

        Raises:
            AcmeError, StorageError: If that fails.
        """
        if self._client is None:
            self._client = await call(open_account, self.acme, self.storage, self.acme.directory)
        return self._client

    def solver(self) -> Solver:
        """Return what answers the configured challenge."""
        if self.acme.challenge == "tls-alpn-01":
            return TlsAlpnSolver(self.storage)
        if self.acme.challenge == "dns-01":
            from mailproxy.acme.challenges.dns import make_dns_solver  # dnspython is for this alone

            return make_dns_solver(self.acme)
        if self.acme.webroot is not None:
            return WebrootSolver(self.acme.webroot)
        assert self.http is not None  # noqa: S101 - the caller has it for this challenge
        return HttpListenerSolver(self.http)

    async def ask_window(self, entry: Entry) -> Entry:
        """Ask the authority when a certificate is to be renewed, if it is time to.

        Returns:
            The entry, with what the authority says.
        """
        held, now = entry.held, time.time()
        if self.acme.renew_before != "auto" or held is None or entry.issued is None:
            return entry
        if not asks_authority(held, entry.record, now):
            return entry
        try:
            client = await self.client()
            window = await call(client.renewal_window, entry.issued.leaf)
        except FAILURES as error:
            self._client = None
            retry_after = error.retry_after if isinstance(error, AcmeError) else None
            record = without_window(entry.record, held, now, retry_after or 600.0)
        else:
            if window is None:
                record = without_window(entry.record, held, now)
            else:
                span = (window.start.timestamp(), window.end.timestamp())
                record = with_window(
                    entry.record, held, span, window.retry_after, now=now, random=_RANDOM.random()
                )
        await self._write_record(entry.certificate, record)
        return evolve(entry, record=record)

    async def force(self, certificate: ManagedCertificate, *, is_compromised: bool) -> None:
        """Have the running proxy renew a certificate, as after its revocation.

        Args:
            certificate: The certificate.
            is_compromised: Whether the next one must have another key.

        Raises:
            StorageError: If that cannot be stored.
        """
        entry = await self.read(certificate)
        if is_compromised:  # an unfinished order may have the same key
            await trio.to_thread.run_sync(self.storage.remove, f"orders/{certificate.stem}.json")
        record = evolve(entry.record, is_forced=True, is_compromised=is_compromised, not_before=0.0)
        await trio.to_thread.run_sync(self.storage.write_json, _record_file(certificate), record.as_json())

    async def _write_record(self, certificate: ManagedCertificate, record: Record) -> None:
        try:
            await trio.to_thread.run_sync(
                self.storage.write_json, _record_file(certificate), record.as_json()
            )
        except StorageError:
            self._unwritten[certificate.stem] = record
        else:
            self._unwritten.pop(certificate.stem, None)
