"""PROXY headers of HAProxy and mailproxy: the same for the same client, mutually understood, refused alike."""

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
from tests.support.interop.certificate_set import NAME, UNUSUAL, USUAL, CertificateSet
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

# Variants of headers in both configurations.
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
CLIENTS = {
    "clear": ProbeClient(tls=None),
    "clear, IPv6": ProbeClient(tls=None, host=HOST6),
    "TLS 1.2": ProbeClient(tls=TLS_1_2),
    "TLS 1.3": ProbeClient(),
    "TLS, IPv6": ProbeClient(host=HOST6),
    "a name": ProbeClient(server_name=NAME),
    "a name, TLS 1.2": ProbeClient(server_name=NAME, tls=TLS_1_2),
    "an unknown name": ProbeClient(server_name="unknown.example"),
    "a name in capitals": ProbeClient(server_name=NAME.upper()),
    "a name with an underline": ProbeClient(server_name="_mail.example.com"),
    "a long name": ProbeClient(server_name=".".join(["a" * 61] * 4)),
    "ALPN imap": ProbeClient(alpn=("imap",)),
    "ALPN of another protocol": ProbeClient(alpn=("h2",)),
    "ALPN that is not offered": ProbeClient(alpn=("pop3",)),
    "a certificate": ProbeClient(certificate="alice"),
    "a certificate, TLS 1.2": ProbeClient(certificate="alice", tls=TLS_1_2),
    "a certificate, resumed": ProbeClient(certificate="alice", resumes=True),
    "a certificate, TLS 1.2, resumed": ProbeClient(certificate="alice", tls=TLS_1_2, resumes=True),
    "resumed": ProbeClient(resumes=True),
    "a certificate without a name": ProbeClient(certificate="no-name"),
    "a certificate with two names": ProbeClient(certificate="two-names"),
    "a certificate beyond ASCII": ProbeClient(certificate="beyond-ascii"),
    "everything": ProbeClient(server_name=NAME, alpn=("imap",), certificate="alice", host=HOST6),
}

# Extensions that HAProxy sends and mailproxy omits, because a server may refuse the session for them.
OMITTED = {
    # Dovecot refuses an ALPN of another protocol. With send_proxy_tlvs = ["alpn"] every ALPN is sent.
    **{(sender, "ALPN of another protocol"): "ALPN" for sender in ("v2", "v2-ssl", "v2-ssl-cn")},
    # Dovecot also refuses an AUTHORITY that is no host name, such as one with an underline (RFC 1123 section 2.1).
    ("v2-all", "a name with an underline"): "AUTHORITY",
}


@pytest.fixture(scope="module")
def certificates() -> Iterator[CertificateSet]:
    with tempfile.TemporaryDirectory() as folder:
        yield CertificateSet.new(Path(folder))


def over_tls(
    path: EntryPath,
    certificates: CertificateSet,
    server_certificate: str,
    haproxy: str = "",
    mailproxy: str = "",
) -> EntryPath:
    """Return the path with a bind that terminates TLS with this certificate and asks for the client's."""
    return attrs.evolve(
        path,
        accept=f"ssl crt {certificates.path(server_certificate)} alpn imap,h2 {haproxy}",
        bind=[
            'mode = "tls"',
            f'tls = {{ certificates = ["{certificates.path(server_certificate)}"], alpn = ["imap", "h2"] {mailproxy} }}',
        ],
    )


