"""The tables of results: figures with bounds, several workers over one, the part of system calls."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from cases import Case, Growth, Pair, Row, selected_pairs
from configurations import variant_of
from results import Results

# The maximum of several workers' processor time per session over that of one. Sessions per second per worker
# may fall by the same factor.
WORKERS_BOUND = 1.15
# The proxy can be the bottleneck if this many cores are idle, and the clients use less than this.
MIN_IDLE_CORES, MAX_CLIENTS_CORES = 0.25, 0.9
SYSTEM_FIGURES = {"cpu_us": "system_us", "cpu_s_per_gb": "system_s_per_gb"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A column of ratios: one variant over another. ``bounded``: the rows' bounds apply to it."""

    over: str
    under: str
    bounded: bool

    @property
    def title(self) -> str:
        return f"{variant_of(self.over).title} / {variant_of(self.under).title}"


def comparisons(proxies: list[str]) -> list[Comparison]:
    """Compare each mailproxy with the HAProxy and the revision of as many workers, or the last proxy with the first."""
    variants = {name: variant_of(name) for name in proxies}
    pairs = [
        Comparison(over, under, bounded=other.program == "haproxy")
        for over, variant in variants.items()
        for under, other in variants.items()
        if variant.program == "mailproxy"
        and other.program in {"haproxy", "revision"}
        and variant.workers == other.workers
    ]
    if pairs or len(proxies) < 2:
        return pairs
    under = "haproxy" if "haproxy" in proxies else proxies[0]
    over = next(name for name in reversed(proxies) if name != under)
    return [Comparison(over, under, bounded=False)]


