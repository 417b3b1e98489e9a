"""The chart of a run: principal figures as bars over HAProxy's, and how figures grow with the number of sessions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from configurations import TITLES, kind_of
from drawing import COLOURS, FAINT, GRID, INK, Drawing
from panel import Frame, Line, draw_panel
from results import Results
from tables import WORKERS_BOUND, Comparison, by_workers, comparisons, growing, ratio

WIDTH, MARGIN = 900, 24
WORDS, NOTE = 300, 98  # columns of the bars: what it is, the bound
MOST = 4  # times HAProxy's figure; what is worse sticks out of the picture
BAR, PITCH = 13, 24
KEPT, MISSED = COLOURS[0], COLOURS[1]
PANELS, PANEL_HEIGHT = 3, 210  # in a row
LINES = {
    "haproxy": INK,
    "mailproxy": COLOURS[0],
    "nginx": COLOURS[2],
    "portable": COLOURS[3],
    "limited": COLOURS[4],
}


@dataclass(frozen=True, slots=True)
class Bar:
    """A ratio with its bound; ``others``: program -> what another proxy's ratio is."""

    words: str
    ratio: float
    bound: float
    others: dict[str, float]


def main_pair(results: Results) -> Comparison | None:
    """What the bars show: mailproxy over HAProxy, with as few workers as there are."""
    pairs = [pair for pair in comparisons(results.proxies) if pair.bounded]
    return min(pairs, key=lambda pair: kind_of(pair.over).workers) if pairs else None


def principal_bars(results: Results, pair: Comparison) -> list[Bar]:
    workers = kind_of(pair.over).workers
    others = [
        n for n in results.proxies if n not in {pair.over, pair.under} and kind_of(n).workers == workers
    ]
    bars = []
    for case in results.cases:
        for row in case.rows:
            value = ratio(results, case, row.figure, pair)
            if row.bound is None or value is None:
                continue
            beside = {
                name: ratio(results, case, row.figure, Comparison(name, pair.under, bounded=False))
                for name in others
            }
            known = {kind_of(name).program: r for name, r in beside.items() if r is not None}
            bars.append(Bar(row.words, value, row.bound, known))
    return bars


def workers_bars(results: Results, over: str, under: str) -> list[Bar]:
    """Processor time of whole sessions alone: how many there are in a second depends on what the load leaves."""
    bars = []
    for case in results.cases:
        value = ratio(results, case, "cpu_us", Comparison(over, under, bounded=False))
        if case.mode == "sessions" and case.rows[0].bound is not None and value is not None:
            bars.append(Bar(case.rows[0].words, value, WORKERS_BOUND, {}))
    return bars


def draw_bars(drawing: Drawing, title: str, under: str, bars: list[Bar], y: float) -> float:
    """Gives where the drawing goes on."""
    most = max(max(bar.ratio, bar.bound, *bar.others.values()) for bar in bars)
    end = math.ceil(min(most, MOST) * 2 + 0.2) / 2
    left, right = MARGIN + WORDS, WIDTH - MARGIN - NOTE

    def across(value: float) -> float:
        return left + (right - left) * min(value, end) / end

    drawing.text(MARGIN, y, title, size=15, weight=600)
    drawing.text(MARGIN, y + 18, "less is better; the dark tick is the bound", size=12, colour=FAINT)
    others = list(dict.fromkeys(program for bar in bars for program in bar.others))
    legend = [(KEPT, "within its bound", False), (MISSED, "over it", False)]
    draw_legend(drawing, legend + [(LINES[program], TITLES[program], True) for program in others], y + 18)
    top = y + 48
    bottom = top + PITCH * len(bars)
    for i in range(int(end * 2) + 1):
        x = across(i / 2)
        drawing.line(x, top - 4, x, bottom, colour=INK if i == 2 else GRID, width=1.5 if i == 2 else 1)
        words = f"{under} = 1" if i == 2 else f"{i / 2:g}"
        drawing.text(x, top - 9, words, size=11, anchor="middle", colour=FAINT)
    for i, bar in enumerate(bars):
        middle = top + PITCH * i + PITCH / 2
        colour = KEPT if round(bar.ratio, 2) <= bar.bound else MISSED
        drawing.text(left - 10, middle + 4, bar.words, anchor="end")
        drawing.box(left, middle - BAR / 2, across(bar.ratio) - left, BAR, colour=colour)
        for program, value in bar.others.items():
            if value <= end:
                drawing.dot(across(value), middle, colour=LINES[program], hollow=True)
        drawing.line(across(bar.bound), middle - 10, across(bar.bound), middle + 10, colour=INK, width=2.5)
        drawing.text(right + 14, middle + 4, f"{bar.ratio:.2f}", weight=600)
        drawing.text(WIDTH - MARGIN, middle + 4, f"≤ {bar.bound:g}", anchor="end", colour=FAINT)
    return bottom + 34


