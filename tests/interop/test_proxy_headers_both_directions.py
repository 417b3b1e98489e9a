"""HAProxy and mailproxy send the same PROXY headers for the same client, understand each other's, and refuse alike."""

from __future__ import annotations

import json
import re
import ssl
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING

import attrs
import pytest

from mailproxy.address import join_host_port
from mailproxy.protocol.proxy_header import Header, HeaderV1, HeaderV2, Type, parse_ssl
from tests.support.interop.certificate_set import NAME, ODD, USUAL, CertificateSet
from tests.support.interop.entry_paths import HOST6, EntryPath, free_ports, running
from tests.support.interop.probe_client import ProbeClient
from tests.support.interop.scripted_session import GREETING, HOST, PROGRAMS
from tests.support.programs import tcplog
from tests.support.programs.greeting_server import greeting_server, header_server
from tests.support.programs.program import TIMEOUT_S, HAProxy, Mailproxy, Program, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = pytest.mark.peers

TLS_1_2 = ssl.TLSVersion.TLSv1_2

# What each is told to send.
ALL_OPTIONS = "ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id"
ALL_TLVS = '"authority", "alpn", "crc32c", "unique-id", "ssl-cipher", "cert-sig", "cert-key"'
SENDERS = {
    "v1": EntryPath(send="send-proxy", backend=['send_proxy = "v1"']),
    "v2": EntryPath(send="send-proxy-v2", backend=['send_proxy = "v2"']),
    "v2-ssl": EntryPath(send="send-proxy-v2-ssl", backend=['send_proxy = "v2-ssl"']),
    "v2-ssl-cn": EntryPath(send="send-proxy-v2-ssl-cn", backend=['send_proxy = "v2-ssl-cn"']),
    "v2-all": EntryPath(
        send=f"send-proxy-v2 proxy-v2-options {ALL_OPTIONS}",
        backend=['send_proxy = "v2-ssl-cn"', f"send_proxy_tlvs = [{ALL_TLVS}]"],
    ),
}
VISITORS = {
    "clear": ProbeClient(tls=None),
    "clear, IPv6": ProbeClient(tls=None, host=HOST6),
    "TLS 1.2": ProbeClient(tls=TLS_1_2),
    "TLS 1.3": ProbeClient(),
    "TLS, IPv6": ProbeClient(host=HOST6),
    "a name": ProbeClient(asks_for=NAME),
    "a name, TLS 1.2": ProbeClient(asks_for=NAME, tls=TLS_1_2),
    "an unknown name": ProbeClient(asks_for="unknown.example"),
    "a name in capitals": ProbeClient(asks_for=NAME.upper()),
    "a name with an underline": ProbeClient(asks_for="_mail.example.com"),
    "a long name": ProbeClient(asks_for=".".join(["a" * 61] * 4)),
    "ALPN imap": ProbeClient(alpn=("imap",)),
    "ALPN of another protocol": ProbeClient(alpn=("h2",)),
    "ALPN that is not offered": ProbeClient(alpn=("pop3",)),
    "a certificate": ProbeClient(shows="alice"),
    "a certificate, TLS 1.2": ProbeClient(shows="alice", tls=TLS_1_2),
    "a certificate, resumed": ProbeClient(shows="alice", comes_back=True),
    "a certificate, TLS 1.2, resumed": ProbeClient(shows="alice", tls=TLS_1_2, comes_back=True),
    "resumed": ProbeClient(comes_back=True),
    "a certificate without a name": ProbeClient(shows="nobody"),
    "a certificate with two names": ProbeClient(shows="both"),
    "a certificate beyond ASCII": ProbeClient(shows="beyond-ascii"),
    "everything": ProbeClient(asks_for=NAME, alpn=("imap",), shows="alice", host=HOST6),
}

# What HAProxy says and mailproxy does not: it may end the connection of a session that a server would have taken.
LEFT_OUT = {
    # Dovecot refuses an ALPN that is not its own protocol's; send_proxy_tlvs = ["alpn"] asks for every one
    **{(sender, "ALPN of another protocol"): "ALPN" for sender in ("v2", "v2-ssl", "v2-ssl-cn")},
    # and an AUTHORITY that is no host name, which an underline cannot be in (RFC 1123 section 2.1)
    ("v2-all", "a name with an underline"): "AUTHORITY",
}


