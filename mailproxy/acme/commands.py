"""``mailproxy certs``: list, obtain, revoke and test certificates, in a process of its own.

It shares the storage with the running proxy, and its lock. The running proxy answers tls-alpn-01 for it, and
takes the result into use at its next scan of TLS files.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import trio

from mailproxy.acme.account import open_account
from mailproxy.acme.authority import FAILURES, Entry, read_entry
from mailproxy.acme.client import call
from mailproxy.acme.errors import AcmeError
from mailproxy.acme.keys import Issued, make_key
from mailproxy.acme.order import OrderFlow
from mailproxy.acme.service import make_authority
from mailproxy.acme.storage import Storage
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config
from mailproxy.config.acme_plan import AcmePlan, ManagedCertificate

Say = Callable[[str], None]

REASONS = {"unspecified": 0, "key-compromise": 1, "superseded": 4, "cessation-of-operation": 5}
"""Reasons of a revocation, with their codes in RFC 5280 section 5.3.1."""

_HEADINGS = ("name", "key", "until", "from", "next attempt", "last attempt")


def list_lines(config: Config, store: CertificateStore, names: tuple[str, ...]) -> Iterator[str]:
    """Yield the lines of a table: every name with the end of its certificate.

    Args:
        config: The configuration.
        store: Its TLS files.
        names: The names that are wanted; all of them if there is none.

    Raises:
        StorageError: If a storage cannot be read.
    """
    managed = {each.file: each for each in AcmePlan(config).certificates}
    rows = [row for each in managed.values() for row in _rows(read_entry(each))]
    for _, certificate in store.certificates.values():
        if certificate.path not in managed:
            until = _written(certificate.not_after.timestamp())
            source = str(certificate.path)
            rows += [(name, certificate.key_algorithm, until, source, "", "") for name in certificate.names]
    wanted = {name.lower() for name in names}
    rows = [_HEADINGS, *(row for row in rows if not wanted or row[0] in wanted)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _rows(entry: Entry) -> Iterator[tuple[str, ...]]:
    status = entry.status()
    until = _written(status.expiry) if status.expiry is not None else "none yet"
    last = ""
    if status.last_attempt is not None:
        last = f"{_written(status.last_attempt)} {status.last_result or 'under way'}"
    due = status.next_attempt or 0.0
    at = _written(due) if due > time.time() else "now"
    for name in status.names:
        yield name, status.key_type, until, f"acme.{status.authority}", at, last


def _written(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC"


async def obtain(certificates: Sequence[ManagedCertificate], say: Say, complain: Say) -> bool:
    """Obtain certificates, also those that are not due. Return whether all were issued."""
    is_good = True
    for certificate in certificates:
        try:
            authority = make_authority(certificate, {}, partial(_say_waiting, certificate, complain))
            issued = await authority.obtain(certificate, is_forced=True)
        except FAILURES as error:
            complain(f"{certificate}: {error}")
            is_good = False
        else:
            assert issued is not None  # noqa: S101 - a forced order is made in any case
            say(f"{certificate}: obtained, valid until {_end_of(issued)}")
    return is_good


async def test(certificates: Sequence[ManagedCertificate], say: Say, complain: Say) -> bool:
    """Obtain certificates at the authority's test directory, and keep nothing. Return whether all were issued."""
    is_good = True
    for certificate in certificates:
        directory = certificate.acme.test_directory
        try:
            await trio.to_thread.run_sync(Storage(certificate.acme.storage).prepare)
            lock = make_authority(certificate, {}, partial(_say_waiting, certificate, complain)).lock()
            issued = await lock.run(partial(_test_one, certificate, directory))
        except FAILURES as error:
            complain(f"{certificate}: {error} ({directory})")
            is_good = False
        else:
            issuer = issued.leaf.issuer.rfc4514_string()
            say(f"{certificate}: {directory} has issued a certificate ({issuer}); it was not kept")
    return is_good


def _say_waiting(certificate: ManagedCertificate, complain: Say, holder: str) -> None:
    complain(f"{certificate}: waits for {holder}, which holds {certificate.acme.storage / 'lock'}")


async def _test_one(certificate: ManagedCertificate, directory: str) -> Issued:
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(Path(folder))
        await trio.to_thread.run_sync(storage.prepare)
        client = await call(open_account, certificate.acme, storage, directory)
        # The solver has the real storage: the running proxy answers from there.
        flow = OrderFlow(
            certificate=certificate,
            storage=storage,
            client=client,
            directory=directory,
            solver=make_authority(certificate, {}).solver(),
        )
        return await flow.run(partial(make_key, certificate.key_type), None)


async def revoke(certificates: Sequence[ManagedCertificate], reason: str, say: Say, complain: Say) -> bool:
    """Revoke certificates, and have the running proxy obtain others. Return whether all were revoked."""
    is_good = True
    for certificate in certificates:
        authority = make_authority(certificate, {})
        try:
            issued = (await authority.read(certificate)).issued
            if issued is None:
                raise AcmeError("there is no certificate to revoke")
            client = await authority.client()
            await call(client.revoke, issued.leaf, REASONS[reason])
            await authority.force(certificate, is_compromised=reason == "key-compromise")
        except FAILURES as error:
            complain(f"{certificate}: {error}")
            is_good = False
        else:
            say(f"{certificate}: revoked; the running proxy obtains another one")
    return is_good


def _end_of(issued: Issued) -> str:
    return f"{issued.leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
