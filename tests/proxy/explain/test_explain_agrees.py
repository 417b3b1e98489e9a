"""Generated configurations and clients: a session's record names what ``explain`` predicts, 500 times."""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import define, evolve, frozen

import mailproxy
from mailproxy.admin.single_target import SingleTarget
from mailproxy.certificates.loader import load_certificates
from mailproxy.errors import ConfigError
from mailproxy.log import Phase, SessionRecord, end_reasons
from mailproxy.pool import AdminState
from mailproxy.protocol.proxy_header import Command, HeaderV2, Protocol, format_v2
from mailproxy.proxy.explain import Explanation, Question, View, explain, offline_view
from mailproxy.testing import ThrowAwayCA
from tests.support.proxy.proxy_harness import Line, ProxyHarness

SEEDS = 20
CONFIGURATIONS = 5
CLIENTS = 5
NAMES = ["imap.example.com", "mx.example.net", "www.example.net", "other.example.org"]
PROTOCOLS = ["imap", "pop3"]
SERVERS = 4


@frozen
class Visit:
    """A client: the bind and what it sends. ``header`` is whether it comes behind a PROXY header."""

    frontend: str
    bind: int
    question: Question
    header: bool
    is_held: bool


@define
class Generator:
    """Makes configurations in which rules of all kinds overlap."""

    random: random.Random
    pems: list[str]
    servers: list[str]

    def maybe(self, chance: float = 0.4, **keys: list[Any]) -> Line:
        """Each key with one of its values, or not at all."""
        return {
            key: self.random.choice(values) for key, values in keys.items() if self.random.random() < chance
        }

    def some(self, items: list[Any], most: int = 3) -> list[Any]:
        return self.random.sample(items, self.random.randint(1, min(most, len(items))))

    def config(self) -> mailproxy.Config:
        while True:
            backends = {name: self.backend() for name in ("b", "c", "d")}
            frontends = {name: self.frontend(list(backends)) for name in ("f", "g")}
            used = {each.get("backend") for each in frontends.values()} | {
                route.get("backend") for each in frontends.values() for route in each.get("routes", ())
            }
            mapping = {
                "log": {"level": "error"},
                "frontends": frontends,
                "backends": {name: each for name, each in backends.items() if name in used},
            }
            try:
                return mailproxy.from_mapping(mapping)
            except ConfigError:  # some keys exclude each other
                continue

    def frontend(self, backends: list[str]) -> Line:
        binds = [self.bind(number) for number in range(self.random.randint(1, 3))]
        return {
            "protocol": "tcp",  # clients send TLS to binds in clear, and their sessions end as they like
            "log_null": True,
            "tls": {"certificates": self.some(self.pems), **self.maybe(strict_sni=[True], alpn=[PROTOCOLS])},
            "bind": [{"address": "127.0.0.1:0", "mode": "tls", "name": "always"}, *binds],
            **self.maybe(0.8, backend=backends),
            **self.maybe(0.8, routes=[[self.route(backends) for _ in range(self.random.randint(1, 4))]]),
            **self.maybe(
                0.3,
                max_sessions_per_client=[1, 2],
                max_session_rate_per_client=[{"count": 2, "per": "1h"}],
                max_sessions_per_client_exempt=[["192.0.2.0/28"]],
            ),
        }

    def bind(self, number: int) -> Line:
        return {
            "address": "127.0.0.1:0",
            "mode": self.random.choice(["forward", "tls", "passthrough"]),
            **self.maybe(0.5, accept_proxy=[["127.0.0.0/8"]]),
            **self.maybe(0.7, name=[f"n{number}"]),
        }

    def route(self, backends: list[str]) -> Line:
        conditions = self.maybe(
            0.5,
            sni=[self.some([*NAMES, "*.example.net"]), self.some(NAMES), False],
            alpn=[["imap"], ["pop3"]],
            client=[["192.0.2.0/24"], ["192.0.2.8/29", "2001:db8::/32"], ["127.0.0.0/8"]],
            port=[[143], [143, 993]],
        )
        action: Line = {"reject": True}
        if self.random.random() < 0.8:
            action = {"backend": self.random.choice(backends), **self.maybe(0.3, mode=["tls", "passthrough"])}
        return {**conditions, **action}

    def backend(self) -> Line:
        servers = [
            {
                "name": f"s{number}",
                "address": self.servers[number],
                **self.maybe(
                    0.25, weight=[0, 3], max_sessions=[1, 2], state=["drain", "maint"], backup=[True]
                ),
            }
            for number in sorted(self.some(list(range(SERVERS)), SERVERS))
        ]
        return {
            "servers": servers,
            "check": "none",
            "balance": self.random.choice(["leastconn", "roundrobin", "source", "first", "random"]),
            "timeouts": {"queue": "30ms"},
            **self.maybe(
                0.3, max_queue=[1], all_backups=[True], stick=[{}], send_proxy=["v1", "v2", "v2-ssl"]
            ),
        }

    def visit(self, config: mailproxy.Config, proxy: mailproxy.Proxy) -> Visit:
        name = self.random.choice(list(config.frontends))
        index = self.random.randrange(len(config.frontends[name].bind))
        bind = config.frontends[name].bind[index]
        listener = proxy._process.service.frontends[name].listeners[index]
        header = bool(bind.accept_proxy)
        client, port = f"127.0.0.{self.random.randint(2, 4)}", listener.port
        if header:
            client = self.random.choice(
                ["192.0.2.7", "192.0.2.9", "192.0.2.77", "198.51.100.1", "2001:db8::1"]
            )
            port = self.random.choice([143, 993, 995])
        assert port is not None
        question = Question(
            client=client,
            port=port,
            bind=f"{name}/{listener.name}",
            sni=self.random.choice([*NAMES, None]),
            alpn=tuple(self.some(PROTOCOLS)) if self.random.random() < 0.6 else (),
        )
        return Visit(name, index, question, header, self.random.random() < 0.5)