@pytest.fixture(scope="module")
def papers() -> Iterator[CertificateSet]:
    with tempfile.TemporaryDirectory() as folder:
        yield CertificateSet.new(Path(folder))


def over_tls(
    way: EntryPath, papers: CertificateSet, shown: str, haproxys: str = "", ours: str = ""
) -> EntryPath:
    """The way with a bind that ends TLS, shows this certificate and asks for the client's."""
    return attrs.evolve(
        way,
        accept=f"ssl crt {papers.path(shown)} alpn imap,h2 {haproxys}",
        bind=[
            'mode = "tls"',
            f'tls = {{ certificates = ["{papers.path(shown)}"], alpn = ["imap", "h2"] {ours} }}',
        ],
    )


@attrs.frozen
class Said:
    """A header without what is never the same: ports, ids, checksums (which were right, or it would not have been read)."""

    protocol: int | str
    source: str
    destination: str
    tlvs: tuple[tuple[str, object], ...] = ()

    @classmethod
    def by(cls, header: Header) -> Said:
        assert header.endpoints
        (source, _), (destination, _) = header.endpoints
        if isinstance(header, HeaderV1):
            return cls(header.protocol, source, destination)
        return cls(header.protocol, source, destination, tuple(cls._tlvs(header)))

    def without(self, kind: str) -> Said:
        return attrs.evolve(self, tlvs=tuple(tlv for tlv in self.tlvs if tlv[0] != kind))

    @staticmethod
    def _tlvs(header: HeaderV2) -> Iterator[tuple[str, object]]:
        for tlv in header.tlvs:
            value: object = tlv.value
            if tlv.type == Type.SSL:
                outer = parse_ssl(tlv.value)
                inner = [(Type(inside.type).name, inside.value) for inside in outer.extensions]
                value = (outer.client, outer.verify, inner)
            elif tlv.type in (Type.UNIQUE_ID, Type.CRC32C):
                value = bool(tlv.value)
            yield Type(tlv.type).name, value


@attrs.frozen
class Senders:
    """The two programs' ports, and what their server has read."""

    papers: CertificateSet
    ports: tuple[Mapping[str, int], ...]
    headers: Queue[Header]

    def both(self, visitor: ProbeClient, sender: str, shown: str) -> tuple[Said, ...]:
        return tuple(self._one(visitor, ports, sender, shown) for ports in self.ports)

    def _one(self, visitor: ProbeClient, ports: Mapping[str, int], sender: str, shown: str) -> Said:
        port = ports[f"{sender}-{shown if visitor.tls else 'clear'}"]
        with visitor.connect(port, self.papers) as connection:
            assert connection.receive_until_eof() == GREETING
            if visitor.comes_back:
                self.headers.get(timeout=TIMEOUT_S)  # of the visit before
            header = self.headers.get(timeout=TIMEOUT_S)
            assert header.endpoints == (connection.own, connection.other)
        return Said.by(header)


@pytest.fixture(scope="module")
def senders(papers: CertificateSet) -> Iterator[Senders]:
    """Both in front of one server, which reads the headers."""
    with ExitStack() as stack:
        server, headers = stack.enter_context(header_server())
        ways = {}
        for name, sender in SENDERS.items():
            way = attrs.evolve(sender, server=server)
            ways[f"{name}-clear"] = way
            for shown in (*USUAL, *ODD) if name == "v2-all" else USUAL:
                ways[f"{name}-{shown}"] = over_tls(
                    way,
                    papers,
                    shown,
                    f"ca-file {papers.ca} verify optional",
                    f', client_ca = "{papers.ca}", client_verify = "optional"',
                )
        ports = []
        for program in PROGRAMS:
            ports.append(free_ports(ways))
            stack.enter_context(running(program, ways, ports[-1]))  # its ports are taken now
        yield Senders(papers, tuple(ports), headers)


# What each sends


@pytest.mark.parametrize("shown", USUAL)
@pytest.mark.parametrize("visitor", VISITORS)
@pytest.mark.parametrize("sender", SENDERS)
def test_both_say_the_same(senders: Senders, sender: str, visitor: str, shown: str) -> None:
    ours, model = senders.both(VISITORS[visitor], sender, shown)
    if kind := LEFT_OUT.get((sender, visitor)):
        assert kind in dict(model.tlvs)
        model = model.without(kind)
    assert ours == model