@attrs.frozen
class HeaderFacts:
    """A header without variable parts: ports, ids, and checksums, which are verified when it is read."""

    protocol: int | str
    source: str
    destination: str
    tlvs: tuple[tuple[str, object], ...] = ()

    @classmethod
    def from_header(cls, header: Header) -> HeaderFacts:
        assert header.endpoints
        (source, _), (destination, _) = header.endpoints
        if isinstance(header, HeaderV1):
            return cls(header.protocol, source, destination)
        return cls(header.protocol, source, destination, tuple(cls._tlvs(header)))

    def without(self, kind: str) -> HeaderFacts:
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
    """The ports of both programs, and the headers that their server reads."""

    certificates: CertificateSet
    ports: tuple[Mapping[str, int], ...]
    headers: Queue[Header]

    def both(self, probe: ProbeClient, sender: str, server_certificate: str) -> tuple[HeaderFacts, ...]:
        return tuple(self._one(probe, ports, sender, server_certificate) for ports in self.ports)

    def _one(
        self, probe: ProbeClient, ports: Mapping[str, int], sender: str, server_certificate: str
    ) -> HeaderFacts:
        port = ports[f"{sender}-{server_certificate if probe.tls else 'clear'}"]
        with probe.connect(port, self.certificates) as connection:
            assert connection.receive_until_eof() == GREETING
            if probe.resumes:
                self.headers.get(timeout=TIMEOUT_S)  # of the first connection
            header = self.headers.get(timeout=TIMEOUT_S)
            assert header.endpoints == (connection.own, connection.other)
        return HeaderFacts.from_header(header)


@pytest.fixture(scope="module")
def senders(certificates: CertificateSet) -> Iterator[Senders]:
    """Run both programs in front of one server, which reads the headers."""
    with ExitStack() as stack:
        server, headers = stack.enter_context(header_server())
        paths = {}
        for name, sender in SENDERS.items():
            path = attrs.evolve(sender, server=server)
            paths[f"{name}-clear"] = path
            for server_certificate in (*USUAL, *UNUSUAL) if name == "v2-all" else USUAL:
                paths[f"{name}-{server_certificate}"] = over_tls(
                    path,
                    certificates,
                    server_certificate,
                    f"ca-file {certificates.ca} verify optional",
                    f', client_ca = "{certificates.ca}", client_verify = "optional"',
                )
        ports = []
        for program in PROGRAMS:
            ports.append(free_ports(paths))
            stack.enter_context(running(program, paths, ports[-1]))  # before the next ports are chosen
        yield Senders(certificates, tuple(ports), headers)


# Sent headers


@pytest.mark.parametrize("server_certificate", USUAL)
@pytest.mark.parametrize("probe", CLIENTS)
@pytest.mark.parametrize("sender", SENDERS)
def test_both_send_the_same_header(
    senders: Senders, sender: str, probe: str, server_certificate: str
) -> None:
    result, model = senders.both(CLIENTS[probe], sender, server_certificate)
    if kind := OMITTED.get((sender, probe)):
        assert kind in dict(model.tlvs)
        model = model.without(kind)
    assert result == model


@pytest.mark.parametrize("server_certificate", UNUSUAL)
def test_both_send_the_same_certificate_facts(senders: Senders, server_certificate: str) -> None:
    result, model = senders.both(CLIENTS["everything"], "v2-all", server_certificate)
    assert result == model


# Received headers

HAPROXY_LOG_FORMAT = "%f %ci:%cp %[dst]:%[dst_port] %[fc_pp_authority] %[fc_pp_unique_id]"
CHAIN_CLIENTS = {
    "clear": ProbeClient(tls=None),
    "clear, IPv6": ProbeClient(tls=None, host=HOST6),
    "TLS": ProbeClient(server_name=NAME),
    "TLS, IPv6": ProbeClient(server_name=NAME, host=HOST6),
}
ACCEPTS = EntryPath(accept="accept-proxy", bind=['accept_proxy = ["127.0.0.0/8"]'])
CHECK_SOURCE = "127.0.0.9"


