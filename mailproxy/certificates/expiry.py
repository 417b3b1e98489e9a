"""Warnings about certificates and revocation lists that are, or soon will be, out of date."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mailproxy.certificates.store import CertificateStore
from mailproxy.display_path import display_path
from mailproxy.errors import Fault

CERTIFICATE_NOTICE = timedelta(days=14)
REVOCATION_LIST_NOTICE = timedelta(days=1)  # revocation lists often live for a week


def expiry_warnings(store: CertificateStore, previous: CertificateStore | None = None) -> Iterator[Fault]:
    """Yield a warning for each certificate and revocation list that is out of date or soon will be.

    Soon is 14 days for a certificate, or a third of its lifetime if that is less, and one day for a
    revocation list.

    Args:
        store: What is in use.
        previous: Leave out what was in this store already.
    """
    now = datetime.now(UTC)
    for files, (path, certificate) in store.certificates.items():
        if previous is not None and previous.certificates.get(files, ("", None))[1] == certificate:
            continue
        if fact := _certificate_fact(certificate.path, certificate.not_before, certificate.not_after, now):
            yield Fault(path, fact)
    for file, (path, end) in store.revocations.items():
        if previous is not None and previous.revocations.get(file, ("", None))[1] == end:
            continue
        if end is not None and end - now < REVOCATION_LIST_NOTICE:
            yield Fault(
                path,
                f"{display_path(file)}: is out of date from {end:%Y-%m-%d %H:%M} UTC on: then every client certificate is refused",
            )


def _certificate_fact(file: Path, begin: datetime, end: datetime, now: datetime) -> str:
    if not begin <= now <= end:
        return f"{display_path(file)}: is not in date: from {begin:%Y-%m-%d} to {end:%Y-%m-%d}"
    # Some certificates live for a week only.
    if end - now < min(CERTIFICATE_NOTICE, (end - begin) / 3):
        return f"{display_path(file)}: expires in {_time_left(end - now)}, on {_date_of(end, now)}: renew it"
    return ""


def _time_left(left: timedelta) -> str:
    minutes = left // timedelta(minutes=1)
    if left >= timedelta(days=2):
        return f"{left.days} days"
    return f"{minutes // 60} hours" if minutes >= 2 * 60 else f"{minutes} minutes"


def _date_of(end: datetime, now: datetime) -> str:
    """Return the date of an end, with its time if it is less than two days away."""
    return f"{end:%Y-%m-%d}" if end - now >= timedelta(days=2) else f"{end:%Y-%m-%d %H:%M} UTC"
