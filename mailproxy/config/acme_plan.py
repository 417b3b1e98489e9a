"""The certificates that a configuration wants from ACME: their names, key types and files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import frozen

from mailproxy.config import model


@frozen(kw_only=True)
class ManagedCertificate:
    """One certificate that is obtained and renewed.

    Attributes:
        acme: Its authority.
        names: Its DNS names. The first one is its name in lists.
        key_type: The type of its key.
        stem: The name of its files in the storage, without suffix.
    """

    acme: model.Acme
    names: tuple[str, ...]
    key_type: model.KeyType
    stem: str

    @property
    def file(self) -> Path:
        """The PEM file with certificate, chain and key."""
        return self.acme.storage / "certificates" / f"{self.stem}.pem"

    def __str__(self) -> str:
        more = f" and {len(self.names) - 1} more" if len(self.names) > 1 else ""
        return f"{self.names[0]}{more} ({self.key_type})"


def certificate_groups(acme: model.Acme, names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the names of each certificate that a frontend's names make."""
    return [(name,) for name in names] if acme.certificate_per_name else [names]


class AcmePlan:
    """All certificates of a configuration that are obtained by ACME.

    Certificates are known by authority and names, so frontends with equal names share them.

    Attributes:
        certificates: All of them, in the order of the configuration.
    """

    def __init__(self, config: model.Config) -> None:
        self.certificates: list[ManagedCertificate] = []
        self._groups: dict[tuple[str, tuple[str, ...]], list[ManagedCertificate]] = {}
        self._config = config
        stems: dict[tuple[Path, str], int] = {}
        for tls in acme_tables(config):
            acme = config.acme[tls.acme or ""]
            for names in certificate_groups(acme, _names(tls)):
                if (acme.name, names) in self._groups:
                    continue
                # A file is named after the first name, so that it stays in use when others are added.
                stem = names[0].replace("*", "_wildcard")
                number = stems[acme.storage, stem] = stems.get((acme.storage, stem), 0) + 1
                suffix = f"-{number}" if number > 1 else ""
                group = [
                    ManagedCertificate(acme=acme, names=names, key_type=key, stem=f"{stem}{suffix}.{key}")
                    for key in dict.fromkeys(acme.keys)
                ]
                self._groups[acme.name, names] = group
                self.certificates += group

    def groups_of(self, tls: model.FrontendTls) -> Iterator[list[ManagedCertificate]]:
        """Yield the certificates of a ``tls`` table: one list for each set of names, by key type."""
        if tls.acme is not None:
            acme = self._config.acme[tls.acme]
            for names in certificate_groups(acme, _names(tls)):
                yield self._groups[acme.name, names]

    def select(self, wanted: tuple[str, ...]) -> list[ManagedCertificate]:
        """Return the certificates that have one of these names; all of them without a name.

        Raises:
            LookupError: With the name that no certificate has.
        """
        lowered = [name.lower() for name in wanted]
        for name in lowered:
            if not any(name in each.names for each in self.certificates):
                raise LookupError(name)
        return [each for each in self.certificates if not wanted or set(lowered) & set(each.names)]


def acme_tables(config: model.Config) -> Iterator[model.FrontendTls]:
    """Yield the ``tls`` tables of binds that use ACME, each once."""
    seen: set[model.FrontendTls] = set()
    for frontend in config.frontends.values():
        for bind in frontend.bind:
            tls = bind.tls
            if tls is None or tls.acme is None or tls in seen or not terminates(frontend, bind):
                continue
            seen.add(tls)
            yield tls


def terminates(frontend: model.Frontend, bind: model.Bind) -> bool:
    """Whether TLS of sessions may be terminated at a bind."""
    return frontend.terminates_tls(bind) or bind.mode == "starttls"


def challenge_names(config: model.Config) -> Mapping[str, Path]:
    """Return the names for which ``tls-alpn-01`` is answered, with the folder that has the answers."""
    return {
        name: certificate.acme.storage / "challenges"
        for certificate in AcmePlan(config).certificates
        if certificate.acme.challenge == "tls-alpn-01"
        for name in certificate.names
    }


def _names(tls: model.FrontendTls) -> tuple[str, ...]:
    # ``build`` replaces "routes" by the names of the routes.
    return tls.names if isinstance(tls.names, tuple) else ()