@pytest.fixture(scope="module")
def proxy_pair(certificates: CertificateSet) -> Iterator[ProxyPair]:
    """Run each program in front of the other, with one step to the other or two steps and back.

    Binds named `first` lead to the other program's `last`. Those named `chain` lead to its `middle`, and from there to
    the `last` of their own program.
    """
    names = ["last", "health"]
    for sender in SENDERS:
        names += [f"{prefix}-{sender}" for prefix in ("first", "first-tls", "chain", "chain-tls", "middle")]
    with ExitStack() as stack:
        server = stack.enter_context(greeting_server())
        free = free_ports((program, name) for program in PROGRAMS for name in names)
        ports = {program: {name: free[program, name] for name in names} for program in PROGRAMS}
        started = {}
        for program, other in (PROGRAMS, PROGRAMS[::-1]):
            paths = {"last": attrs.evolve(ACCEPTS, server=server)}
            for sender, path in SENDERS.items():
                first = attrs.evolve(path, server=(HOST, ports[other]["last"]))
                chain = attrs.evolve(path, server=(HOST, ports[other][f"middle-{sender}"]))
                paths[f"first-{sender}"], paths[f"first-tls-{sender}"] = (
                    first,
                    over_tls(first, certificates, "ec"),
                )
                paths[f"chain-{sender}"], paths[f"chain-tls-{sender}"] = (
                    chain,
                    over_tls(chain, certificates, "ec"),
                )
                paths[f"middle-{sender}"] = attrs.evolve(first, accept=ACCEPTS.accept, bind=ACCEPTS.bind)
            if program is HAProxy:
                paths["health"] = EntryPath(
                    server=(HOST, ports[other]["last"]),
                    send=f"source {CHECK_SOURCE} send-proxy-v2 check inter 1s",
                )
            started[program] = stack.enter_context(
                running(program, paths, ports[program], log_format=f'"{HAPROXY_LOG_FORMAT}"', json=True)
            )
        yield ProxyPair(certificates, started[HAProxy], started[Mailproxy], ports)


@attrs.frozen
class ProxyPair:
    certificates: CertificateSet
    haproxy: Program
    mailproxy: Program
    ports: Mapping[type[HAProxy | Mailproxy], Mapping[str, int]]
    _written: dict[Program, int] = attrs.field(factory=dict)  # lines before the last session

    def connect_and_close(
        self, path: str, probe: ProbeClient, first_program: type[HAProxy | Mailproxy]
    ) -> tuple[str, str]:
        """Connect and return the client's address and the one that it connected to, as in a log."""
        for program in (self.haproxy, self.mailproxy):
            self._written[program] = len(program.log.lines())
        with probe.connect(self.ports[first_program][path], self.certificates) as connection:
            assert connection.receive_until_eof() == GREETING
            return join_host_port(*connection.own), join_host_port(*connection.other)

    def haproxy_line(self, client: str) -> list[str]:
        """Return from the line of HAProxy's `last`: destination address, authority and unique id."""
        client, port = client.rsplit(":", 1)
        start = re.escape(f"last {client.strip('[]')}:{port} ")
        return self._line(self.haproxy, f"{start}.*").split()[2:]

    def mailproxy_line(self, frontend: str, client: str) -> dict[str, str]:
        start = re.escape(f'"frontend":"{frontend}",') + ".*" + re.escape(f'"client":"{client}",')
        line: dict[str, str] = json.loads(self._line(self.mailproxy, f".*{start}.*"))
        return line

    def _line(self, program: Program, pattern: str) -> str:
        return program.log.wait_for(re.compile(pattern), after=self._written[program])[0]


def path_name(prefix: str, probe: ProbeClient, sender: str) -> str:
    return f"{prefix}{'-tls' if probe.tls else ''}-{sender}"


@pytest.mark.parametrize("probe", CHAIN_CLIENTS)
@pytest.mark.parametrize("sender", SENDERS)
def test_haproxy_reads_header_of_mailproxy(proxy_pair: ProxyPair, sender: str, probe: str) -> None:
    path = path_name("first", probe_client := CHAIN_CLIENTS[probe], sender)
    client, destination = proxy_pair.connect_and_close(path, probe_client, Mailproxy)
    logged = proxy_pair.haproxy_line(client)
    session = proxy_pair.mailproxy_line(path, client)
    has_all = sender == "v2-all"
    assert logged == [
        destination.replace("[", "").replace("]", ""),
        NAME if has_all and probe_client.tls else "-",
        session["id"] if has_all else "-",
    ]