@pytest.mark.parametrize("shown", ODD)
def test_both_say_the_same_of_the_proxys_certificate(senders: Senders, shown: str) -> None:
    ours, model = senders.both(VISITORS["everything"], "v2-all", shown)
    assert ours == model


# What each understands of it

LINE_OF_HAPROXY = "%f %ci:%cp %[dst]:%[dst_port] %[fc_pp_authority] %[fc_pp_unique_id]"
ON_THE_WAY = {
    "clear": ProbeClient(tls=None),
    "clear, IPv6": ProbeClient(tls=None, host=HOST6),
    "TLS": ProbeClient(asks_for=NAME),
    "TLS, IPv6": ProbeClient(asks_for=NAME, host=HOST6),
}
ACCEPTS = EntryPath(accept="accept-proxy", bind=['accept_proxy = ["127.0.0.0/8"]'])
CHECKS_COME_FROM = "127.0.0.9"


@pytest.fixture(scope="module")
def crossing(papers: CertificateSet) -> Iterator[Crossing]:
    """Each program in front of the other: one step of the way, or two and back again.

    The binds of a `first` lead to the other program's `last`, those of a `chain` to its `middle` and then to their own
    program's `last`.
    """
    names = ["last", "health"]
    for sender in SENDERS:
        names += [f"{place}-{sender}" for place in ("first", "first-tls", "chain", "chain-tls", "middle")]
    with ExitStack() as stack:
        server = stack.enter_context(greeting_server())
        free = free_ports((program, name) for program in PROGRAMS for name in names)
        ports = {program: {name: free[program, name] for name in names} for program in PROGRAMS}
        started = {}
        for program, other in (PROGRAMS, PROGRAMS[::-1]):
            ways = {"last": attrs.evolve(ACCEPTS, server=server)}
            for sender, way in SENDERS.items():
                first = attrs.evolve(way, server=(HOST, ports[other]["last"]))
                chain = attrs.evolve(way, server=(HOST, ports[other][f"middle-{sender}"]))
                ways[f"first-{sender}"], ways[f"first-tls-{sender}"] = first, over_tls(first, papers, "ec")
                ways[f"chain-{sender}"], ways[f"chain-tls-{sender}"] = chain, over_tls(chain, papers, "ec")
                ways[f"middle-{sender}"] = attrs.evolve(first, accept=ACCEPTS.accept, bind=ACCEPTS.bind)
            if program is HAProxy:
                ways["health"] = EntryPath(
                    server=(HOST, ports[other]["last"]),
                    send=f"source {CHECKS_COME_FROM} send-proxy-v2 check inter 1s",
                )
            started[program] = stack.enter_context(
                running(program, ways, ports[program], log_format=f'"{LINE_OF_HAPROXY}"', json=True)
            )
        yield Crossing(papers, started[HAProxy], started[Mailproxy], ports)


@attrs.frozen
class Crossing:
    papers: CertificateSet
    haproxy: Program
    mailproxy: Program
    ports: Mapping[type[HAProxy | Mailproxy], Mapping[str, int]]
    _written: dict[Program, int] = attrs.field(factory=dict)  # lines before the last session

    def go(self, way: str, visitor: ProbeClient, begins: type[HAProxy | Mailproxy]) -> tuple[str, str]:
        """The client's address and the one that it asked for, as they are in a log."""
        for program in (self.haproxy, self.mailproxy):
            self._written[program] = len(program.log.lines())
        with visitor.connect(self.ports[begins][way], self.papers) as connection:
            assert connection.receive_until_eof() == GREETING
            return join_host_port(*connection.own), join_host_port(*connection.other)

    def haproxys_line(self, client: str) -> list[str]:
        """Of its `last`: the address that was asked for, the authority, the unique id."""
        client, port = client.rsplit(":", 1)
        start = re.escape(f"last {client.strip('[]')}:{port} ")
        return self._line(self.haproxy, f"{start}.*").split()[2:]

    def mailproxys_line(self, frontend: str, client: str) -> dict[str, str]:
        start = re.escape(f'"frontend":"{frontend}",') + ".*" + re.escape(f'"client":"{client}",')
        line: dict[str, str] = json.loads(self._line(self.mailproxy, f".*{start}.*"))
        return line

    def _line(self, program: Program, pattern: str) -> str:
        return program.log.wait_for(re.compile(pattern), behind=self._written[program])[0]


