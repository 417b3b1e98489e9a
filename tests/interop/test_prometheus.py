"""Prometheus and promtool read what is shipped for them, and a real run; HAProxy's exporter has the same names."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support.http_client import request
from tests.support.ports import free_port
from tests.support.worker_group import (
    GreetingServer,
    WorkerGroup,
    configuration,
    greeting_servers,
    wait_until,
)

pytestmark = [pytest.mark.peers, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "config" / "prometheus"
DASHBOARD = json.loads((ROOT / "config" / "grafana" / "mailproxy.json").read_text())

# Grafana publishes no JSON Schema of its dashboards. This is what its importer and its panels need.
PANEL: dict[str, Any] = {
    "type": "object",
    "required": ["id", "type", "title", "gridPos"],
    "properties": {
        "id": {"type": "integer"},
        "type": {"enum": ["row", "timeseries", "stat", "table"]},
        "gridPos": {
            "type": "object",
            "required": ["h", "w", "x", "y"],
            "additionalProperties": {"type": "integer", "minimum": 0},
            "properties": {"w": {"maximum": 24}, "x": {"maximum": 23}},
        },
        "targets": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["expr", "refId", "datasource", "legendFormat"],
                "properties": {"refId": {"pattern": "^[A-Z]$"}},
            },
        },
        "fieldConfig": {"type": "object", "required": ["defaults", "overrides"]},
    },
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["uid", "title", "schemaVersion", "panels", "templating", "time"],
    "properties": {
        "uid": {"type": "string", "maxLength": 40},
        "schemaVersion": {"type": "integer", "minimum": 36},
        "panels": {"type": "array", "minItems": 10, "items": PANEL},
        "templating": {
            "type": "object",
            "required": ["list"],
            "properties": {"list": {"type": "array", "items": {"required": ["name", "type", "query"]}}},
        },
    },
}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    """Return the dashboard's queries with its variables replaced, as Grafana does."""
    variables = {"$__rate_interval": "5m", "$instance": ".*", "$frontend": ".*", "$backend": ".*"}
    found = []
    for panel in panels():
        for target in panel["targets"]:
            text = target["expr"]
            for name, value in variables.items():
                text = text.replace(name, value)
            found.append(text)
    return found


def alerts() -> list[str]:
    """Return the expressions of the alerts, as Prometheus has read them."""
    text = (RULES / "mailproxy.rules.yml").read_text()
    names = re.findall(r"- alert: (\w+)", text)
    assert len(names) == len(set(names)) >= 12
    return names


def promtool(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(
        ["promtool", *arguments],
        cwd=RULES,
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_shipped_files_are_valid() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "mailproxy.rules.yml")
    assert "SUCCESS" in promtool("test", "rules", "mailproxy.rules.test.yml")


def test_every_alert_has_a_test() -> None:
    tested = set(re.findall(r"alertname: (\w+)", (RULES / "mailproxy.rules.test.yml").read_text()))
    assert set(alerts()) - tested == set()


def test_dashboard_fits_schema() -> None:
    jsonschema.validate(DASHBOARD, SCHEMA)
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels():
        cells = panel["gridPos"]
        assert cells["x"] + cells["w"] <= 24
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs))


@pytest.fixture(scope="module")
def servers() -> Iterator[list[GreetingServer]]:
    with greeting_servers("s1", "s2") as servers:
        yield servers


class Site(WorkerGroup):
    http: int


@pytest.fixture(scope="module")
def site(servers: list[GreetingServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    port, folder = free_port(), tmp_path_factory.mktemp("site")
    more = f'[admin]\nhttp = "127.0.0.1:{port}"\n[metrics]\nhaproxy_names = true'
    text = configuration(*servers, more=more, backend="stick = {}")
    with Site(text.replace('check = "none"', 'check = { type = "tcp", interval = "200ms" }'), folder) as site:
        site.http = port
        site.wait_for("mailproxy is ready")
        yield site


class Prometheus:
    """A Prometheus that scrapes one target with the rules that are shipped."""

    def __init__(self, folder: Path, target: int) -> None:
        self.port = free_port()
        shutil.copy(RULES / "mailproxy.rules.yml", folder)
        text = (RULES / "prometheus.yml").read_text().replace("127.0.0.1:8405", f"127.0.0.1:{target}")
        (folder / "prometheus.yml").write_text(text.replace("15s", "1s"))
        with (folder / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                 f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"],
                stderr=stderr,
            )  # fmt: skip

    def get(self, path: str, **parameters: str) -> Any:
        answer = request(self.port, f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}").json
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, text: str) -> list[Any]:
        result: list[Any] = self.get("query", query=text)["result"]
        return result

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def prometheus(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), site.http)
    try:

        def is_scraped() -> bool | None:
            try:
                return bool(prometheus.query('up{job="mailproxy"} == 1')) or None
            except (OSError, ValueError, AssertionError):
                return None

        wait_until(is_scraped)
        for _ in range(4):
            for _ in range(10):
                client = site.connect()
                assert client.greeting
                assert client.echoes()
                client.close()
            time.sleep(1.1)
        yield prometheus
    finally:
        prometheus.stop()


