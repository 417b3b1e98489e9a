"""HTTP beside a proxy: its pages, its token, and what it refuses."""

from __future__ import annotations

import base64
import functools
import ssl
from typing import Any

import pytest
import trio

import mailproxy
from mailproxy.admin.http.status import _detail
from mailproxy.log import SessionRecord, end_reasons
from mailproxy.testing import dial, greet_and_echo
from tests.support.http_client import TIMEOUT_S, Answer, Scrape, request
from tests.support.ports import free_port
from tests.support.proxy.proxy_harness import ProxyHarness

TOKEN = "0123456789abcdef0123456789abcdef"


class Site:
    """A proxy with frontend ``f``, backend ``b`` and server ``s1``, and clients of its HTTP in threads."""

    def __init__(self, harness: ProxyHarness, port: int) -> None:
        self.harness = harness
        self.port = port

    async def get(self, path: str, **options: Any) -> Answer:
        return await trio.to_thread.run_sync(functools.partial(request, self.port, path, **options))

    async def command(self, text: str, token: str = TOKEN, **options: Any) -> Answer:
        options = {"method": "POST", "body": text, "authorization": f"Bearer {token}", **options}
        return await self.get("/api/command", **options)

    async def scrape(self) -> Scrape:
        return await trio.to_thread.run_sync(Scrape.of, self.port)


async def open_site(harness: ProxyHarness, admin: dict[str, Any] | None = None, **changes: Any) -> Site:
    port = free_port()
    server = await harness.server(*[greet_and_echo(b"* OK\r\n")] * 20)
    token = harness.folder / "token"
    token.write_text(f"{TOKEN}\n")
    backends = {"b": {"servers": [{"name": "s1", "address": server.address}], "check": "none"}}
    merged = {"backends": backends, "frontends": {"f": {"backend": "b"}}, **changes}
    admin = {"http": f"127.0.0.1:{port}", "token_file": str(token), **(admin or {})}
    await harness.proxy(admin={key: value for key, value in admin.items() if value}, **merged)
    return Site(harness, port)


@pytest.fixture
async def site(harness: ProxyHarness) -> Site:
    return await open_site(harness)


