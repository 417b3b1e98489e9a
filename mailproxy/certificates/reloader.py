"""Certificates, keys, CAs and CRLs that are replaced on disk, taken up while the proxy runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mailproxy.certificates.store import CertificateStore, reload_certificates, stat_file
from mailproxy.certificates.watcher import ReloadResult
from mailproxy.config import Config
from mailproxy.display_path import shown
from mailproxy.errors import Fault
from mailproxy.net.tls.certificate import Certificate

EXPIRY_NOTICE = timedelta(days=14)
LIST_NOTICE = timedelta(days=1)  # revocation lists often live for a week


class CertificateReloader:
    """Looks whether files have changed and loads TLS anew. Blocks on files: for a thread, one call at a time.

    ``prepare``: what is new for binds is taken up by whoever gets it, where handshakes begin (see ``Terminator.prepare``).
    """

    def __init__(self, config: Config, material: CertificateStore, *, prepare: bool = False) -> None:
        self._config = config
        self._material = material
        self._before = material
        self._prepare = prepare

    @property
    def material(self) -> CertificateStore:
        """What is in use."""
        return self._material

    def scan(self, *, force: bool = False) -> ReloadResult | None:
        """Take up what has changed since the last look; ``anyway``: even if it seems that nothing has. None if nothing has."""
        known = self._material
        changed = [file for file, found in known.files.items() if stat_file(file) != found]
        if not changed and not force:
            return None
        self._before = known
        self._material = material = reload_certificates(self._config, known, stage=self._prepare)
        taken = dict(_taken_up(material, known, changed))
        return ReloadResult(
            files=tuple(taken),
            taken=tuple(dict.fromkeys(taken.values())),
            expiring=tuple(expiry_warnings(material, known)),
            faults=tuple(material.faults),
            server_contexts=material.server_contexts,
            staged=tuple(material.staged or ()),
        )

    def forget_last_scan(self) -> None:
        """What the last look found could not be taken up: it is news to the next one."""
        self._material = self._before

    def expiring(self) -> list[Fault]:
        """What is out of date, or will be within 14 days."""
        return list(expiry_warnings(self._material))


def _taken_up(
    material: CertificateStore, known: CertificateStore, changed: Sequence[Path]
) -> Iterator[tuple[Path, str]]:
    """The files that hold from now on, and those that do no more, each with what the log says of it."""
    before = {certificate.path: certificate for _, certificate in known.certificates.values()}
    now = {certificate.path: certificate for _, certificate in material.certificates.values()}
    keys = {certificate.key: certificate for certificate in now.values() if certificate.key is not None}
    said = set(changed)
    new = [path for path, each in now.items() if each != before.get(path) and each.key not in said]
    for file in dict.fromkeys([*changed, *new, *(path for path in before if path not in now)]):
        certificate = now.get(file) or keys.get(file)
        if file in material.rejected or file in material.folders:  # of a folder those are said that it holds
            continue
        if certificate is not None:
            yield file, f"{_describe(certificate)} ({certificate.path})"
        elif file in before:
            yield file, f"{', '.join(before[file].names)} no more ({file})"
        elif file in material.authorities:
            yield file, str(file)


def _describe(certificate: Certificate) -> str:
    names = ", ".join(certificate.names) or "no name"
    return f"{names} until {certificate.not_after:%Y-%m-%d}"


def expiry_warnings(material: CertificateStore, known: CertificateStore | None = None) -> Iterator[Fault]:
    """A line for each certificate and list that is out of date or soon will be; with the path of the key that names it.

    With ``known`` only of those that were not known before.
    """
    now = datetime.now(UTC)
    for which, (path, certificate) in material.certificates.items():
        if known is not None and known.certificates.get(which, ("", None))[1] == certificate:
            continue
        if fact := _date_warning(certificate.path, certificate.not_before, certificate.not_after, now):
            yield Fault(path, fact)
    for file, (path, end) in material.revocations.items():
        if known is not None and known.revocations.get(file, ("", None))[1] == end:
            continue
        if end is not None and end - now < LIST_NOTICE:
            yield Fault(
                path,
                f"{shown(file)}: is out of date from {end:%Y-%m-%d %H:%M} UTC on: then every client certificate is refused",
            )


def _date_warning(file: Path, begin: datetime, end: datetime, now: datetime) -> str:
    if not begin <= now <= end:
        return f"{shown(file)}: is not in date: from {begin:%Y-%m-%d} to {end:%Y-%m-%d}"
    if end - now < min(EXPIRY_NOTICE, (end - begin) / 3):  # some live for a week only
        return f"{shown(file)}: expires in {_time_left(end - now)}, on {_moment(end, now)}: renew it"
    return ""


def _time_left(left: timedelta) -> str:
    minutes = left // timedelta(minutes=1)
    if left >= timedelta(days=2):
        return f"{left.days} days"
    return f"{minutes // 60} hours" if minutes >= 2 * 60 else f"{minutes} minutes"


def _moment(end: datetime, now: datetime) -> str:
    return f"{end:%Y-%m-%d}" if end - now >= timedelta(days=2) else f"{end:%Y-%m-%d %H:%M} UTC"
