"""A panel of a chart: lines of figures against a number, with axes from 0. The caller draws the legend."""

from __future__ import annotations

import math
from dataclasses import dataclass

from svg import FAINT, GRID, Drawing

LEFT, TOP, BOTTOM = 44, 26, 38  # margins for the axes' labels
MAX_LINEAR_RANGE = 50  # a larger ratio of the last number to the first gets a logarithmic axis
MAX_DOTS = 30  # lines with more points get no dots


@dataclass(frozen=True, slots=True)
class Line:
    """Points (number, figure) in order."""

    colour: str
    points: list[tuple[float, float]]


def ticks_up_to(highest: float, count: int = 4) -> list[float]:
    """Return round numbers from 0 to at least ``highest``, about ``count`` of them."""
    if highest <= 0:
        return [0, 1]
    rough = highest / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    return [step * i for i in range(math.ceil(highest / step - 1e-9) + 1)]


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the panel is in its drawing, with its axes."""

    x: float
    y: float
    width: float
    height: float


def draw_panel(drawing: Drawing, frame: Frame, title: str, x_title: str, lines: list[Line]) -> None:
    numbers = sorted({x for line in lines for x, _ in line.points})
    ticks = ticks_up_to(max(y for line in lines for _, y in line.points))
    left, right = frame.x + LEFT, frame.x + frame.width - 8
    top, bottom = frame.y + TOP, frame.y + frame.height - BOTTOM
    is_logarithmic = numbers[0] > 0 and numbers[-1] / numbers[0] > MAX_LINEAR_RANGE

    def to_x(x: float) -> float:
        low, high, at = (math.log(n) if is_logarithmic else n for n in (numbers[0], numbers[-1], x))
        return left + 6 + (right - left - 14) * ((at - low) / (high - low) if high > low else 0.5)

    def to_y(y: float) -> float:
        return bottom - (bottom - top) * y / ticks[-1]

    drawing.text(frame.x + 4, frame.y + 12, title, weight=600)
    for tick in ticks:
        drawing.line(left, to_y(tick), right, to_y(tick), colour=GRID)
        drawing.text(left - 6, to_y(tick) + 4, f"{tick:,g}", size=11, anchor="end", colour=FAINT)
    labelled = (
        numbers
        if len(numbers) <= 5
        else [step for step in ticks_up_to(numbers[-1]) if numbers[0] <= step <= numbers[-1]]
    )
    for n in labelled:
        drawing.text(to_x(n), bottom + 15, f"{n:,g}", size=11, anchor="middle", colour=FAINT)
    drawing.text((left + right) / 2, bottom + 31, x_title, size=11, anchor="middle", colour=FAINT)
    for line in lines:
        points = [(to_x(x), to_y(y)) for x, y in line.points]
        drawing.path(points, colour=line.colour)
        if len(points) <= MAX_DOTS:
            for x, y in points:
                drawing.dot(x, y, colour=line.colour)