async def test_metrics_are_text_or_openmetrics(site: Site) -> None:
    text = await site.get("/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=")
    assert 'mailproxy_server_status{proxy="b",server="s1",state="UP"} 1.0' in text.text
    assert "haproxy_" not in text.text
    assert "NaN" not in text.text
    metrics = await site.get("/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert metrics.text.endswith("# EOF\n")


async def test_haproxy_names_are_added(harness: ProxyHarness) -> None:
    site = await open_site(harness, metrics={"haproxy_names": True})
    text = (await site.get("/metrics")).text
    assert 'haproxy_server_status{proxy="b",server="s1",state="UP"} 1.0' in text
    assert "haproxy_process_failed_resolutions 0.0" in text
    assert "haproxy_sessions_ended" not in text


async def test_metrics_of_tls_sessions(harness: ProxyHarness) -> None:
    site = await open_site(harness, tls=True)
    client = await harness.dial(harness.proxies[0], tls=True)
    await client.receive_line()
    await client.close()
    await harness.session()
    scrape = await site.scrape()
    assert scrape.sum("tls_sessions_total", frontend="f", version="TLSv1.3") == 1
    assert scrape.sum("handshake_seconds_count", frontend="f") == 1
    assert scrape.sum("certificate_expiry_seconds", name=str(harness.pem)) > 1.7e9
    assert scrape.sum("process_ssl_connections_total") == 1


async def test_clear_counters_does_not_change_metrics(harness: ProxyHarness) -> None:
    site = await open_site(harness)
    client = await harness.dial(harness.proxies[0])
    await client.receive_line()
    await client.close()
    await harness.session()
    before = await site.scrape()
    # The level of HTTP is operator, and ``all`` needs admin: the admin socket has the same function.
    assert (await site.command("clear counters")).status == 200
    assert (await site.scrape()).went_back(before) == {}


async def test_health_and_readiness(site: Site) -> None:
    assert (await site.get("/healthz")).text == "ok\n"
    assert (await site.get("/readyz")).text == "ready\n"
    assert (await site.get("/readyz", method="HEAD")).body == b""
    await site.command("set server b/s1 state maint")
    answer = await site.get("/readyz")
    assert (answer.status, answer.text) == (503, "backend b has no server available\n")


async def test_answers_while_draining(site: Site) -> None:
    proxy = site.harness.proxies[0]
    client = await site.harness.dial(proxy)
    await client.receive_line()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(proxy.drain, TIMEOUT_S)
        with trio.fail_after(TIMEOUT_S):
            while (answer := await site.get("/readyz")).status == 200:
                pass
        assert (answer.status, answer.text) == (503, "stopping\n")
        assert (await site.get("/healthz")).status == 200
        assert (await site.scrape()).sum("process_stopping") == 1
        assert (await site.get("/api/status")).json["process"]["stopping"]
        await client.close()


async def test_status_describes_proxy(site: Site) -> None:
    client = await site.harness.dial(site.harness.proxies[0])
    await client.receive_line()
    await client.send(b"abc")
    await client.close()
    await site.harness.session()
    await site.command("set server b/s1 state drain")
    status = (await site.get("/api/status")).json
    server = status["backends"]["b"]["servers"]["s1"]
    assert (server["state"], server["sessions_total"], server["bytes_in"]) == ("DRAIN", 1, 3)
    assert status["frontends"]["f"]["binds"]["B"]["sessions_total"] == 1
    (end,) = status["recent_ends"]
    assert (end["end"], end["frontend"], end["server"]) == ("client-closed", "f", "s1")
    assert end["reason"].startswith("the client closed first")
    assert end["id"] == (await site.harness.session())["id"]
    assert status["recent_failures"] == []
    assert "Server b/s1 is going DRAIN" in status["events"][0]["message"] or any(
        "b/s1" in event["message"] for event in status["events"]
    )
    assert status["series"]["interval"] == 30
    assert "127.0.0.1:" not in str(status["recent_ends"])


@pytest.mark.parametrize(
    ("client", "detail", "shown"),
    [
        ("192.0.2.9:5", "192.0.2.9 has 2 sessions", "the client has 2 sessions"),
        ("[2001:db8::9]:5", "2001:db8::/64 has 2 sessions", "the client has 2 sessions"),
        ("[2001:db8::9]:5", "[2001:db8::9]:5 is in none", "the client:5 is in none"),
        ("[::ffff:192.0.2.9]:5", "192.0.2.9 has 2 sessions", "the client has 2 sessions"),
        ("unix:1", "no answer in time", "no answer in time"),
    ],
)
def test_details_do_not_name_the_client(client: str, detail: str, shown: str) -> None:
    record = SessionRecord(id=1, accepted=0.0, frontend="f", bind="b", tls=False, client=client)
    record.end, record.detail = end_reasons.CLIENT_LIMIT, detail
    assert _detail(record) == shown
    record.end = end_reasons.INTERNAL_ERROR
    assert _detail(record) == ""


async def test_status_is_not_made_again_within_the_interval(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.admin.http.app._CACHED_S", 1000.0)
    one, other = await site.get("/api/status"), await site.get("/api/status")
    assert one.body == other.body


async def test_series_have_points_of_the_last_hour(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.admin.http.run.INTERVAL_S", 0.05)
    monkeypatch.setattr("mailproxy.admin.http.app._CACHED_S", 0.0)
    site = await open_site(harness)
    client = await harness.dial(harness.proxies[0])
    await client.receive_line()
    with trio.fail_after(TIMEOUT_S):
        while True:
            status = (await site.get("/api/status")).json
            points = status["series"]
            if len(points["sessions"]) > 3 and points["sessions"][-1] == 1:
                break
    assert (sum(points["new"]), sum(points["bytes"])) == (1, 6)
    assert status["backends"]["b"]["servers"]["s1"]["series"]["new"] == points["new"]
    assert len(points["new"]) == len(points["failures"]) > 3
    await client.close()


async def test_commands_up_to_operator(site: Site) -> None:
    answer = await site.command("show servers state b")
    assert (answer.status, answer.text.splitlines()[0]) == (200, "1")
    assert (await site.command("set server b/s1 state drain")).status == 200
    denied = await site.command("set maxconn global 5")
    assert (denied.status, denied.text) == (403, "Permission denied\n")
    unknown = await site.command("set server b/nothing state drain")
    assert (unknown.status, unknown.text) == (400, "No such server.\n")
    assert (await site.command("show version\nshow info")).status == 400


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"token": "wrong"}, 401),
        ({"authorization": ""}, 401),
        ({"authorization": "Basic " + base64.b64encode(f"x:{TOKEN}".encode()).decode()}, 401),
        ({"authorization": "Basic !!!"}, 401),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"method": "GET", "body": None}, 405),
        ({"method": "PUT"}, 405),
    ],
)
async def test_command_is_refused(site: Site, options: dict[str, Any], status: int) -> None:
    assert (await site.command("set server b/s1 state maint", **options)).status == status
    assert (await site.get("/readyz")).status == 200


