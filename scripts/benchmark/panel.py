"""A panel: lines of figures against a number, with axes from nought. The legend is the caller's."""

from __future__ import annotations

import math
from dataclasses import dataclass

from drawing import FAINT, GRID, Drawing

LEFT, TOP, BOTTOM = 44, 26, 38  # of the frame, for the axes' words
WIDE = 50  # from where on numbers are spread by their logarithms
MANY = 30  # points beyond which they get no dots


@dataclass(frozen=True, slots=True)
class Line:
    """Points (number, figure) in order."""

    colour: str
    points: list[tuple[float, float]]


def steps(most: float, about: int = 4) -> list[float]:
    """Round numbers from 0 to at least ``most``."""
    if most <= 0:
        return [0, 1]
    rough = most / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    return [step * i for i in range(math.ceil(most / step - 1e-9) + 1)]


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the panel stands in its drawing, axes included."""

    x: float
    y: float
    width: float
    height: float


def draw_panel(drawing: Drawing, frame: Frame, title: str, along: str, lines: list[Line]) -> None:
    numbers = sorted({x for line in lines for x, _ in line.points})
    ticks = steps(max(y for line in lines for _, y in line.points))
    left, right = frame.x + LEFT, frame.x + frame.width - 8
    top, bottom = frame.y + TOP, frame.y + frame.height - BOTTOM
    spread = numbers[0] > 0 and numbers[-1] / numbers[0] > WIDE

    def across(x: float) -> float:
        low, high, at = (math.log(n) if spread else n for n in (numbers[0], numbers[-1], x))
        return left + 6 + (right - left - 14) * ((at - low) / (high - low) if high > low else 0.5)

    def up(y: float) -> float:
        return bottom - (bottom - top) * y / ticks[-1]

    drawing.text(frame.x + 4, frame.y + 12, title, weight=600)
    for tick in ticks:
        drawing.line(left, up(tick), right, up(tick), colour=GRID)
        drawing.text(left - 6, up(tick) + 4, f"{tick:,g}", size=11, anchor="end", colour=FAINT)
    named = (
        numbers
        if len(numbers) <= 5
        else [step for step in steps(numbers[-1]) if numbers[0] <= step <= numbers[-1]]
    )
    for n in named:
        drawing.text(across(n), bottom + 15, f"{n:,g}", size=11, anchor="middle", colour=FAINT)
    drawing.text((left + right) / 2, bottom + 31, along, size=11, anchor="middle", colour=FAINT)
    for line in lines:
        points = [(across(x), up(y)) for x, y in line.points]
        drawing.path(points, colour=line.colour)
        if len(points) <= MANY:
            for x, y in points:
                drawing.dot(x, y, colour=line.colour)
