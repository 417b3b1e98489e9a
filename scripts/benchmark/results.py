"""The results of a run: every figure of every round, kept as JSON, and what they were taken with."""

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

from cases import CASES, Case, Pair
from configurations import TITLES, kind_of
from faults import Mistake
from weighing import TICKETS, Worked, figures


@dataclass(slots=True)
class Results:
    """Every figure of every round, and every weighing that came to nothing."""

    proxies: list[str]
    cases: list[Case]
    about: str = ""
    values: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    differences: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    faults: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    negotiated: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, case: Case, proxy: str, worked: Worked) -> None:
        for figure, value in figures(case, worked).items():
            self.values[case.name, proxy, figure].append(value)
        self.negotiated[case.name][proxy] = worked.negotiated

    def add_difference(self, pair: Pair, proxy: str, weighed: dict[str, Worked]) -> None:
        """Of a round, in µs: the median over its slices, each less its neighbour of the other case."""
        without, having = (weighed[case].cpu_ns_of_slices for case in (pair.without, pair.having))
        self.differences[pair.words, proxy].append(
            statistics.median((more - less) / 1e3 for less, more in zip(without, having, strict=True))
        )

    def fail(self, cases: list[Case], proxy: str, why: str) -> None:
        for case in cases:
            self.faults[case.name, proxy].append(why)

    def median(self, case: Case, proxy: str, figure: str) -> float | None:
        values = self.values.get((case.name, proxy, figure))
        return statistics.median(values) if values else None

    def unlike(self) -> list[str]:
        """Cases in which the proxies had different cryptography to do."""
        return [
            f"{case}: {by}"
            for case, by in self.negotiated.items()
            if len({words.partition(TICKETS)[0] for words in by.values()})
            > 1  # who gives fewer may gain by it
        ]


def version(name: str) -> str:
    kind = kind_of(name)
    command = {"haproxy": ["haproxy", "-v"], "nginx": ["nginx", "-v"]}.get(
        kind.program, [sys.executable, "-m", "mailproxy", "--version"]
    )
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"\d+(\.\d+)+\S*", said.stdout + said.stderr)
    title = TITLES["mailproxy" if kind.program in ("portable", "limited") else kind.program]
    return f"{title} {found[0] if found else '(no version)'}"


def about(proxies: list[str], rounds: int) -> str:
    """What the figures were taken with."""
    cores = len(os.sched_getaffinity(0))
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    python = f"Python {platform.python_version()}, {' '.join(ssl.OPENSSL_VERSION.split()[:2])}"
    system = f"Linux {'.'.join(platform.release().split('.')[:2])}"
    machine = f"{cores} cores ({model[1].strip() if model else platform.machine()})"
    turns = "1 round" if rounds == 1 else f"medians of {rounds} rounds"
    return ", ".join([turns, *dict.fromkeys(map(version, proxies)), python, system, machine])


def as_json(results: Results) -> str:
    values: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(dict))
    for (case, proxy, figure), rounds in results.values.items():
        values[case][figure][proxy] = rounds
    differences: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for (words, proxy), rounds in results.differences.items():
        differences[words][proxy] = rounds
    faults = [
        {"case": case, "proxy": proxy, "faults": said} for (case, proxy), said in results.faults.items()
    ]
    told = {
        "about": results.about,
        "proxies": results.proxies,
        "cases": [case.name for case in results.cases],
        "figures": values,
        "differences": differences,
        "faults": faults,
        "tls": results.negotiated,
    }
    return json.dumps(told, indent=1, ensure_ascii=False)


def from_json(file: Path) -> Results:
    """What as_json gave. Raises Mistake if the file is something else, or of a version with other cases."""
    try:
        told = json.loads(file.read_text())
        results = Results(told["proxies"], [CASES[name] for name in told["cases"]], told["about"])
        for case, by_figure in told["figures"].items():
            for figure, by_proxy in by_figure.items():
                for proxy, rounds in by_proxy.items():
                    results.values[case, proxy, figure] = rounds
        for words, by_proxy in told["differences"].items():
            for proxy, rounds in by_proxy.items():
                results.differences[words, proxy] = rounds
        for fault in told["faults"]:
            results.faults[fault["case"], fault["proxy"]] = fault["faults"]
        results.negotiated.update(told["tls"])
    except OSError as error:
        raise Mistake(f"{file}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Mistake(f"{file} is no results of this version: {error!r}") from None
    return results