def format_figure(value: float) -> str:
    """Format to three digits or the unit. Such a run gives no more."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def cell(results: Results, case: Case, proxy: str, figure: str) -> str:
    median, faults = results.median(case, proxy, figure), len(results.faults.get((case.name, proxy), ()))
    if median is None:
        return "failed" if faults else "-"
    return format_figure(median) + (f" ({faults} failed)" if faults else "")


def difference(results: Results, pair: Pair, proxy: str) -> str:
    """Format the difference of a pair to a tenth, because it is between two large figures."""
    values = results.differences.get((pair.title, proxy))
    if values:
        return f"{statistics.median(values):.1f}"
    return "failed" if results.faults.get((pair.variant, proxy)) else "-"


def ratio(results: Results, case: Case, figure: str, pair: Comparison) -> float | None:
    over, under = (results.median(case, proxy, figure) for proxy in (pair.over, pair.under))
    return over / under if over is not None and under else None


def format_ratio(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f}"


def bounds_met(results: Results, case: Case, row: Row, pairs: list[Comparison]) -> str:
    """Return, for each bounded column, whether the ratio as shown is within the bound."""
    ratios = [ratio(results, case, row.figure, pair) for pair in pairs if pair.bounded]
    if row.bound is None or not ratios:
        return ""
    return ", ".join("-" if r is None else "yes" if round(r, 2) <= row.bound else "no" for r in ratios)


def table(results: Results, *, in_summary: bool = False) -> list[list[str]]:
    """Return the main table.

    With ``in_summary`` it has only rows with a bound, and one of several cases that differ in a number.
    """
    columns = comparisons(results.proxies)
    bounded = any(column.bounded for column in columns)
    head = [
        "medians",
        *(variant_of(name).title for name in results.proxies),
        *(column.title for column in columns),
    ]
    rows = [head + (["limit", "met"] if bounded else [])]
    for case in results.cases:
        for row in case.rows:
            if in_summary and (row.bound is None or not case.in_summary):
                continue
            cells = [row.title, *(cell(results, case, proxy, row.figure) for proxy in results.proxies)]
            cells += [format_ratio(ratio(results, case, row.figure, column)) for column in columns]
            if bounded:
                cells += [
                    "" if row.bound is None else f"{row.bound:g}",
                    bounds_met(results, case, row, columns),
                ]
            rows.append(cells)
    for pair in [] if in_summary else selected_pairs(results.cases):
        cells = [pair.title, *(difference(results, pair, proxy) for proxy in results.proxies)]
        rows.append(cells + ["-"] * len(columns) + (["", ""] if bounded else []))
    return rows


def by_workers(results: Results) -> list[tuple[str, list[str]]]:
    """Return the programs that run with one worker and with several, with the names of the latter."""
    several: dict[str, list[str]] = {}
    for name in results.proxies:
        variant = variant_of(name)
        if variant.workers > 1 and variant.program in results.proxies:
            several.setdefault(variant.program, []).append(name)
    return list(several.items())


def has_spare_capacity(results: Results, case: Case, proxy: str) -> bool:
    """Whether the load left the proxy enough of the machine to be the bottleneck."""
    idle, busy = (results.median(case, proxy, figure) for figure in ("idle_cores", "clients_cores"))
    return idle is not None and busy is not None and idle >= MIN_IDLE_CORES and busy < MAX_CLIENTS_CORES


def workers_table(results: Results) -> list[list[str]]:
    """Compare several workers with one, by processor time and by sessions per second."""
    rows = [
        [
            "several workers over one",
            "by processor time",
            "limit",
            "by sessions per second",
            "at least",
            "met",
        ]
    ]
    for program, names in by_workers(results):
        for name in names:
            variant, pair = variant_of(name), Comparison(name, program, bounded=False)
            for case in results.cases:
                if case.mode != "sessions":
                    continue
                cost, speed = (ratio(results, case, figure, pair) for figure in ("cpu_us", "per_s"))
                least, has_capacity = variant.workers / WORKERS_BOUND, has_spare_capacity(results, case, name)
                if cost is None or speed is None:
                    result = "-"
                elif has_capacity:
                    result = "yes" if speed >= least else "no"
                else:
                    result = "yes" if round(cost, 2) <= WORKERS_BOUND else "no"
                speed_cell = format_ratio(speed) + ("" if has_capacity else " (no room)")
                title = f"{variant.title}, {case.rows[0].title.rpartition('session, ')[2]}"
                rows.append(
                    [title, format_ratio(cost), f"{WORKERS_BOUND:g}", speed_cell, f"{least:.2f}", result]
                )
    return rows if len(rows) > 1 else []


def floor_table(results: Results) -> list[list[str]]:
    """Return how much of each processor time was spent in system calls, which no program can make cheaper."""
    pairs = comparisons(results.proxies)
    head = ["of which in the system", *(variant_of(name).title for name in results.proxies)]
    rows = [
        head
        + [
            f"system of {variant_of(pair.over).title} / all of {variant_of(pair.under).title}"
            for pair in pairs
        ]
    ]
    for case in results.cases:
        for row in case.rows:
            if row.figure not in SYSTEM_FIGURES:
                continue
            system = SYSTEM_FIGURES[row.figure]
            cells = [row.title]
            for proxy in results.proxies:
                part, total = (results.median(case, proxy, figure) for figure in (system, row.figure))
                cells.append(
                    f"{format_figure(part)} of {format_figure(total)}" if part is not None and total else "-"
                )
            for pair in pairs:
                part, total = (
                    results.median(case, pair.over, system),
                    results.median(case, pair.under, row.figure),
                )
                cells.append(format_ratio(part / total if part is not None and total else None))
            rows.append(cells)
    return rows if len(rows) > 1 else []


def growth_lines(results: Results) -> dict[str, list[tuple[Growth, Case]]]:
    """Return the lines of growth with more than one point, sorted by number of sessions."""
    lines: dict[str, list[tuple[Growth, Case]]] = {}
    for case in results.cases:
        if case.growth:
            lines.setdefault(case.growth.line, []).append((case.growth, case))
    return {
        line: sorted(points, key=lambda point: point[0].sessions)
        for line, points in lines.items()
        if len(points) > 1
    }


def growth_table(results: Results) -> list[list[str]]:
    """Return each figure at growing numbers of sessions, by proxy."""
    rows = []
    for line, points in growth_lines(results).items():
        numbers = " → ".join(f"{growth.sessions:,}" for growth, _ in points)
        for proxy in results.proxies:
            cells = [cell(results, case, proxy, growth.figure) for growth, case in points]
            sessions_title = points[0][0].sessions_title
            rows.append([line, f"{numbers} {sessions_title}", variant_of(proxy).title, " → ".join(cells)])
    return [["growth", "with", "", "medians"], *rows] if rows else []


def as_text(rows: list[list[str]]) -> str:
    """Format a table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def as_markdown(rows: list[list[str]]) -> str:
    """Format a table as Markdown."""
    rule = ["---", *("---:" for _ in rows[0][1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])
