"""The fixtures of proxy tests, which also check that a proxy leaves nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from mailproxy.net.tls.close import dummy_socketpair
from mailproxy.testing import ThrowAwayCA
from mailproxy.testing.fixtures import RunProxy
from tests.support.proxy.backend_cluster import BackendCluster
from tests.support.proxy.proxy_harness import ProxyHarness
from tests.support.proxy.relays import Kind, pollers_for

dummy_socketpair()  # A process makes this pair once, when it first closes a TLS connection, and keeps it.


@pytest.fixture
def relay_kind() -> Kind:
    """The relay of the proxies. Tests with the mark ``ON_EACH`` run once with each."""
    return "auto"


@pytest.fixture(autouse=True)
def pollers(relay_kind: Kind) -> Iterator[None]:
    with pollers_for(relay_kind):
        yield


@pytest.fixture
async def harness(
    nursery: trio.Nursery, run_proxy: RunProxy, throw_away_ca: ThrowAwayCA, tmp_path: Path, relay_kind: Kind
) -> AsyncIterator[ProxyHarness]:
    harness = ProxyHarness(nursery, run_proxy, throw_away_ca, tmp_path, relay_kind)
    yield harness
    # The session's last error handler must have caught nothing: each act of a peer has an end reason.
    assert [line for line in harness.lines() if line["event"] == "session-fault"] == []


@pytest.fixture
def cluster(harness: ProxyHarness) -> BackendCluster:
    return BackendCluster(harness)


@pytest.fixture(autouse=True)
def prompt_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write log lines at once, because a thousand tests wait for one line each."""
    monkeypatch.setattr("mailproxy.log.writer._BATCH_S", 0.001)