@pytest.mark.parametrize("probe", CHAIN_CLIENTS)
@pytest.mark.parametrize("sender", SENDERS)
def test_mailproxy_reads_header_of_haproxy(proxy_pair: ProxyPair, sender: str, probe: str) -> None:
    client, _ = proxy_pair.connect_and_close(
        path_name("first", probe_client := CHAIN_CLIENTS[probe], sender), probe_client, HAProxy
    )
    line = proxy_pair.mailproxy_line("last", client)
    assert line["peer"].startswith(f"{HOST}:")
    assert line["peer"] != client
    assert line["server"] == "s1"


@pytest.mark.parametrize("probe", CHAIN_CLIENTS)
@pytest.mark.parametrize("sender", SENDERS)
def test_client_address_passes_through_mailproxy(proxy_pair: ProxyPair, sender: str, probe: str) -> None:
    client, destination = proxy_pair.connect_and_close(
        path_name("chain", probe_client := CHAIN_CLIENTS[probe], sender), probe_client, HAProxy
    )
    assert proxy_pair.haproxy_line(client)[0] == destination.replace("[", "").replace("]", "")
    assert proxy_pair.mailproxy_line(f"middle-{sender}", client)["peer"].startswith(f"{HOST}:")


@pytest.mark.parametrize("probe", CHAIN_CLIENTS)
@pytest.mark.parametrize("sender", SENDERS)
def test_client_address_passes_through_haproxy(proxy_pair: ProxyPair, sender: str, probe: str) -> None:
    client, _ = proxy_pair.connect_and_close(
        path_name("chain", probe_client := CHAIN_CLIENTS[probe], sender), probe_client, Mailproxy
    )
    assert proxy_pair.mailproxy_line("last", client)["peer"].startswith(f"{HOST}:")


def test_health_check_sends_local_header(proxy_pair: ProxyPair) -> None:
    checks = re.compile(f'.*"frontend":"last",.*"client":"{re.escape(CHECK_SOURCE)}:.*')
    line = json.loads(proxy_pair.mailproxy.log.wait_for(checks)[0])
    assert line["peer"] is None  # a LOCAL header was received
    assert line["phase"] != "proxy-header"
    assert " DOWN" not in proxy_pair.haproxy.log.text()


# Refusals of both programs


def refusals(certificates: CertificateSet, server: tuple[str, int]) -> dict[str, EntryPath]:
    """Return paths that refuse clients, without words as HAProxy does. The rules of the first two apply to IPv4 only."""
    rejects = EntryPath(
        protocol="tcp",
        server=server,
        rules=["tcp-request content reject if { src 127.0.0.0/8 }"],
        frontend=['routes = [{ client = ["127.0.0.0/8"], reject = true }]'],
    )
    clients = f'client_ca = "{certificates.ca}", client_crl = "{certificates.revoked}"'
    open_to_all, nowhere = EntryPath(server=server), EntryPath(protocol="tcp")
    asking = {
        f"{verify}-certificate": over_tls(
            open_to_all,
            certificates,
            "ec",
            f"ca-file {certificates.ca} crl-file {certificates.revoked} verify {verify}",
            f', {clients}, client_verify = "{verify}"',
        )
        for verify in ("required", "optional")
    }
    return {
        "rejects": rejects,
        "rejects-tls": over_tls(rejects, certificates, "ec"),
        "leads-nowhere": nowhere,
        "leads-nowhere-tls": over_tls(nowhere, certificates, "ec"),
        "strict-names": over_tls(open_to_all, certificates, "ec", "strict-sni", ", strict_sni = true"),
        **asking,
    }


