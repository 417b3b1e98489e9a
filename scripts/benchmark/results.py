"""The results of a run: every figure of every round, their JSON, and a description of the machine."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from cases import CASES, Case, Pair
from errors import UsageError
from runner import TICKETS, Measurement, figures


@dataclass(slots=True)
class Results:
    """Every figure of every round, and every failed measurement.

    Attributes:
        proxies: Names of variants.
        cases: The cases.
        about: The description of the machine and the versions.
        values: One figure for each round, by case, proxy and figure.
        differences: One difference in µs for each round, by title of the pair and proxy.
        faults: Errors by case and proxy.
        negotiated: The cryptography by case and proxy.
    """

    proxies: list[str]
    cases: list[Case]
    about: str = ""
    values: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    differences: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    faults: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    negotiated: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, case: Case, proxy: str, measurement: Measurement) -> None:
        for figure, value in figures(case, measurement).items():
            self.values[case.name, proxy, figure].append(value)
        self.negotiated[case.name][proxy] = measurement.negotiated

    def add_difference(self, pair: Pair, proxy: str, measurements: dict[str, Measurement]) -> None:
        """Add a round's median difference of neighbouring slices, in µs."""
        baseline, variant = (measurements[case].cpu_ns_of_slices for case in (pair.baseline, pair.variant))
        self.differences[pair.title, proxy].append(
            statistics.median((more - less) / 1e3 for less, more in zip(baseline, variant, strict=True))
        )

    def add_fault(self, cases: list[Case], proxy: str, reason: str) -> None:
        for case in cases:
            self.faults[case.name, proxy].append(reason)

    def median(self, case: Case, proxy: str, figure: str) -> float | None:
        values = self.values.get((case.name, proxy, figure))
        return statistics.median(values) if values else None

    def different_cryptography(self) -> list[str]:
        """Return the cases in which the proxies negotiated different cryptography."""
        return [
            f"{case}: {by_proxy}"
            for case, by_proxy in self.negotiated.items()
            # The number of tickets may differ: a proxy that sends fewer may gain by it.
            if len({text.partition(TICKETS)[0] for text in by_proxy.values()}) > 1
        ]


def as_json(results: Results) -> str:
    values: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(dict))
    for (case, proxy, figure), rounds in results.values.items():
        values[case][figure][proxy] = rounds
    differences: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for (title, proxy), rounds in results.differences.items():
        differences[title][proxy] = rounds
    faults = [
        {"case": case, "proxy": proxy, "faults": reasons} for (case, proxy), reasons in results.faults.items()
    ]
    content = {
        "about": results.about,
        "proxies": results.proxies,
        "cases": [case.name for case in results.cases],
        "figures": values,
        "differences": differences,
        "faults": faults,
        "tls": results.negotiated,
    }
    return json.dumps(content, indent=1, ensure_ascii=False)


def from_json(file: Path) -> Results:
    """Read what ``as_json`` wrote.

    Raises UsageError for other files, and for those of a version with other cases.
    """
    try:
        content = json.loads(file.read_text())
        results = Results(content["proxies"], [CASES[name] for name in content["cases"]], content["about"])
        for case, by_figure in content["figures"].items():
            for figure, by_proxy in by_figure.items():
                for proxy, rounds in by_proxy.items():
                    results.values[case, proxy, figure] = rounds
        for title, by_proxy in content["differences"].items():
            for proxy, rounds in by_proxy.items():
                results.differences[title, proxy] = rounds
        for fault in content["faults"]:
            results.faults[fault["case"], fault["proxy"]] = fault["faults"]
        results.negotiated.update(content["tls"])
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(f"{file} has no results of this version: {error!r}") from None
    return results
