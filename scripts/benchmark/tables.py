"""The tables that are made of results: figures with their bounds, several workers over one, the floor of system time."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from cases import Case, Growth, Pair, Row, chosen_pairs
from configurations import kind_of
from results import Results

WORKERS_BOUND = (
    1.15  # processor time per session of several workers over that of one; sessions per second per worker
)
ROOM_CORES, BUSY_CLIENTS_CORES = (
    0.25,
    0.9,
)  # the load leaves room: so much of the machine idle, its clients not at full speed
SYSTEM_FIGURES = {"cpu_us": "system_us", "cpu_s_per_gb": "system_s_per_gb"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A column of ratios; ``bounded`` where the rows' bounds hold for it."""

    over: str
    under: str
    bounded: bool

    @property
    def title(self) -> str:
        return f"{kind_of(self.over).title} / {kind_of(self.under).title}"


def comparisons(proxies: list[str]) -> list[Comparison]:
    """Each mailproxy against the HAProxy with as many workers; without one, the last against the first."""
    kinds = {name: kind_of(name) for name in proxies}
    found = [
        Comparison(over, under, bounded=True)
        for over, kind in kinds.items()
        for under, other in kinds.items()
        if (kind.program, other.program, kind.workers) == ("mailproxy", "haproxy", other.workers)
    ]
    if found or len(proxies) < 2:
        return found
    under = "haproxy" if "haproxy" in proxies else proxies[0]
    over = next(name for name in reversed(proxies) if name != under)
    return [Comparison(over, under, bounded=False)]


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
    values = results.differences.get((pair.words, proxy))
    return f"{statistics.median(values):.1f}" if values else "failed"


def ratio(results: Results, case: Case, figure: str, pair: Comparison) -> float | None:
    over, under = (results.median(case, proxy, figure) for proxy in (pair.over, pair.under))
    return over / under if over is not None and under else None


def shown(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f}"


def kept(results: Results, case: Case, row: Row, pairs: list[Comparison]) -> str:
    """Whether the bound is kept, as the table shows the ratio."""
    ratios = [ratio(results, case, row.figure, pair) for pair in pairs if pair.bounded]
    if row.bound is None or not ratios:
        return ""
    return ", ".join("-" if r is None else "yes" if round(r, 2) <= row.bound else "no" for r in ratios)


def table(results: Results, *, brief: bool = False) -> list[list[str]]:
    """``brief``: only rows that have a bound, and of cases that differ in a number only one."""
    pairs = comparisons(results.proxies)
    bounded = any(pair.bounded for pair in pairs)
    head = ["medians", *(kind_of(name).title for name in results.proxies), *(pair.title for pair in pairs)]
    rows = [head + (["limit", "met"] if bounded else [])]
    for case in results.cases:
        for row in case.rows:
            if brief and (row.bound is None or not case.brief):
                continue
            cells = [row.words, *(cell(results, case, proxy, row.figure) for proxy in results.proxies)]
            cells += [shown(ratio(results, case, row.figure, pair)) for pair in pairs]
            if bounded:
                cells += ["" if row.bound is None else f"{row.bound:g}", kept(results, case, row, pairs)]
            rows.append(cells)
    for words in [] if brief else chosen_pairs(results.cases):
        cells = [words.words, *(difference(results, words, proxy) for proxy in results.proxies)]
        rows.append(cells + ["-"] * len(pairs) + (["", ""] if bounded else []))
    return rows


def by_workers(results: Results) -> list[tuple[str, list[str]]]:
    """Programs that are there with one worker and with several: (program, names of those with several)."""
    several: dict[str, list[str]] = {}
    for name in results.proxies:
        kind = kind_of(name)
        if kind.workers > 1 and kind.program in results.proxies:
            several.setdefault(kind.program, []).append(name)
    return list(several.items())


def left_room(results: Results, case: Case, proxy: str) -> bool:
    """Did the load leave the proxy room to be the one that limits?"""
    idle, busy = (results.median(case, proxy, figure) for figure in ("idle_cores", "clients_cores"))
    return idle is not None and busy is not None and idle >= ROOM_CORES and busy < BUSY_CLIENTS_CORES


def workers_table(results: Results) -> list[list[str]]:
    """What several workers come to over one: processor time per session, and sessions per second where that tells."""
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
            kind, pair = kind_of(name), Comparison(name, program, bounded=False)
            for case in results.cases:
                if case.mode != "sessions":
                    continue
                cost, speed = (ratio(results, case, figure, pair) for figure in ("cpu_us", "per_s"))
                least, room = kind.workers / WORKERS_BOUND, left_room(results, case, name)
                if cost is None or speed is None:
                    verdict = "-"
                elif room:
                    verdict = "yes" if speed >= least else "no"
                else:
                    verdict = "yes" if round(cost, 2) <= WORKERS_BOUND else "no"
                told = shown(speed) + ("" if room else " (no room)")
                words = f"{kind.title}, {case.rows[0].words.rpartition('session, ')[2]}"
                rows.append([words, shown(cost), f"{WORKERS_BOUND:g}", told, f"{least:.2f}", verdict])
    return rows if len(rows) > 1 else []


def floor_table(results: Results) -> list[list[str]]:
    """How much of each figure of processor time was spent in system calls, which no program can make cheaper."""
    pairs = comparisons(results.proxies)
    head = ["of which in the system", *(kind_of(name).title for name in results.proxies)]
    rows = [
        head
        + [f"system of {kind_of(pair.over).title} / all of {kind_of(pair.under).title}" for pair in pairs]
    ]
    for case in results.cases:
        for row in case.rows:
            if row.figure not in SYSTEM_FIGURES:
                continue
            system = SYSTEM_FIGURES[row.figure]
            cells = [row.words]
            for proxy in results.proxies:
                part, whole = (results.median(case, proxy, figure) for figure in (system, row.figure))
                cells.append(f"{rounded(part)} of {rounded(whole)}" if part is not None and whole else "-")
            for pair in pairs:
                part, whole = (
                    results.median(case, pair.over, system),
                    results.median(case, pair.under, row.figure),
                )
                cells.append(shown(part / whole if part is not None and whole else None))
            rows.append(cells)
    return rows if len(rows) > 1 else []


def growing(results: Results) -> dict[str, list[tuple[Growth, Case]]]:
    """Lines of growth that have more than one point, each by number of sessions."""
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
    """The same figure at growing numbers of sessions, by proxy."""
    rows = []
    for line, points in growing(results).items():
        along = " → ".join(f"{growth.sessions:,}" for growth, _ in points)
        for proxy in results.proxies:
            cells = [cell(results, case, proxy, growth.figure) for growth, case in points]
            counted = points[0][0].counted
            rows.append([line, f"{along} {counted}", kind_of(proxy).title, " → ".join(cells)])
    return [["growth", "with", "", "medians"], *rows] if rows else []


def as_text(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def as_markdown(rows: list[list[str]]) -> str:
    rule = ["---", *("---:" for _ in rows[0][1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])
