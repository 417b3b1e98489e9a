"""The chart of a run: ratios to HAProxy as bars, and figures against the number of sessions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from configurations import TITLES, variant_of
from results import Results
from svg import COLOURS, FAINT, GRID, INK, Drawing
from svg_panel import Frame, Line, draw_panel
from tables import WORKERS_BOUND, Comparison, by_workers, comparisons, growth_lines, ratio

WIDTH, MARGIN = 900, 24
TITLE_WIDTH, BOUND_WIDTH = 300, 98  # columns beside the bars
MAX_RATIO = 4  # bars of larger ratios end at the edge
BAR_HEIGHT, BAR_PITCH = 13, 24
WITHIN_BOUND, OVER_BOUND = COLOURS[0], COLOURS[1]
PANELS_PER_ROW, PANEL_HEIGHT = 3, 210
LINES = {
    "haproxy": INK,
    "mailproxy": COLOURS[0],
    "nginx": COLOURS[2],
    "portable": COLOURS[3],
    "limited": COLOURS[4],
    "revision": FAINT,
}


@dataclass(frozen=True, slots=True)
class Bar:
    """A ratio with its bound. ``others``: the ratios of other programs."""

    title: str
    ratio: float
    bound: float
    others: dict[str, float]


def main_pair(results: Results) -> Comparison | None:
    """Return the comparison that the bars show: mailproxy over HAProxy, with the fewest workers."""
    pairs = [pair for pair in comparisons(results.proxies) if pair.bounded]
    return min(pairs, key=lambda pair: variant_of(pair.over).workers) if pairs else None


def bounded_bars(results: Results, pair: Comparison) -> list[Bar]:
    workers = variant_of(pair.over).workers
    others = [
        n for n in results.proxies if n not in {pair.over, pair.under} and variant_of(n).workers == workers
    ]
    bars = []
    for case in results.cases:
        for row in case.rows:
            value = ratio(results, case, row.figure, pair)
            if row.bound is None or value is None:
                continue
            ratios = {
                name: ratio(results, case, row.figure, Comparison(name, pair.under, bounded=False))
                for name in others
            }
            known = {variant_of(name).program: r for name, r in ratios.items() if r is not None}
            bars.append(Bar(row.title, value, row.bound, known))
    return bars


def workers_bars(results: Results, over: str, under: str) -> list[Bar]:
    """Return bars for the processor time of whole sessions.

    Sessions per second depend on what the load leaves.
    """
    bars = []
    for case in results.cases:
        value = ratio(results, case, "cpu_us", Comparison(over, under, bounded=False))
        if case.mode == "sessions" and case.rows[0].bound is not None and value is not None:
            bars.append(Bar(case.rows[0].title, value, WORKERS_BOUND, {}))
    return bars


def draw_bars(drawing: Drawing, title: str, under: str, bars: list[Bar], y: float) -> float:
    """Draw a chart of bars at ``y``, and return the ``y`` below it."""
    highest = max(max(bar.ratio, bar.bound, *bar.others.values()) for bar in bars)
    end = math.ceil(min(highest, MAX_RATIO) * 2 + 0.2) / 2
    left, right = MARGIN + TITLE_WIDTH, WIDTH - MARGIN - BOUND_WIDTH

    def to_x(value: float) -> float:
        return left + (right - left) * min(value, end) / end

    drawing.text(MARGIN, y, title, size=15, weight=600)
    drawing.text(MARGIN, y + 18, "less is better; the dark tick is the bound", size=12, colour=FAINT)
    others = list(dict.fromkeys(program for bar in bars for program in bar.others))
    legend = [(WITHIN_BOUND, "within its bound", False), (OVER_BOUND, "over it", False)]
    draw_legend(drawing, legend + [(LINES[program], TITLES[program], True) for program in others], y + 18)
    top = y + 48
    bottom = top + BAR_PITCH * len(bars)
    for i in range(int(end * 2) + 1):
        x = to_x(i / 2)
        drawing.line(x, top - 4, x, bottom, colour=INK if i == 2 else GRID, width=1.5 if i == 2 else 1)
        tick = f"{under} = 1" if i == 2 else f"{i / 2:g}"
        drawing.text(x, top - 9, tick, size=11, anchor="middle", colour=FAINT)
    for i, bar in enumerate(bars):
        middle = top + BAR_PITCH * i + BAR_PITCH / 2
        colour = WITHIN_BOUND if round(bar.ratio, 2) <= bar.bound else OVER_BOUND
        drawing.text(left - 10, middle + 4, bar.title, anchor="end")
        drawing.box(left, middle - BAR_HEIGHT / 2, to_x(bar.ratio) - left, BAR_HEIGHT, colour=colour)
        for program, value in bar.others.items():
            if value <= end:
                drawing.dot(to_x(value), middle, colour=LINES[program], hollow=True)
        drawing.line(to_x(bar.bound), middle - 10, to_x(bar.bound), middle + 10, colour=INK, width=2.5)
        drawing.text(right + 14, middle + 4, f"{bar.ratio:.2f}", weight=600)
        drawing.text(WIDTH - MARGIN, middle + 4, f"≤ {bar.bound:g}", anchor="end", colour=FAINT)
    return bottom + 34


def draw_legend(drawing: Drawing, entries: list[tuple[str, str, bool]], y: float) -> None:
    """Draw a legend, right-aligned. An entry is its colour, its text, and whether its dot is hollow."""
    x: float = WIDTH - MARGIN
    for colour, label, hollow in reversed(entries):
        x -= 6.3 * len(label)
        drawing.text(x, y, label, size=12, colour=FAINT)
        x -= 12
        drawing.dot(x + 3, y - 4, colour=colour, radius=4.5, hollow=hollow)
        x -= 14


def draw_growth(drawing: Drawing, results: Results, y: float) -> float:
    """Draw a panel for each line of growth at ``y``, and return the ``y`` below them."""
    growth = growth_lines(results)
    names = [name for name in results.proxies if variant_of(name).workers == 1]
    y -= 12
    drawing.text(MARGIN, y + 14, "growth with the number of sessions", size=15, weight=600)
    entries = [(LINES[variant_of(name).program], variant_of(name).title, False) for name in names]
    draw_legend(drawing, entries, y + 14)
    y += 34
    width = (WIDTH - 2 * MARGIN) / PANELS_PER_ROW
    index = 0
    for title, points in growth.items():
        lines = []
        for name in names:
            medians = [(point.sessions, results.median(case, name, point.figure)) for point, case in points]
            known = [(float(n), value) for n, value in medians if value is not None]
            if known:
                lines.append(Line(LINES[variant_of(name).program], known))
        if not lines:
            continue
        frame = Frame(
            MARGIN + width * (index % PANELS_PER_ROW),
            y + PANEL_HEIGHT * (index // PANELS_PER_ROW),
            width - 8,
            PANEL_HEIGHT - 10,
        )
        draw_panel(drawing, frame, title, points[0][0].sessions_title, lines)
        index += 1
    return y + PANEL_HEIGHT * math.ceil(index / PANELS_PER_ROW) + 4


def speed_chart(results: Results) -> str:
    """Return the SVG. What was not measured is left out."""
    drawing = Drawing(WIDTH, "What mailproxy costs beside HAProxy")
    y: float = MARGIN + 12
    pair = main_pair(results)
    if pair and (bars := bounded_bars(results, pair)):
        under = variant_of(pair.under).title
        y = draw_bars(drawing, f"{variant_of(pair.over).title} over {under}", under, bars, y)
    for program, names in by_workers(results):
        for name in names if program == "mailproxy" else []:
            if bars := workers_bars(results, name, program):
                under = TITLES[program]
                y = draw_bars(drawing, f"{variant_of(name).title} over {under}", under, bars, y)
    if growth_lines(results):
        y = draw_growth(drawing, results, y)
    for text in wrapped(results.about):
        drawing.text(MARGIN, y + 10, text, size=11, colour=FAINT)
        y += 16
    return drawing.svg(y + 14)


def wrapped(text: str, width: int = 140) -> list[str]:
    """Break a text into lines at commas."""
    lines: list[str] = []
    for part in text.split(", "):
        if lines and len(lines[-1]) + len(part) < width:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return lines
