"""The scale without weighing anything: what it says to mistakes, and what it makes of results that there are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

SCALE = Path(__file__).parents[2] / "scripts" / "benchmark"
SVG = "{http://www.w3.org/2000/svg}"


def scale(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCALE / "compare.py", *arguments], capture_output=True, text=True)


def results(**figures: dict[str, dict[str, list[float]]]) -> str:
    cases = [name.replace("_", "-") for name in figures]
    told: dict[str, object] = {
        "about": "1 round",
        "proxies": ["haproxy", "mailproxy", "portable"],
        "cases": cases,
        "figures": dict(zip(cases, figures.values(), strict=True)),
        "differences": {},
        "faults": [],
        "tls": {},
    }
    return json.dumps(told)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cases", "nope"], "no case 'nope'"),
        (["--proxies", "haproxy,squid"], "no proxy 'squid'"),
        (["--proxies", "mailproxy-1"], "no proxy 'mailproxy-1'"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--workers", "1"], "--workers must be at least 2"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], said: str) -> None:
    done = scale(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["", "[]", '{"proxies": []}'])
def test_what_is_no_results_is_not_drawn(text: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(text)
    done = scale("--draw", tmp_path / "results.json", tmp_path / "chart.svg")
    assert done.returncode == 2
    assert "has no results of this version" in done.stderr
    assert not (tmp_path / "chart.svg").exists()


def test_a_chart_has_ratios_with_bounds_and_growth(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(
        results(
            sessions_clear={
                "cpu_us": {"haproxy": [100, 90, 110], "mailproxy": [200, 210, 190], "portable": [300]}
            },
            idle_tls_1000={"kib": {"haproxy": [16], "mailproxy": [24]}},
            idle_tls_9000={"kib": {"haproxy": [15], "mailproxy": [20]}},
        )
    )
    done = scale("--draw", tmp_path / "results.json", tmp_path / "chart.svg")
    assert done.returncode == 0, done.stderr
    chart = ET.parse(tmp_path / "chart.svg")  # noqa: S314 - our own
    words = [text.text for text in chart.iter(f"{SVG}text")]
    assert {"mailproxy over HAProxy", "2.00", "≤ 2.2", "1.50", "1.33", "≤ 1.1"} <= set(words)
    assert "KiB per idle session, TLS" in words
    assert len(list(chart.iter(f"{SVG}polyline"))) == 2  # sessions-clear is one point: no line
