"""What operators see of certificates by ACME: commands, metrics, status and explanations."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from mailproxy.testing import ThrowAwayCA
from tests.admin.conftest import Administered, open_administered
from tests.support.acme.fake import FakeAuthority, problem
from tests.support.http_client import Scrape, request
from tests.support.ports import free_port
from tests.support.proxy.proxy_harness import ProxyHarness
from tests.support.timeouts import TIMEOUT_S, wait_until

NAME = "imap.example.com"
_METRICS = (
    "acme_last_attempt_seconds",
    "acme_last_attempt_success",
    "acme_failures",
    "acme_next_attempt_seconds",
)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailproxy.acme.order._FIRST_POLL_S", 0.02)


@pytest.fixture
def authority(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> Iterator[FakeAuthority]:
    with FakeAuthority(throw_away_ca, tmp_path, tmp_path / "acme" / "challenges") as authority:
        yield authority


class Managed:
    """A proxy whose frontend has a certificate of an authority."""

    def __init__(self, administered: Administered, http: int, file: Path) -> None:
        self.ask = administered.ask
        self.harness = administered.harness
        self.file = str(file)
        self._http = http

    async def status(self) -> Any:
        answer = await trio.to_thread.run_sync(functools.partial(request, self._http, "/api/status"))
        (entry,) = answer.json["acme"]
        return entry

    async def metrics(self) -> tuple[float, ...]:
        scrape = await trio.to_thread.run_sync(Scrape.of, self._http)
        return tuple(scrape.sum(name, name=self.file, authority="le") for name in _METRICS)

    async def explain(self) -> Any:
        port = self.harness.proxies[0].frontends["f"].addresses[0].rpartition(":")[2]
        return json.loads(await self.ask(f"explain client=127.0.0.1 port={port} sni={NAME} format=json"))


async def open_managed(
    harness: ProxyHarness, authority: FakeAuthority, folder: Path, **keys: object
) -> Managed:
    acme = {
        "directory": authority.directory,
        "ca": str(authority.ca.pem),
        "terms_agreed": True,
        "storage": str(folder / "acme"),
    }
    http = free_port()
    administered = await open_administered(
        harness,
        folder,
        acme={"le": {**acme, **keys}},
        frontends={"f": {"backend": "b", "bind": [{"address": "127.0.0.1:0", "mode": "tls"}], "tls": {"acme": "le", "names": [NAME]}}},
        admin={"http": f"127.0.0.1:{http}"},
    )  # fmt: skip
    return Managed(administered, http, folder / "acme" / "certificates" / f"{NAME}.ecdsa-p256.pem")


async def test_obtained_certificate(harness: ProxyHarness, authority: FakeAuthority, tmp_path: Path) -> None:
    managed = await open_managed(harness, authority, tmp_path)
    await harness.events("certificates-renewed")
    assert (await managed.ask("show ssl cert")).splitlines() == ["# filename", managed.file]
    answer = await managed.ask(f"show ssl cert {NAME}")
    assert "Status: Used\n" in answer
    assert "ACME section: le\n" in answer
    assert " GMT ok\n" in answer
    heading, row = (await managed.ask("acme status")).splitlines()
    assert heading == (
        "# certificate\tsection\tstate\texpiration date (UTC)\texpires in\tscheduled date (UTC)\tscheduled in"
    )
    cells = row.split("\t")
    assert cells[:3] == [managed.file, "le", "Scheduled"]
    assert cells[4].startswith("89d 23h")
    assert cells[6].startswith("59d 23h")
    status = await managed.status()
    assert (status["names"], status["last_result"], status["failures"]) == ([NAME], "ok", 0)
    assert status["last_attempt"] < status["next_attempt"] < status["not_after"]
    last, success, failures, due = await managed.metrics()
    assert (success, failures) == (1, 0)
    assert 1.7e9 < last < due
    answer = await managed.explain()
    assert (answer["certificate"], answer["end"]) == (managed.file, None)
    assert not any("self-signed" in step for step in answer["steps"])


async def test_certificate_that_is_refused_by_the_authority(
    harness: ProxyHarness, authority: FakeAuthority, tmp_path: Path
) -> None:
    authority.faults["neworder"] = [problem(403, "unauthorized", "not yours")]
    managed = await open_managed(harness, authority, tmp_path)
    await harness.events("acme-failed")
    with trio.fail_after(TIMEOUT_S):
        while (await managed.status())["failures"] == 0:  # noqa: ASYNC110 - made once a second
            await trio.sleep(0.05)
    reason = "the authority refuses: not yours (unauthorized)"
    assert (await managed.ask("show ssl cert")).splitlines() == ["# filename", managed.file]
    answer = await managed.ask(f"show ssl cert {managed.file}")
    assert "Status: Used (self-signed)\n" in answer
    assert f"GMT {reason}\n" in answer
    cells = (await managed.ask("acme status")).splitlines()[1].split("\t")
    assert cells[2:5] == ["Scheduled", "-", "-"]
    status = await managed.status()
    assert (status["not_after"], status["last_result"]) == (None, reason)
    _, success, failures, _ = await managed.metrics()
    assert (success, failures) == (0, 1)
    answer = await managed.explain()
    assert (answer["certificate"], answer["end"]) == (managed.file, None)
    assert (
        "That one is self-signed, until ACME has obtained the certificate (until_ready)." in answer["steps"]
    )


async def test_certificate_that_clients_have_to_wait_for(
    harness: ProxyHarness, authority: FakeAuthority, tmp_path: Path
) -> None:
    authority.faults["directory"] = [(500, b"", {})]
    managed = await open_managed(harness, authority, tmp_path, until_ready="refuse")
    await harness.events("acme-failed")
    assert "Status: Empty\n" in await managed.ask(f"show ssl cert {NAME}")
    answer = await managed.explain()
    assert (answer["certificate"], answer["end"]) == (None, "handshake-failed")


async def test_order_under_way(harness: ProxyHarness, authority: FakeAuthority, tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir(mode=0o700)
    # Of a process of another machine, which may be alive.
    (tmp_path / "acme" / "lock").write_text(
        json.dumps({"token": "x", "pid": 1, "host": "other", "boot": "x"})
    )
    managed = await open_managed(harness, authority, tmp_path)
    await harness.events("acme-started")
    assert (await managed.ask("acme status")).splitlines()[1].split("\t")[2] == "Running"
    assert (await managed.status())["is_running"]
    (tmp_path / "acme" / "lock").unlink()
    await harness.events("acme-obtained")
    await wait_until(lambda: Path(managed.file).exists())
    assert (await managed.ask("acme status")).splitlines()[1].split("\t")[2] == "Scheduled"
