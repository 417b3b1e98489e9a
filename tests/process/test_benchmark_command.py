"""The benchmark command without a measurement: its answers to mistakes, and charts of given results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

BENCHMARK = Path(__file__).parents[2] / "scripts" / "benchmark"
SVG = "{http://www.w3.org/2000/svg}"


def run_benchmark(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, BENCHMARK / "compare.py", *arguments], capture_output=True, text=True
    )


def results(**figures: dict[str, dict[str, list[float]]]) -> str:
    cases = [name.replace("_", "-") for name in figures]
    values: dict[str, object] = {
        "about": "1 round",
        "proxies": ["haproxy", "mailproxy", "portable"],
        "cases": cases,
        "figures": dict(zip(cases, figures.values(), strict=True)),
        "differences": {},
        "faults": [],
        "tls": {},
    }
    return json.dumps(values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "nope"], "no case 'nope'"),
        (["--proxies", "haproxy,squid"], "no proxy 'squid'"),
        (["--proxies", "mailproxy-1"], "no proxy 'mailproxy-1'"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--workers", "1"], "--workers must be at least 2"),
    ],
)
def test_mistake_is_reported_in_one_line(arguments: list[str], message: str) -> None:
    completed = run_benchmark(*arguments)
    assert completed.returncode == 2
    assert message in completed.stderr
    assert completed.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["", "[]", '{"proxies": []}'])
def test_invalid_results_are_not_drawn(text: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(text)
    completed = run_benchmark("--draw", tmp_path / "results.json", tmp_path / "chart.svg")
    assert completed.returncode == 2
    assert "has no results of this version" in completed.stderr
    assert not (tmp_path / "chart.svg").exists()


def test_chart_has_ratios_bounds_and_growth(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(
        results(
            sessions_clear={
                "cpu_us": {"haproxy": [100, 90, 110], "mailproxy": [200, 210, 190], "portable": [300]}
            },
            idle_tls_1000={"kib": {"haproxy": [16], "mailproxy": [24]}},
            idle_tls_9000={"kib": {"haproxy": [15], "mailproxy": [20]}},
        )
    )
    completed = run_benchmark("--draw", tmp_path / "results.json", tmp_path / "chart.svg")
    assert completed.returncode == 0, completed.stderr
    chart = ET.parse(tmp_path / "chart.svg")  # noqa: S314 - written by the test
    words = [text.text for text in chart.iter(f"{SVG}text")]
    assert {"mailproxy over HAProxy", "2.00", "≤ 2.2", "1.50", "1.33", "≤ 1.1"} <= set(words)
    assert "KiB per idle session, TLS" in words
    assert len(list(chart.iter(f"{SVG}polyline"))) == 2  # no line for sessions-clear, which is one point