def assert_is_readable(explanation: Explanation) -> None:
    assert len(explanation.steps) == len(set(explanation.steps))
    assert all(step.endswith(".") for step in explanation.steps)


def assert_agrees(explanation: Explanation, record: SessionRecord) -> None:
    text = "\n".join(explanation.steps)
    assert_is_readable(explanation)
    assert (explanation.frontend, explanation.bind) == (record.frontend, record.bind)
    assert (explanation.backend or "") == record.backend, text
    if explanation.end is not None:
        assert (record.end, record.server) == (explanation.end, ""), text
        return
    waits = any("waits in the queue" in step for step in explanation.steps)
    assert record.end is not None
    assert record.end is end_reasons.QUEUE_TIMEOUT if waits else record.end.phase is Phase.DATA, (
        record,
        text,
    )
    if explanation.server is not None:
        assert record.server == explanation.server, text
    else:
        assert record.server in (explanation.candidates or ("",)), text


async def greet(stream: trio.SocketStream) -> None:
    """Greet, and end with the client."""
    try:
        await stream.send_all(b"* OK\r\n")
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        pass


@asynccontextmanager
async def connected(visit: Visit, address: str) -> AsyncIterator[None]:
    """Connect as this client, and get so far that the proxy has a server, or has ended the session."""
    host, _, port = address.rpartition(":")
    question, sock = visit.question, trio.socket.socket()
    if not visit.header:
        await sock.bind((question.client, 0))
    await sock.connect((host, int(port)))
    async with trio.SocketStream(sock) as stream:
        try:
            if visit.header:
                await stream.send_all(proxy_header(question))
            if question.sni is None and not question.alpn:
                context = client_context()
                secure = trio.SSLStream(stream, context, https_compatible=True)
            else:
                context = client_context(*question.alpn)
                secure = trio.SSLStream(stream, context, server_hostname=question.sni, https_compatible=True)
            await secure.do_handshake()
            await secure.receive_some()
        except trio.BrokenResourceError:
            pass  # in clear the server's greeting is no TLS; or the session was rejected
        yield