def test_metrics_are_valid_for_promtool(site: Site) -> None:
    for line in promtool("check", "metrics", text=request(site.http, "/metrics").text).splitlines():
        pytest.fail(line)


def test_prometheus_has_what_clients_did(prometheus: Prometheus) -> None:
    def value(text: str) -> float:
        result = prometheus.query(text)
        return float(result[0]["value"][1]) if result else 0.0

    expected = {
        "sum(mailproxy_sessions_ended_total)": 40,
        "sum(mailproxy_frontend_bytes_in_total)": 40 * 12,
        "sum(mailproxy_session_bytes_sum)": 40 * (12 + 12 + 4),
        "sum(mailproxy_session_seconds_count)": 40,
    }
    # All series are gone for a moment after a scrape that took longer than a second.
    wait_until(lambda: {text: value(text) for text in expected} == expected or None)


def test_every_query_of_the_dashboard_runs(prometheus: Prometheus) -> None:
    # These have no series before there is a certificate, TLS, or a pause of accepting.
    allowed = ("certificate_expiry", "tls_sessions", "handshake", "accept_pauses")
    left = [query for query in queries() if not any(word in query for word in allowed)]

    def all_have_series() -> bool:
        left[:] = [query for query in left if not prometheus.query(query)]
        return not left

    with contextlib.suppress(AssertionError):
        wait_until(all_have_series)
    assert left == []


def test_every_variable_of_the_dashboard_has_values(prometheus: Prometheus) -> None:
    for variable in DASHBOARD["templating"]["list"]:
        match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable.get("definition", ""))
        if match is not None:
            assert prometheus.get(f"label/{match[2]}/values", **{"match[]": match[1]})


def test_every_alert_is_evaluated_without_error(prometheus: Prometheus) -> None:
    def rules() -> list[Any] | None:
        (group,) = prometheus.get("rules")["groups"]
        return group["rules"] if all(rule["health"] != "unknown" for rule in group["rules"]) else None

    found = wait_until(rules)
    assert [rule["name"] for rule in found] == alerts()
    assert {rule["health"] for rule in found} == {"ok"}
    assert [rule["name"] for rule in found if rule["state"] == "firing"] == []


# What HAProxy has for HTTP, compression, caches, peers, memory pools and shared connections.
NOT_HERE = re.compile(
    r"http_|_http|cache|compress|zlib|peers|pool|ssl_rate|ssl_key|ssl_reuse|max_ssl|current_ssl|idle_connections|"
    r"header_rewriting|intercepted|responses_denied|response_errors|response_time|connection_reuses|need_connections|"
    r"pipes|run_queue|idle_time|unstoppable|busy_polling|spliced|bytes_out_rate|recv_logs|max_memory|limit_connection|"
    r"limit_session_rate|process_limit|queue_limit|agg_server_check_status|server_current_throttle|check_code|"
    r"backend_limit_sessions|backend_requests_denied|server_limit_sessions|listener_internal_errors|last_session"
)


def test_names_and_labels_are_those_of_haproxys_exporter(site: Site, tmp_path: Path) -> None:
    port, bind = free_port(), free_port()
    (tmp_path / "haproxy.cfg").write_text(f"""
defaults
    mode tcp
    timeout client 5s
    timeout server 5s
    timeout connect 2s
frontend prometheus
    mode http
    bind 127.0.0.1:{port}
    http-request use-service prometheus-exporter if {{ path /metrics }}
frontend imap
    bind 127.0.0.1:{bind} name l
    option socket-stats
    default_backend b
backend b
    stick-table type ip size 100 expire 10m
    stick on src
    server s1 127.0.0.1:{free_port()} check inter 200ms
""")
    process = subprocess.Popen(["haproxy", "-f", str(tmp_path / "haproxy.cfg")], stderr=subprocess.DEVNULL)
    try:

        def metrics() -> str | None:
            try:
                return request(port, "/metrics").text
            except OSError:
                return None

        theirs = names_and_labels(wait_until(metrics))
    finally:
        process.kill()
        process.wait()
    ours = names_and_labels(request(site.http, "/metrics").text)
    wanted = {name: labels for name, labels in theirs.items() if not NOT_HERE.search(name)}
    assert len(wanted) > 90
    missing = {name: labels for name, labels in wanted.items() if ours.get(name) != labels}
    assert missing == {}
    for name in wanted:
        assert (
            name.replace("haproxy_", "mailproxy_", 1) in ours or name == "haproxy_process_failed_resolutions"
        )


def names_and_labels(text: str) -> dict[str, frozenset[str]]:
    return {
        match[1]: frozenset(re.findall(r'(\w+)="', match[2] or ""))
        for match in re.finditer(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE)
    }
