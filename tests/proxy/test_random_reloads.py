"""Random configurations one after the other, below clients that come and go: no reload breaks the proxy."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio

import mailproxy
from mailproxy.errors import ConfigError
from mailproxy.pool import AdminState
from mailproxy.testing import dial, greet_and_echo
from tests.support.pool_invariants import assert_invariants
from tests.support.proxy.proxy_harness import Line, ProxyHarness, ResourceSnapshot

RELOADS = 40
CLIENTS = 10
FAULTS = ("helper-failed", "session-fault", "check-fault", "unraisable")


class RandomConfig:
    """Makes configurations of a few names, so that most of them are there before and after a reload."""

    def __init__(self, seed: int, harness: ProxyHarness, addresses: list[str]) -> None:
        self.random = random.Random(seed)  # noqa: S311 - no secret depends on it
        self.harness = harness
        self.addresses = addresses
        folder = harness.folder
        self.binds = ["127.0.0.1:0", "127.0.0.2:0", "127.0.0.1:0", f"unix:{folder}/a", f"unix:{folder}/b"]

    def some(self, items: list[Any]) -> list[Any]:
        return self.random.sample(items, self.random.randint(1, len(items)))

    def maybe(self, **keys: list[Any]) -> Line:
        """Each key with one of its values, or not at all."""
        return {key: self.random.choice(values) for key, values in keys.items() if self.random.random() < 0.4}

    def make(self) -> mailproxy.Config:
        while True:
            try:
                return mailproxy.from_mapping(self.mapping())
            except ConfigError:  # some keys exclude each other
                continue

    def mapping(self) -> Line:
        backends = {name: self.backend() for name in self.some(["b", "c", "d"])}
        binds = self.some(self.binds)
        cut = self.random.randint(0, len(binds))
        parts = {"f": binds[:cut], "g": binds[cut:]}
        names = list(backends)
        frontends = {name: self.frontend(part, names) for name, part in parts.items() if part}
        return {
            "log": {"format": "json", "to": str(self.harness.log)},
            "process": self.maybe(drain_timeout=["0s", "50ms", "1s"]),
            "frontends": frontends,
            "backends": backends,
        }

    def frontend(self, binds: list[str], backends: list[str]) -> Line:
        route = {"client": [self.random.choice(["127.0.0.0/8", "192.0.2.0/24"])]}
        return {
            "protocol": "imap",
            "backend": self.random.choice(backends),
            "bind": [{"address": each, **self.bind()} for each in binds],
            **self.maybe(
                routes=[[{**route, "backend": each}] for each in backends],
                max_sessions=[0, 5, 50],
                max_sessions_per_client=[3, 100],
                max_session_rate_per_client=[{"count": 9999, "per": "1s"}, {"count": 9999, "per": "2s"}],
                log_start=[True, False],
            ),
        }

    def bind(self) -> Line:
        tls = {"certificates": [str(self.harness.pem)]}
        return self.random.choice([{}, {}, {"backlog": 7}, {"mode": "tls", "tls": tls}])

    def backend(self) -> Line:
        check = {"type": "tcp", "interval": "50ms", "fall": self.random.randint(1, 3)}
        return {
            "servers": [self.server(number) for number in self.some(list(range(len(self.addresses))))],
            "check": self.random.choice(["none", check]),
            "timeouts": {"queue": "5s"},
            **self.maybe(
                balance=["leastconn", "roundrobin", "source", "random"],
                stick=[{"size": 2}, {"size": 100}],
                on_marked_down=["shutdown-sessions"],
                observe=["connect"],
            ),
        }

    def server(self, number: int) -> Line:
        address = self.random.choice([self.addresses[number]] * 4 + self.addresses)
        return {
            "name": f"s{number}",
            "address": address,
            **self.maybe(
                weight=[0, 1, 5], max_sessions=[1, 3], state=["drain", "maint"], slow_start=["100ms"]
            ),
        }


async def connect_again_and_again(proxy: mailproxy.Proxy, chance: random.Random) -> None:
    while True:
        frontend = chance.choice(list(proxy.frontends.values()))
        try:
            async with await dial(chance.choice(frontend.addresses)) as client:
                with trio.move_on_after(chance.random() / 5):
                    await client.receive_line()
                    await client.send(b"x\r\n")
                    await client.receive_line()
        except (OSError, EOFError, AssertionError, trio.BrokenResourceError):
            pass  # its bind, its server or the limit
        await trio.sleep(0.01)


def change_at_run_time(proxy: mailproxy.Proxy, chance: random.Random) -> None:
    """Set a weight or a state, as an operator does."""
    server = chance.choice(list(chance.choice(list(proxy.backends.values())).servers.values()))
    server.set_weight(chance.randint(1, 4))
    server.set_state(chance.choice([state.value for state in AdminState]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_random_reloads_break_nothing(harness: ProxyHarness, seed: int) -> None:
    servers = [await harness.server(greet_and_echo(b"s\r\n")) for _ in range(4)]
    before = ResourceSnapshot.now()
    configs = RandomConfig(seed, harness, [server.address for server in servers])
    chance = random.Random(seed)  # noqa: S311 - no secret depends on it
    async with trio.open_nursery() as nursery:
        proxy: mailproxy.Proxy = await nursery.start(mailproxy.serve, configs.make())
        async with trio.open_nursery() as clients:
            for _ in range(CLIENTS):
                clients.start_soon(connect_again_and_again, proxy, chance)
            for _ in range(RELOADS):
                await proxy.reload(configs.make())
                for backend in proxy._service.backends.values():
                    assert_invariants(backend.pool)
                if chance.random() < 0.2:
                    change_at_run_time(proxy, chance)
                await trio.sleep(chance.random() / 20)
            clients.cancel_scope.cancel()
        await proxy.drain(0.1)
        assert proxy.sessions == 0
        for backend in proxy._service.backends.values():
            assert [server.sessions for server in backend.servers] == [0] * len(backend.servers)
    assert [line for line in harness.lines() if line["event"] in FAULTS] == []
    await before.wait_until_restored()