def client_context(*alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def proxy_header(question: Question) -> bytes:
    is_v6 = ":" in question.client
    return format_v2(
        HeaderV2(
            command=Command.PROXY,
            protocol=Protocol.TCP6 if is_v6 else Protocol.TCP4,
            source=(question.client, 40000),
            destination=("2001:db8::2" if is_v6 else "192.0.2.200", question.port),
        )
    )


@pytest.fixture
def pems(throw_away_ca: ThrowAwayCA) -> list[str]:
    return [
        str(throw_away_ca.issue("imap.example.com")),
        str(throw_away_ca.issue("*.example.net")),
        str(throw_away_ca.issue("mx.example.net", "other.example.com")),
    ]


@pytest.fixture
async def servers(nursery: trio.Nursery) -> list[str]:
    addresses = []
    for _ in range(SERVERS):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, greet, [listener])
        addresses.append("{}:{}".format(*listener.socket.getsockname()))
    return addresses


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_sessions_get_what_explain_says(
    harness: ProxyHarness, pems: list[str], servers: list[str], seed: int
) -> None:
    generator = Generator(random.Random(seed), pems, servers)  # noqa: S311 - no secret depends on it
    agreed = 0
    for _ in range(CONFIGURATIONS):
        config = generator.config()
        async with trio.open_nursery() as nursery:
            proxy: mailproxy.Proxy = await nursery.start(mailproxy.serve, config)
            agreed += await compare(generator, config, proxy)
            nursery.cancel_scope.cancel()
    assert agreed == CONFIGURATIONS * CLIENTS
    assert harness.lines() == []


async def compare(generator: Generator, config: mailproxy.Config, proxy: mailproxy.Proxy) -> int:
    """Send clients, one after the other, and return how many sessions were as explained."""
    process = proxy._process
    records: dict[int, SessionRecord] = {}
    process.service.log.subscribe(
        lambda record: records.update({record.id: record}) if isinstance(record, SessionRecord) else None
    )
    explained: dict[int, Explanation] = {}
    offline: View | None = offline_view(config, load_certificates(config), {})
    async with AsyncExitStack() as held:
        for number in range(CLIENTS):
            if generator.random.random() < 0.2:
                change_state(generator, proxy)
                offline = None
            visit = generator.visit(config, proxy)
            explanation = explain(SingleTarget(process).view, visit.question)
            if number == 0 and offline is not None and (asked := offline_question(visit, config)):
                assert_offline_agrees(explain(offline, asked), explanation)
            before = {*process.service.registry.sessions, *records}
            await held.enter_async_context(
                connected(visit, proxy.frontends[visit.frontend].addresses[visit.bind])
            )
            (session,) = {*process.service.registry.sessions, *records} - before
            explained[session] = explanation
            if not visit.is_held:
                await held.aclose()
            with trio.fail_after(30):
                while not visit.is_held and len(records) < len(explained):  # noqa: ASYNC110 - a count
                    await trio.sleep(0.001)
    with trio.fail_after(30):
        while len(records) < len(explained):  # noqa: ASYNC110 - a count, not an event
            await trio.sleep(0.001)
    for session, explanation in explained.items():
        assert_agrees(explanation, records[session])
    return len(explained)


def offline_question(visit: Visit, config: mailproxy.Config) -> Question | None:
    """The same question to the configuration alone, where port 0 is not known; None if the bind has no name."""
    binds = config.frontends[visit.frontend].bind
    name = binds[visit.bind].name
    if [each.name for each in binds].count(name) > 1:
        return None
    return evolve(visit.question, bind=f"{visit.frontend}/{name}")


def assert_offline_agrees(offline: Explanation, running: Explanation) -> None:
    assert (offline.route, offline.backend, offline.end) == (running.route, running.backend, running.end)
    assert offline.certificate == running.certificate
    assert set(running.candidates) <= set(offline.candidates)


def change_state(generator: Generator, proxy: mailproxy.Proxy) -> None:
    chance, backends = generator.random, list(proxy._process.service.backends.values())
    if backends:
        backend = chance.choice(backends)
        backend.set_state(chance.choice(list(backend.servers)), chance.choice(list(AdminState)))
