"""The benchmark command without a measurement: its answers to mistakes, and charts of given results."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
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
        (["--proxies", "mailproxy,revision"], "the proxy 'revision' needs --compare REV"),
        (
            ["--haproxy", "/nonexistent"],
            "--haproxy /nonexistent: this is no HAProxy: /nonexistent: No such file",
        ),
        (["--haproxy", "/bin/true"], "--haproxy /bin/true: this is no HAProxy: no output"),
        (["--python", "/bin/false"], "/bin/false cannot run mailproxy: no output"),
        (["--compare", "no-such-revision"], "--compare no-such-revision: Git knows no such revision"),
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
    assert {"mailproxy over HAProxy", "2.00", "≤ 2.2", "1.50", "1.33", "≤ 0.95"} <= set(words)
    assert "KiB per idle session, TLS" in words
    assert len(list(chart.iter(f"{SVG}polyline"))) == 2  # no line for sessions-clear, which is one point


def haproxy_of_version(folder: Path, version: str) -> Path:
    """Write a program that says that it is this HAProxy."""
    program = folder / "haproxy"
    program.write_text(f"#!/bin/sh\necho 'HAProxy version {version} 2026/01/01 - https://haproxy.org/'\n")
    program.chmod(0o755)
    return program


def import_script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARK)
    return importlib.import_module(name)


def test_report_names_all_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs, machine = (import_script(name, monkeypatch) for name in ("programs", "machine"))
    haproxy = programs.find_haproxy(str(haproxy_of_version(tmp_path, "3.5-dev5-1a2b")))
    about = machine.about(["haproxy", "mailproxy", "portable"], 3, programs.Programs(haproxy=haproxy))
    assert about.startswith("medians of 3 rounds, HAProxy 3.5-dev5-1a2b, mailproxy 0.1.0")
    assert about.count("mailproxy") == 1
    assert f"Python {platform.python_version()} (" in about
    assert f"trio {importlib.metadata.version('trio')}, OpenSSL 3." in about
    assert re.search(r"Linux \d+\.\d+.*, \d+ cores? \(.+\)", about)


def test_commit_is_found_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    revision, errors = (import_script(name, monkeypatch) for name in ("revision", "errors"))
    if not (BENCHMARK.parents[1] / ".git").exists():
        pytest.skip("not a checkout")
    assert re.fullmatch("[0-9a-f]{40}", revision.find_commit("HEAD"))
    with pytest.raises(errors.UsageError, match=r"--compare HEAD:README\.md: Git knows no such revision"):
        revision.find_commit("HEAD:README.md")


def test_revision_that_refuses_the_configuration_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("revision", "configurations", "programs", "cases", "errors")
    revision, configurations, programs, cases, errors = (import_script(name, monkeypatch) for name in names)
    package = tmp_path / "revision" / "mailproxy"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import sys\nsys.exit(f'{sys.argv[1]}: no such key')\n")
    measured = programs.Programs(revision=package.parent, revision_name="v0 (abc)")
    ports = dict.fromkeys(cases.BINDS, 1143)
    setup = configurations.ProxySetup(tmp_path, tmp_path, ports, 1, 2, 3, measured)
    with pytest.raises(errors.UsageError) as refused:
        revision.check_revision(setup)
    assert str(refused.value).startswith("--compare: revision v0 (abc) does not accept the ")
    assert str(refused.value).endswith(": check: no such key")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed; scripts/test --peers installs it")
def test_two_versions_take_turns_and_leave_no_file(tmp_path: Path) -> None:
    if not (BENCHMARK.parents[1] / ".git").exists():
        pytest.skip("not a checkout")
    completed = subprocess.run(
        [sys.executable, BENCHMARK / "compare.py", "--compare=HEAD", "--cases=trips-clear", "--rounds=1"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert completed.returncode == 0, completed.stderr
    head = completed.stdout.partition("\n")[0]
    assert re.split("  +", head) == ["medians", "revision", "mailproxy", "mailproxy / revision"]
    assert "1 round, revision HEAD (" in completed.stdout
    assert list(tmp_path.iterdir()) == []


# Instructions


def counted(monkeypatch: pytest.MonkeyPatch, **values: list[float]) -> Any:
    """Return counts of one case, by proxy."""
    counts, cases = (import_script(name, monkeypatch) for name in ("counts", "cases"))
    case = cases.Case("sessions-clear", "sessions", "clear", (cases.Row("instructions", "session, clear"),))
    return counts.Counts(list(values), [case], {(case.name, name): each for name, each in values.items()})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "nope"], "no case 'nope'"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--proxies", "mailproxy-2"], "--proxies mailproxy-2: only one process can be counted"),
        (["--proxies", "squid"], "no proxy 'squid'"),
    ],
)
def test_mistake_in_counting_is_reported_in_one_line(arguments: list[str], message: str) -> None:
    completed = subprocess.run(
        [sys.executable, BENCHMARK / "instructions.py", *arguments], capture_output=True, text=True
    )
    assert completed.returncode == 2
    assert message in completed.stderr
    assert completed.stderr.count("\n") == 1


def test_counts_of_the_same_build_have_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_script("counts", monkeypatch)
    counts = counted(monkeypatch, mailproxy=[449_000.0, 451_000.0, 450_000.0])
    stored = module.Stored("another run", {"sessions-clear": 460_000})
    assert module.table(counts, stored) == [
        ["thousand instructions per", "mailproxy", "±", "stored", "change"],
        ["session, clear", "450.0", "0.2%", "460.0", "-2.2%"],
    ]
    assert module.table(counts, module.Stored("", {}))[1][3:] == ["-", "-"]  # a new case


def test_counts_of_another_build_have_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = counted(monkeypatch, mailproxy=[450_000.0])
    (head, _) = import_script("counts", monkeypatch).table(counts, None)
    assert head == ["thousand instructions per", "mailproxy", "±"]


def test_counts_of_two_versions_have_a_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = counted(monkeypatch, revision=[500_000.0], mailproxy=[450_000.0])
    head, row = import_script("counts", monkeypatch).table(counts, None)
    assert head[-1] == "mailproxy / revision"
    assert row == ["session, clear", "500.0", "0.0%", "450.0", "0.0%", "0.90"]


def test_saved_counts_leave_those_of_other_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_script("counts", monkeypatch)
    file = tmp_path / "counts.json"
    for build, count in (("Python 3.13.0", 440_000.0), ("Python 3.11.2", 450_000.0), ("Python 3.11.2", 4e5)):
        file.write_text(module.saved(counted(monkeypatch, mailproxy=[count]), build, "a run", file))
    stored = module.load_stored(file)
    assert {build: entry.counts["sessions-clear"] for build, entry in stored.items()} == {
        "Python 3.11.2": 400_000,
        "Python 3.13.0": 440_000,
    }


def test_stored_counts_are_of_the_cases_that_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, instructions = (import_script(name, monkeypatch) for name in ("counts", "instructions"))
    stored = counts.load_stored()
    assert stored
    for build, entry in stored.items():
        assert set(entry.counts) == {case.name for case in instructions.CASES}
        assert build in entry.about


def test_invalid_stored_counts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, errors = (import_script(name, monkeypatch) for name in ("counts", "errors"))
    (tmp_path / "counts.json").write_text('{"Python 3.11.2": 1}')
    with pytest.raises(errors.UsageError, match="has no counts"):
        counts.load_stored(tmp_path / "counts.json")