def on(place: str, visitor: ProbeClient, sender: str) -> str:
    return f"{place}{'-tls' if visitor.tls else ''}-{sender}"


@pytest.mark.parametrize("visitor", ON_THE_WAY)
@pytest.mark.parametrize("sender", SENDERS)
def test_haproxy_understands_mailproxy(crossing: Crossing, sender: str, visitor: str) -> None:
    way = on("first", who := ON_THE_WAY[visitor], sender)
    client, asked_for = crossing.go(way, who, Mailproxy)
    said = crossing.haproxys_line(client)
    session = crossing.mailproxys_line(way, client)
    has_all = sender == "v2-all"
    assert said == [
        asked_for.replace("[", "").replace("]", ""),
        NAME if has_all and who.tls else "-",
        session["id"] if has_all else "-",
    ]


@pytest.mark.parametrize("visitor", ON_THE_WAY)
@pytest.mark.parametrize("sender", SENDERS)
def test_mailproxy_understands_haproxy(crossing: Crossing, sender: str, visitor: str) -> None:
    client, _ = crossing.go(on("first", who := ON_THE_WAY[visitor], sender), who, HAProxy)
    line = crossing.mailproxys_line("last", client)
    assert line["peer"].startswith(f"{HOST}:")
    assert line["peer"] != client
    assert line["server"] == "s1"


@pytest.mark.parametrize("visitor", ON_THE_WAY)
@pytest.mark.parametrize("sender", SENDERS)
def test_an_address_comes_through_mailproxy(crossing: Crossing, sender: str, visitor: str) -> None:
    client, asked_for = crossing.go(on("chain", who := ON_THE_WAY[visitor], sender), who, HAProxy)
    assert crossing.haproxys_line(client)[0] == asked_for.replace("[", "").replace("]", "")
    assert crossing.mailproxys_line(f"middle-{sender}", client)["peer"].startswith(f"{HOST}:")


@pytest.mark.parametrize("visitor", ON_THE_WAY)
@pytest.mark.parametrize("sender", SENDERS)
def test_an_address_comes_through_haproxy(crossing: Crossing, sender: str, visitor: str) -> None:
    client, _ = crossing.go(on("chain", who := ON_THE_WAY[visitor], sender), who, Mailproxy)
    assert crossing.mailproxys_line("last", client)["peer"].startswith(f"{HOST}:")


def test_a_health_check_is_a_client_of_its_own(crossing: Crossing) -> None:
    checks = re.compile(f'.*"frontend":"last",.*"client":"{re.escape(CHECKS_COME_FROM)}:.*')
    line = json.loads(crossing.mailproxy.log.wait_for(checks)[0])
    assert line["peer"] is None  # a LOCAL header has come
    assert line["phase"] != "proxy-header"
    assert " DOWN" not in crossing.haproxy.log.text()


# Refusals that both have


def refusals(papers: CertificateSet, server: tuple[str, int]) -> dict[str, EntryPath]:
    """The two ways with a rule have it for IPv4; over IPv6 they are open."""
    rejects = EntryPath(
        server=server,
        rules=["tcp-request content reject if { src 127.0.0.0/8 }"],
        frontend=['routes = [{ client = ["127.0.0.0/8"], reject = true }]'],
    )
    clients = f'client_ca = "{papers.ca}", client_crl = "{papers.revoked}"'
    open_to_all = EntryPath(server=server)
    asking = {
        f"{verify}-certificate": over_tls(
            open_to_all,
            papers,
            "ec",
            f"ca-file {papers.ca} crl-file {papers.revoked} verify {verify}",
            f', {clients}, client_verify = "{verify}"',
        )
        for verify in ("required", "optional")
    }
    return {
        "rejects": rejects,
        "rejects-tls": over_tls(rejects, papers, "ec"),
        "leads-nowhere": EntryPath(),
        "leads-nowhere-tls": over_tls(EntryPath(), papers, "ec"),
        "strict-names": over_tls(open_to_all, papers, "ec", "strict-sni", ", strict_sni = true"),
        **asking,
    }


