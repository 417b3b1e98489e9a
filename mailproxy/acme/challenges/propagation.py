"""Look-ups in the DNS: whether a TXT record can be seen, and the TLSA records of a service. They block."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rdatatype

# dnspython loads the types of records when they come, which may be after the change of user.
import dns.rdtypes.ANY.CNAME
import dns.rdtypes.ANY.NS
import dns.rdtypes.ANY.OPT
import dns.rdtypes.ANY.SOA
import dns.rdtypes.ANY.TLSA
import dns.rdtypes.ANY.TSIG
import dns.rdtypes.ANY.TXT
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.resolver
from attrs import frozen

from mailproxy.acme.errors import AcmeError
from mailproxy.acme.tlsa import Tlsa
from mailproxy.address import TcpAddress

_QUERY_TIMEOUT_S = 5.0
_POLL_S = 1.0
_PORT = 53
_ALIASES_MAX = 8


@frozen
class NameServer:
    """A name server."""

    host: str
    port: int

    def __str__(self) -> str:
        return self.host if self.port == _PORT else f"{self.host} port {self.port}"


def configured_servers(resolvers: Iterable[object]) -> list[NameServer]:
    """Return the name servers of ``resolvers``."""
    return [NameServer(each.host, each.port or _PORT) for each in resolvers if isinstance(each, TcpAddress)]


def wait_until_seen(
    name: str, values: Sequence[str], servers: Sequence[NameServer], *, timeout: float
) -> None:
    """Wait until every name server has these TXT records.

    Args:
        name: The owner of the records.
        values: The records.
        servers: The name servers; without one, the servers of the zone.
        timeout: Seconds.

    Raises:
        AcmeError: If one does not have them in time.
    """
    end = time.monotonic() + timeout
    reason = "no name server of the zone is known"
    while True:
        # Servers of one zone do not follow an alias into another zone.
        target = canonical(name, servers)
        asked = servers or _servers_of_zone(target)
        lagging = next(_lagging(target, values, asked), None)
        if lagging is None and asked:
            return
        reason = lagging or reason
        if time.monotonic() + _POLL_S > end:
            raise AcmeError(f"the TXT record of {name} cannot be seen after {timeout:g} s: {reason}")
        time.sleep(_POLL_S)


def _lagging(name: str, values: Sequence[str], servers: Iterable[NameServer]) -> Iterator[str]:
    for server in servers:
        try:
            seen = set(_texts(name, server))
        except (dns.exception.DNSException, OSError, EOFError) as error:
            yield f"{server}: {error}"
            continue
        if not set(values) <= seen:
            yield f"{server} does not have it"


def _texts(name: str, server: NameServer) -> Iterator[str]:
    response = query(name, "TXT", server)
    for rrset in response.answer:
        if rrset.rdtype == dns.rdatatype.TXT:
            for record in rrset:
                yield b"".join(record.strings).decode("latin-1")


def query(name: str, kind: str, server: NameServer) -> dns.message.Message:
    """Ask one name server, by TCP if the answer does not fit into a packet.

    Raises:
        dns.exception.DNSException, OSError: If it does not answer.
    """
    message = dns.message.make_query(name, kind)
    response, _ = dns.query.udp_with_fallback(
        message, server.host, port=server.port, timeout=_QUERY_TIMEOUT_S, ignore_unexpected=True
    )
    return response


def _servers_of_zone(name: str) -> list[NameServer]:
    """Return the addresses of the servers of the zone that has a name."""
    resolver = system_resolver()
    try:
        zone = dns.resolver.zone_for_name(name, resolver=resolver)
        hosts = [str(each.target) for each in resolver.resolve(zone, "NS")]
    except (dns.exception.DNSException, OSError):
        return []
    addresses: dict[str, None] = {}
    for host in hosts:
        for kind in ("A", "AAAA"):
            try:
                addresses.update(dict.fromkeys(str(each) for each in resolver.resolve(host, kind)))
            except (dns.exception.DNSException, OSError):
                continue
    return [NameServer(address, _PORT) for address in addresses]


def system_resolver() -> dns.resolver.Resolver:
    """Return a resolver with the system's name servers.

    Raises:
        AcmeError: If the system has none.
    """
    try:
        resolver = dns.resolver.Resolver()
    except (dns.exception.DNSException, OSError) as error:
        raise AcmeError(f"the system has no name server to ask: {error}") from None
    resolver.lifetime = _QUERY_TIMEOUT_S
    resolver.cache = None
    return resolver


def canonical(name: str, servers: Sequence[NameServer]) -> str:
    """Return the name that a chain of aliases (CNAME) leads to; the name itself without one."""
    for _ in range(_ALIASES_MAX):
        try:
            if servers:
                answer = query(name, "CNAME", servers[0]).answer
                targets = [
                    str(each.target)
                    for rrset in answer
                    for each in rrset
                    if rrset.rdtype == dns.rdatatype.CNAME
                ]
            else:
                targets = [str(each.target) for each in system_resolver().resolve(name, "CNAME")]
        except (dns.exception.DNSException, OSError, AcmeError):
            return name
        if not targets:
            return name
        name = targets[0].rstrip(".")
    return name


def tlsa_records(name: str, port: int, servers: Sequence[NameServer]) -> list[Tlsa]:
    """Return the TLSA records of a service; empty if there are none, or if no name server answers."""
    owner = f"_{port}._tcp.{name}"
    try:
        if servers:
            answer = query(owner, "TLSA", servers[0]).answer
            records = [each for rrset in answer if rrset.rdtype == dns.rdatatype.TLSA for each in rrset]
        else:
            records = list(system_resolver().resolve(owner, "TLSA"))
    except (dns.exception.DNSException, OSError, AcmeError):
        return []
    return [
        Tlsa(usage=each.usage, selector=each.selector, matching=each.mtype, data=bytes(each.cert))
        for each in records
    ]