def draw_legend(drawing: Drawing, entries: list[tuple[str, str, bool]], y: float) -> None:
    """Right-aligned: (colour, words, as a hollow dot)."""
    x: float = WIDTH - MARGIN
    for colour, words, hollow in reversed(entries):
        x -= 6.3 * len(words)
        drawing.text(x, y, words, size=12, colour=FAINT)
        x -= 12
        drawing.dot(x + 3, y - 4, colour=colour, radius=4.5, hollow=hollow)
        x -= 14


def draw_growth(drawing: Drawing, results: Results, y: float) -> float:
    grown = growing(results)
    shown = [name for name in results.proxies if kind_of(name).workers == 1]
    y -= 12
    drawing.text(MARGIN, y + 14, "growth with the number of sessions", size=15, weight=600)
    entries = [(LINES[kind_of(name).program], kind_of(name).title, False) for name in shown]
    draw_legend(drawing, entries, y + 14)
    y += 34
    width = (WIDTH - 2 * MARGIN) / PANELS
    place = 0
    for title, points in grown.items():
        lines = []
        for name in shown:
            medians = [
                (growth.sessions, results.median(case, name, growth.figure)) for growth, case in points
            ]
            known = [(float(n), value) for n, value in medians if value is not None]
            if known:
                lines.append(Line(LINES[kind_of(name).program], known))
        if not lines:
            continue
        frame = Frame(
            MARGIN + width * (place % PANELS),
            y + PANEL_HEIGHT * (place // PANELS),
            width - 8,
            PANEL_HEIGHT - 10,
        )
        draw_panel(drawing, frame, title, points[0][0].counted, lines)
        place += 1
    return y + PANEL_HEIGHT * math.ceil(place / PANELS) + 4


def speed_chart(results: Results) -> str:
    """The whole SVG; what was not weighed is not in it."""
    drawing = Drawing(WIDTH, "What mailproxy costs beside HAProxy")
    y: float = MARGIN + 12
    pair = main_pair(results)
    if pair and (bars := principal_bars(results, pair)):
        under = kind_of(pair.under).title
        y = draw_bars(drawing, f"{kind_of(pair.over).title} over {under}", under, bars, y)
    for program, names in by_workers(results):
        for name in names if program == "mailproxy" else []:
            if bars := workers_bars(results, name, program):
                under = TITLES[program]
                y = draw_bars(drawing, f"{kind_of(name).title} over {under}", under, bars, y)
    if growing(results):
        y = draw_growth(drawing, results, y)
    for words in broken(results.about):
        drawing.text(MARGIN, y + 10, words, size=11, colour=FAINT)
        y += 16
    return drawing.svg(y + 14)


def broken(words: str, most: int = 140) -> list[str]:
    """In lines, at commas."""
    lines: list[str] = []
    for part in words.split(", "):
        if lines and len(lines[-1]) + len(part) < most:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return lines