async def test_command_of_own_page_is_accepted(site: Site) -> None:
    answer = await site.command(
        "show version", origin=f"http://127.0.0.1:{site.port}", sec_fetch_site="same-origin"
    )
    assert answer.status == 200


async def test_no_commands_without_token_file(harness: ProxyHarness) -> None:
    site = await open_site(harness, {"token_file": None})
    assert (await site.command("show version")).status == 404
    assert (await site.get("/api/command")).status == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8405", "127.0.0.1.evil.example", "[::", "10.0.0.1"]
)
async def test_foreign_hosts_are_refused(site: Site, host: str) -> None:
    for path in ("/metrics", "/api/status", "/", "/healthz"):
        answer = await raw(site, path, host)
        assert answer.startswith(b"HTTP/1.1 421"), answer


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8405", "127.0.0.1", "127.9.9.9:1", "[::1]:8405", ""]
)
async def test_own_hosts_are_accepted(site: Site, host: str) -> None:
    assert (await raw(site, "/healthz", host)).startswith(b"HTTP/1.1 200")


async def raw(site: Site, path: str, host: str) -> bytes:
    client = await dial(f"127.0.0.1:{site.port}")
    await client.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    data = await client.receive_until_end()
    await client.close()
    return data


async def test_every_answer_has_security_headers(site: Site) -> None:
    for path in ("/", "/metrics", "/healthz", "/api/status", "/api/command", "/nothing"):
        headers = (await site.get(path)).headers
        policy = headers["content-security-policy"]
        assert "unsafe-inline" not in policy
        for directive in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"):
            assert directive in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


async def test_other_address_needs_tls_and_token(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.config.model.Admin.is_http_local", property(lambda _: False))
    site = await open_site(harness, {"tls": {"certificates": [str(harness.pem)]}})
    context = harness.ca.client_context()
    basic = "Basic " + base64.b64encode(f"me:{TOKEN}".encode()).decode()
    for path in ("/metrics", "/api/status", "/"):
        assert (await site.get(path, context=context)).status == 401
        assert (await site.get(path, context=context, authorization=f"Bearer {TOKEN}")).status == 200
        assert (await site.get(path, context=context, authorization=basic)).status == 200
    for path in ("/healthz", "/readyz"):
        assert (await site.get(path, context=context)).status == 200
    assert (await site.command("show version", context=context)).status == 200
    assert (await site.command("show version", context=context, authorization=basic)).status == 401
    with pytest.raises((ssl.SSLError, OSError)):
        await site.get("/healthz", context=ssl.create_default_context())
    assert (await site.get("/metrics", context=context)).headers["www-authenticate"]


async def test_advice_and_certificates_follow_a_reload(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.admin.http.advice._INTERVAL_S", 0.01)
    monkeypatch.setattr("mailproxy.admin.http.app._CACHED_S", 0.0)
    site = await open_site(harness)
    status = (await site.get("/api/status")).json
    assert "backends.idle" not in {each["key"] for each in status["advice"]}
    assert status["certificates"] == []
    mapping = harness.mapping(
        backends={"b": {"servers": ["127.0.0.1:1"], "check": "none"}, "idle": {"servers": ["127.0.0.1:2"]}},
        tls=True,
    )
    await harness.proxies[0].reload(mailproxy.from_mapping(mapping))
    with trio.fail_after(TIMEOUT_S):
        while "backends.idle" not in {each["key"] for each in status["advice"]}:
            status = (await site.get("/api/status")).json
    assert [each["file"] for each in status["certificates"]] == [str(harness.pem)]
    assert (await site.scrape()).sum("certificate_expiry_seconds", name=str(harness.pem)) > 0


async def test_renewed_certificate_is_used(harness: ProxyHarness) -> None:
    pem = harness.folder / "http.pem"
    pem.write_bytes(harness.ca.issue("127.0.0.1", "old.example").read_bytes())
    site = await open_site(harness, {"tls": {"certificates": [str(pem)]}})
    pem.write_bytes(harness.ca.issue("127.0.0.1", "new.example").read_bytes())
    harness.proxies[0].renew_certificates()
    await harness.events("certificates-renewed")
    assert (await site.get("/healthz", context=harness.ca.client_context())).status == 200
    scrape_text = (await site.get("/api/status", context=harness.ca.client_context())).text
    assert "new.example" in scrape_text
