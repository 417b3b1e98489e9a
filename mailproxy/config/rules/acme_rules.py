"""Rules for ``[acme.NAME]``, and for the frontends that use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import evolve

from mailproxy.address import TcpAddress
from mailproxy.config import model
from mailproxy.config.diagnostics import Diagnostics
from mailproxy.config.layers import MergedTable, Table
from mailproxy.config.lint.unknown_keys import suggest_nearest
from mailproxy.config.path import ROOT_PATH, ConfigPath
from mailproxy.config.values import to_display

_CHALLENGE_OF = {"http": "http-01", "webroot": "http-01"}


def acme_path(name: str) -> ConfigPath:
    """Return the path of an authority's table."""
    return ROOT_PATH / "acme" / name


def check_acme(acme: model.Acme, table: Table, diagnostics: Diagnostics) -> None:
    """Check that an authority's keys fit each other."""
    path = acme_path(acme.name)
    if not acme.terms_agreed and not diagnostics.is_invalid(path / "terms_agreed"):
        diagnostics.add(
            path / "terms_agreed",
            "must be true: read the authority's terms of service, and agree to them with terms_agreed = true",
        )
    for key, challenge in _CHALLENGE_OF.items():
        if key in table and acme.challenge != challenge:
            diagnostics.add(
                path / key, f'has no meaning with challenge = "{acme.challenge}": only with "{challenge}"'
            )
    if acme.http is not None and acme.webroot is not None:
        diagnostics.add(path / "http", "is given beside webroot: the challenge is answered in one place")
    if acme.http is not None and not isinstance(acme.http, TcpAddress):
        diagnostics.add(path / "http", f'{acme.http} is no TCP address: give one such as "*:80"')
    if not acme.keys and not diagnostics.is_invalid(path / "keys", subtree=True):
        diagnostics.add(path / "keys", 'is empty: give key types, such as ["ecdsa-p256"]')
    if acme.reuse_key and acme.next_key:
        diagnostics.add(path / "next_key", "has no meaning with reuse_key: the next key would be the same")
    for index, contact in enumerate(acme.contact):
        if not contact.startswith(("mailto:", "tel:", "https:")):
            fact = f"{to_display(contact)} is no URL: write {to_display(f'mailto:{contact}')}"
            diagnostics.add(path / "contact" / index, fact)
    _check_dns(acme, path, diagnostics)


def check_storages(acme: Mapping[str, model.Acme], diagnostics: Diagnostics) -> None:
    """Check that each authority has a storage folder of its own: a folder has one account."""
    owners: dict[object, str] = {}
    for name, each in acme.items():
        owner = owners.setdefault(each.storage, name)
        if owner != name:
            diagnostics.add(
                acme_path(name) / "storage", f"{each.storage} is the storage of acme.{owner} already"
            )


def _check_dns(acme: model.Acme, path: ConfigPath, diagnostics: Diagnostics) -> None:
    if diagnostics.is_invalid(path / "dns", subtree=True):
        return
    hook, rfc2136 = (acme.dns.hook, acme.dns.rfc2136) if acme.dns is not None else (None, None)
    if acme.challenge == "dns-01" and hook is None and rfc2136 is None:
        diagnostics.add(
            path / "dns", 'is missing: dns-01 needs dns = { hook = "…" } or dns = { rfc2136 = { … } }'
        )
    elif hook is not None and rfc2136 is not None:
        diagnostics.add(path / "dns", "has both hook and rfc2136: give one")
    elif acme.challenge != "dns-01" and (hook is not None or rfc2136 is not None):
        fact = f'has no meaning with challenge = "{acme.challenge}": only with "dns-01"'
        diagnostics.add(path / "dns", fact)
    if rfc2136 is not None and not (isinstance(rfc2136.server, TcpAddress) and rfc2136.server.is_literal):
        diagnostics.add(path / "dns" / "rfc2136" / "server", f"{rfc2136.server} is no IP address")
    if acme.dns is not None:
        for index, resolver in enumerate(acme.dns.resolvers):
            if not isinstance(resolver, TcpAddress) or not resolver.is_literal:
                diagnostics.add(path / "dns" / "resolvers" / index, f"{resolver} is no IP address")


def with_names(frontend: model.Frontend) -> model.Frontend:
    """Return a frontend in which ``names = "routes"`` is replaced by the names of its routes."""
    names = tuple(
        dict.fromkeys(
            name
            for route in frontend.routes
            if isinstance(route.sni, tuple) and route.mode != "passthrough" and not route.reject
            for name in route.sni
        )
    )

    def replaced(tls: model.FrontendTls | None) -> model.FrontendTls | None:
        return evolve(tls, names=names) if tls is not None and tls.names == "routes" else tls

    binds = tuple(evolve(bind, tls=replaced(bind.tls)) for bind in frontend.bind)
    return evolve(frontend, tls=replaced(frontend.tls), bind=binds)


def check_tls(
    frontend: model.Frontend,
    binds: Sequence[MergedTable],
    acme_tables: Mapping[str, object],
    built: Mapping[str, model.Acme],
    diagnostics: Diagnostics,
) -> None:
    """Check that a frontend's ``tls.acme`` exists and has names that its challenge can prove.

    Args:
        frontend: The frontend with all that it inherits.
        binds: The tables of its binds.
        acme_tables: Every table of ``[acme]``, as it is written.
        built: Those of them without faults.
        diagnostics: Gets the faults.
    """
    for bind, merged in zip(frontend.bind, binds, strict=True):
        tls = bind.tls
        if tls is None or diagnostics.is_any_invalid(merged.candidates("tls"), subtree=True):
            continue
        if tls.acme is None:
            if tls.names is not None:
                diagnostics.add(merged.path_of("tls", "names"), "has no meaning without acme")
            continue
        path = merged.path_of("tls", "acme")
        if tls.acme not in acme_tables:
            remedy = suggest_nearest(tls.acme, acme_tables) or (
                f"; known are {', '.join(acme_tables)}" if acme_tables else f": add [acme.{tls.acme}]"
            )
            diagnostics.add(path, f"there is no acme {to_display(tls.acme)}{remedy}")
        elif tls.names is None:
            diagnostics.add(
                path,
                'needs names: give names = ["imap.example.com"], or names = "routes" for those of the routes',
            )
        elif not tls.names:
            diagnostics.add(merged.path_of("tls", "names"), "no route of this frontend has a name in sni")
        elif tls.acme in built:
            _check_names(built[tls.acme], tls.names, merged.path_of("tls", "names"), diagnostics)


def _check_names(acme: model.Acme, names: Sequence[str], path: ConfigPath, diagnostics: Diagnostics) -> None:
    wildcard = next((name for name in names if name.startswith("*.")), None)
    if wildcard is not None and acme.challenge != "dns-01":
        fact = f'{to_display(wildcard)} is a wildcard, which needs challenge = "dns-01" in [acme.{acme.name}]'
        diagnostics.add(path, fact)
