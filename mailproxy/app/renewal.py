"""Certificates, keys, CAs and CRLs that are replaced on disk, taken up while the proxy runs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mailproxy.app.material import Material, look, renew_material
from mailproxy.config import Config
from mailproxy.errors import Fault
from mailproxy.proxy.watcher import Renewed

EXPIRY_NOTICE = timedelta(days=14)
LIST_NOTICE = timedelta(days=1)  # revocation lists often live for a week


class Renewal:
    """Looks whether files have changed and loads TLS anew. Blocks on files: for a thread, one call at a time.

    ``prepare``: what is new for binds is taken up by whoever gets it, where handshakes begin (see ``Terminator.prepare``).
    """

    def __init__(self, config: Config, material: Material, *, prepare: bool = False) -> None:
        self._config = config
        self._material = material
        self._before = material
        self._prepare = prepare

    @property
    def material(self) -> Material:
        """What is in use."""
        return self._material

    def look(self, *, anyway: bool = False) -> Renewed | None:
        """Take up what has changed since the last look; ``anyway``: even if it seems that nothing has. None if nothing has."""
        known = self._material
        changed = [file for file, found in known.files.items() if look(file) != found]
        if not changed and not anyway:
            return None
        self._before = known
        self._material = material = renew_material(self._config, known, prepare=self._prepare)
        return Renewed(
            files=tuple(file for file in changed if file not in material.kept),
            faults=tuple(material.faults),
            connectors=material.connectors,
            prepared=tuple(material.prepared or ()),
        )

    def find_again(self) -> None:
        """What the last look found could not be taken up: it is news to the next one."""
        self._material = self._before

    def expiring(self) -> list[Fault]:
        """What is out of date, or will be within 14 days."""
        return list(about_expiry(self._material))


def about_expiry(material: Material) -> Iterator[Fault]:
    """A line for each certificate and list that is out of date or soon will be; with the path of the key that names it."""
    now = datetime.now(UTC)
    for path, certificate in material.certificates.values():
        if fact := _about_dates(certificate.path, certificate.not_before, certificate.not_after, now):
            yield Fault(path, fact)
    for file, (path, end) in material.revocations.items():
        if end is not None and end - now < LIST_NOTICE:
            yield Fault(
                path,
                f"{file}: is out of date from {end:%Y-%m-%d %H:%M} UTC on: then every client certificate is refused",
            )


def _about_dates(file: Path, begin: datetime, end: datetime, now: datetime) -> str:
    if not begin <= now <= end:
        return f"{file}: is not in date: from {begin:%Y-%m-%d} to {end:%Y-%m-%d}"
    if end - now < EXPIRY_NOTICE:
        return f"{file}: expires in {(end - now).days} days, on {end:%Y-%m-%d}: renew it"
    return ""
