"""The results of a run, and the table that is made of them."""

from __future__ import annotations

import json
import os
import platform
import re
import ssl
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from cases import Case, Pair, chosen_pairs
from proxies import TITLES
from weighing import Worked, figures


@dataclass(frozen=True, slots=True)
class Results:
    """Every figure of every round, and every weighing that came to nothing."""

    proxies: list[str]
    cases: list[Case]
    values: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    slices: dict[tuple[str, str], dict[int, tuple[float, ...]]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    faults: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    negotiated: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, number: int, case: Case, proxy: str, worked: Worked) -> None:
        for figure, value in figures(case, worked).items():
            self.values[case.name, proxy, figure].append(value)
        self.slices[case.name, proxy][number] = worked.cpu_ns_of_slices
        self.negotiated[case.name][proxy] = worked.negotiated

    def fail(self, cases: list[Case], proxy: str, why: str) -> None:
        for case in cases:
            self.faults[case.name, proxy].append(why)

    def median(self, case: Case, proxy: str, figure: str) -> float | None:
        values = self.values.get((case.name, proxy, figure))
        return statistics.median(values) if values else None

    def differences(self, pair: Pair, proxy: str) -> list[float]:
        """Of each round, in µs: the median over its slices, each less its neighbour of the other case."""
        without, having = (self.slices.get((case, proxy), {}) for case in (pair.without, pair.having))
        return [
            statistics.median((more - less) / 1e3 for less, more in zip(less_of, having[number], strict=True))
            for number, less_of in without.items()
        ]

    def unlike(self) -> list[str]:
        """Cases in which the proxies had different cryptography to do."""
        return [f"{case}: {by}" for case, by in self.negotiated.items() if len(set(by.values())) > 1]


def rounded(value: float) -> str:
    """To three digits or the unit: no more can be had from such a run."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def cell(results: Results, case: Case, proxy: str, figure: str) -> str:
    median, faults = results.median(case, proxy, figure), len(results.faults.get((case.name, proxy), ()))
    if median is None:
        return "failed"
    return rounded(median) + (f" ({faults} failed)" if faults else "")


def difference(results: Results, pair: Pair, proxy: str) -> str:
    """To a tenth: it is between two large figures."""
    values = results.differences(pair, proxy)
    return f"{statistics.median(values):.1f}" if values else "failed"


def compared(proxies: list[str]) -> tuple[str, str] | None:
    """Which proxy is divided by which."""
    rest = [name for name in proxies if name != "haproxy"] or proxies
    over = "mailproxy" if "mailproxy" in proxies else rest[-1]
    under = "haproxy" if "haproxy" in proxies else proxies[0]
    return (over, under) if over != under else None


def ratio(results: Results, case: Case, figure: str, pair: tuple[str, str]) -> str:
    over, under = (results.median(case, proxy, figure) for proxy in pair)
    return f"{over / under:.2f}" if over is not None and under else "-"


def table(results: Results) -> list[list[str]]:
    against = compared(results.proxies)
    head = ["medians", *(TITLES[name] for name in results.proxies)]
    rows = [head + ([f"{TITLES[against[0]]} / {TITLES[against[1]]}"] if against else [])]
    for case in results.cases:
        for figure, words in case.rows.items():
            row = [words, *(cell(results, case, proxy, figure) for proxy in results.proxies)]
            rows.append(row + ([ratio(results, case, figure, against)] if against else []))
    for pair in chosen_pairs(results.cases):
        row = [pair.words, *(difference(results, pair, proxy) for proxy in results.proxies)]
        rows.append(row + (["-"] if against else []))
    return rows


def as_text(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def as_markdown(rows: list[list[str]]) -> str:
    rule = ["---", *("---:" for _ in rows[0][1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def version(name: str) -> str:
    command = {"haproxy": ["haproxy", "-v"], "nginx": ["nginx", "-v"]}.get(
        name, [sys.executable, "-m", name, "--version"]
    )
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"\d+(\.\d+)+\S*", said.stdout + said.stderr)
    return f"{TITLES[name]} {found[0] if found else '(no version)'}"


def about(proxies: list[str], rounds: int) -> str:
    """What the figures were taken with."""
    cores = len(os.sched_getaffinity(0))
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    python = f"Python {platform.python_version()}, {' '.join(ssl.OPENSSL_VERSION.split()[:2])}"
    system = f"Linux {'.'.join(platform.release().split('.')[:2])}"
    machine = f"{cores} cores ({model[1].strip() if model else platform.machine()})"
    turns = "1 round" if rounds == 1 else f"medians of {rounds} rounds"
    return ", ".join([turns, *map(version, proxies), python, system, machine])


def as_json(results: Results, caption: str) -> str:
    values: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(dict))
    for (case, proxy, figure), rounds in results.values.items():
        values[case][figure][proxy] = rounds
    differences = {
        pair.words: {proxy: results.differences(pair, proxy) for proxy in results.proxies}
        for pair in chosen_pairs(results.cases)
    }
    faults = [
        {"case": case, "proxy": proxy, "faults": said} for (case, proxy), said in results.faults.items()
    ]
    return json.dumps(
        {
            "about": caption,
            "figures": values,
            "differences": differences,
            "faults": faults,
            "tls": results.negotiated,
        },
        indent=1,
    )
