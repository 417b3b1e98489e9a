"""Advice of ``mailproxy check --live`` about TLSA records that a certificate in use does not match."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import trio

from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config
from mailproxy.errors import Fault

if TYPE_CHECKING:
    from mailproxy.acme.tlsa import Service, Tlsa

_CONCURRENT = 20


def check_tlsa(config: Config, store: CertificateStore) -> list[Fault]:
    """Look up the TLSA records of all services, and return advice about those that match no certificate.

    Runs a trio loop of its own. Returns nothing without the extra ``acme``, which has the resolver.
    """
    if not store.certificates or importlib.util.find_spec("dns") is None:
        return []
    return trio.run(_check_all, config, store)


async def _check_all(config: Config, store: CertificateStore) -> list[Fault]:
    from mailproxy.acme.challenges.propagation import configured_servers, tlsa_records
    from mailproxy.acme.tlsa import services

    resolvers = [each for acme in config.acme.values() if acme.dns is not None for each in acme.dns.resolvers]
    servers = configured_servers(resolvers)
    all_services = list(services(config, store))
    records: dict[tuple[str, int], list[Tlsa]] = {}
    limiter = trio.CapacityLimiter(_CONCURRENT)

    async def look_up(name: str, port: int) -> None:
        records[name, port] = await trio.to_thread.run_sync(
            tlsa_records, name, port, servers, limiter=limiter
        )

    async with trio.open_nursery() as nursery:
        for name, port in dict.fromkeys((each.name, each.port) for each in all_services):
            nursery.start_soon(look_up, name, port)
    return [
        fault for each in all_services if (fault := _advice(each, records[each.name, each.port])) is not None
    ]


def _advice(service: Service, records: list[Tlsa]) -> Fault | None:
    from mailproxy.acme.tlsa import chain_of

    chain = chain_of(service.certificate)
    if not records or any(record.matches(chain) for record in records):
        return None
    owner = f"_{service.port}._tcp.{service.name}"
    return Fault(
        service.path,
        f"no TLSA record of {owner} matches the certificate {service.certificate.path}, so that senders which verify DANE refuse "
        "it: publish what mailproxy certs tlsa prints",
    )