INVALID_CERTIFICATES = ("foreign", "revoked", "expired", "foreign-chain")
REFUSED = {
    "a route": ("rejects", ProbeClient(tls=None)),
    "a route, TLS": ("rejects-tls", ProbeClient()),
    "a route, of a name": ("rejects-tls", ProbeClient(server_name=NAME)),
    "no backend": ("leads-nowhere", ProbeClient(tls=None)),
    "no backend, IPv6": ("leads-nowhere", ProbeClient(tls=None, host=HOST6)),
    "no backend, TLS": ("leads-nowhere-tls", ProbeClient()),
    "no backend, TLS 1.2": ("leads-nowhere-tls", ProbeClient(tls=TLS_1_2)),
    "an unknown name": ("strict-names", ProbeClient(server_name="unknown.example")),
    "an unknown name, TLS 1.2": ("strict-names", ProbeClient(server_name="unknown.example", tls=TLS_1_2)),
    "no name": ("strict-names", ProbeClient()),
    "no name, TLS 1.2": ("strict-names", ProbeClient(tls=TLS_1_2)),
    "a name below": ("strict-names", ProbeClient(server_name=f"a.{NAME}")),
    **{
        f"certificate: {certificate}, {version.name}, {verify}": (
            f"{verify}-certificate",
            ProbeClient(certificate=certificate, tls=version),
        )
        for verify in ("required", "optional")
        for certificate in (None, *INVALID_CERTIFICATES)
        for version in (TLS_1_2, ssl.TLSVersion.TLSv1_3)
        if verify == "required" or certificate
    },
}
ACCEPTED = {
    "no route": ("rejects", ProbeClient(tls=None, host=HOST6)),
    "no route, TLS": ("rejects-tls", ProbeClient(host=HOST6)),
    "a name": ("strict-names", ProbeClient(server_name=NAME)),
    "a name in capitals": ("strict-names", ProbeClient(server_name=NAME.upper())),
    "a required certificate": ("required-certificate", ProbeClient(certificate="alice")),
    "a required certificate, TLS 1.2": (
        "required-certificate",
        ProbeClient(certificate="alice", tls=TLS_1_2),
    ),
    "an optional certificate": ("optional-certificate", ProbeClient(certificate="alice")),
    "no certificate": ("optional-certificate", ProbeClient()),
}

Line = tcplog.Session | tcplog.FailedStart


@attrs.frozen
class RefusingProxies:
    """Both programs with paths that refuse clients."""

    certificates: CertificateSet
    programs: tuple[tuple[Program, Mapping[str, int]], ...]

    def both(self, path: str, probe: ProbeClient, *, greeting: bytes) -> Iterator[Line]:
        """Connect to both programs, expect the greeting or nothing, and yield their log lines."""
        for program, ports in self.programs:
            yield self._one(program, ports[path], probe, greeting)

    def _one(self, program: Program, port: int, probe: ProbeClient, greeting: bytes) -> Line:
        seen, received = len(tcplog.end_matches(program.log.lines())), b""
        with suppress(OSError), probe.connect(port, self.certificates) as connection:
            received = connection.receive_until_eof()
        assert received == greeting
        wait_until(lambda: len(tcplog.end_matches(program.log.lines())) > seen, f"a line\n{program.log!r}")
        (line,) = tcplog.end_matches(program.log.lines())[seen:]
        return tcplog.session(line) if line.re is tcplog.SESSION else tcplog.failed_start(line)


@pytest.fixture(scope="module")
def refusing_proxies(certificates: CertificateSet) -> Iterator[RefusingProxies]:
    with ExitStack() as stack:
        paths = refusals(certificates, stack.enter_context(greeting_server()))
        programs = []
        for program in PROGRAMS:
            ports = free_ports(paths)
            programs.append((stack.enter_context(running(program, paths, ports)), ports))
        yield RefusingProxies(certificates, tuple(programs))


@pytest.mark.parametrize("case", REFUSED)
def test_both_refuse_the_client(refusing_proxies: RefusingProxies, case: str) -> None:
    path, probe = REFUSED[case]
    result, model = refusing_proxies.both(path, probe, greeting=b"")
    assert result == model


@pytest.mark.parametrize("probe_client", ACCEPTED)
def test_both_accept_the_client(refusing_proxies: RefusingProxies, probe_client: str) -> None:
    path, probe = ACCEPTED[probe_client]
    result, model = refusing_proxies.both(path, probe, greeting=GREETING)
    assert isinstance(result, tcplog.Session)
    assert result == model
    assert (result.server, result.state) == ("s1", "--")