NO_GOOD = ("foreign", "revoked", "expired", "foreign-chain")
REFUSED = {
    "a route": ("rejects", ProbeClient(tls=None)),
    "a route, TLS": ("rejects-tls", ProbeClient()),
    "a route, of a name": ("rejects-tls", ProbeClient(asks_for=NAME)),
    "no backend": ("leads-nowhere", ProbeClient(tls=None)),
    "no backend, IPv6": ("leads-nowhere", ProbeClient(tls=None, host=HOST6)),
    "no backend, TLS": ("leads-nowhere-tls", ProbeClient()),
    "no backend, TLS 1.2": ("leads-nowhere-tls", ProbeClient(tls=TLS_1_2)),
    "an unknown name": ("strict-names", ProbeClient(asks_for="unknown.example")),
    "an unknown name, TLS 1.2": ("strict-names", ProbeClient(asks_for="unknown.example", tls=TLS_1_2)),
    "no name": ("strict-names", ProbeClient()),
    "no name, TLS 1.2": ("strict-names", ProbeClient(tls=TLS_1_2)),
    "a name below": ("strict-names", ProbeClient(asks_for=f"a.{NAME}")),
    **{
        f"certificate: {shows}, {version.name}, {verify}": (
            f"{verify}-certificate",
            ProbeClient(shows=shows, tls=version),
        )
        for verify in ("required", "optional")
        for shows in (None, *NO_GOOD)
        for version in (TLS_1_2, ssl.TLSVersion.TLSv1_3)
        if verify == "required" or shows
    },
}
TAKEN = {
    "no route": ("rejects", ProbeClient(tls=None, host=HOST6)),
    "no route, TLS": ("rejects-tls", ProbeClient(host=HOST6)),
    "a name": ("strict-names", ProbeClient(asks_for=NAME)),
    "a name in capitals": ("strict-names", ProbeClient(asks_for=NAME.upper())),
    "a required certificate": ("required-certificate", ProbeClient(shows="alice")),
    "a required certificate, TLS 1.2": ("required-certificate", ProbeClient(shows="alice", tls=TLS_1_2)),
    "an optional certificate": ("optional-certificate", ProbeClient(shows="alice")),
    "no certificate": ("optional-certificate", ProbeClient()),
}

Line = tcplog.Session | tcplog.FailedStart


@attrs.frozen
class Gates:
    """Both programs with all that they refuse."""

    papers: CertificateSet
    programs: tuple[tuple[Program, Mapping[str, int]], ...]

    def both(self, way: str, visitor: ProbeClient, *, greeting: bytes) -> Iterator[Line]:
        """The lines that they write; the client gets the greeting, or nothing."""
        for program, ports in self.programs:
            yield self._one(program, ports[way], visitor, greeting)

    def _one(self, program: Program, port: int, visitor: ProbeClient, greeting: bytes) -> Line:
        seen, got = len(tcplog.end_matches(program.log.lines())), b""
        with suppress(OSError), visitor.connect(port, self.papers) as connection:
            got = connection.receive_until_eof()
        assert got == greeting
        wait_until(lambda: len(tcplog.end_matches(program.log.lines())) > seen, f"a line\n{program.log!r}")
        (line,) = tcplog.end_matches(program.log.lines())[seen:]
        return tcplog.session(line) if line.re is tcplog.SESSION else tcplog.failed_start(line)


@pytest.fixture(scope="module")
def gates(papers: CertificateSet) -> Iterator[Gates]:
    with ExitStack() as stack:
        ways = refusals(papers, stack.enter_context(greeting_server()))
        programs = []
        for program in PROGRAMS:
            ports = free_ports(ways)
            programs.append((stack.enter_context(running(program, ways, ports)), ports))
        yield Gates(papers, tuple(programs))


@pytest.mark.parametrize("why", REFUSED)
def test_both_refuse(gates: Gates, why: str) -> None:
    way, visitor = REFUSED[why]
    ours, model = gates.both(way, visitor, greeting=b"")
    assert ours == model


@pytest.mark.parametrize("who", TAKEN)
def test_both_take(gates: Gates, who: str) -> None:
    way, visitor = TAKEN[who]
    ours, model = gates.both(way, visitor, greeting=GREETING)
    assert isinstance(ours, tcplog.Session)
    assert ours == model
    assert (ours.server, ours.state) == ("s1", "--")
