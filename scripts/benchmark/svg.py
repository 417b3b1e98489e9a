"""A drawing as SVG, made of text, lines and boxes. Its white background makes it readable on any page."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

INK, FAINT, GRID, PAPER = "#1f2328", "#59636e", "#d8dee4", "#ffffff"
FONT = "font-family='system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif'"
# Distinguishable with red-green colour blindness, too (the palette of Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#000000")


def number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


@dataclass(slots=True)
class Drawing:
    """Collects the parts of a drawing. Its height is known last: ``svg`` takes it."""

    width: int
    title: str
    parts: list[str] = field(default_factory=list)

    def text(
        self,
        x: float,
        y: float,
        content: str,
        *,
        size: int = 12,
        anchor: str = "start",
        colour: str = INK,
        weight: int = 400,
    ) -> None:
        self.parts.append(
            f"<text x='{number(x)}' y='{number(y)}' font-size='{size}' text-anchor='{anchor}' fill='{colour}'"
            + (f" font-weight='{weight}'" if weight != 400 else "")
            + f">{escape(content)}</text>"
        )

    def line(
        self,
        x1: float,
        y1: float,
        x2: float,
        y2: float,
        *,
        colour: str = GRID,
        width: float = 1,
        dash: str = "",
    ) -> None:
        self.parts.append(
            f"<line x1='{number(x1)}' y1='{number(y1)}' x2='{number(x2)}' y2='{number(y2)}' stroke='{colour}'"
            f" stroke-width='{width:g}'" + (f" stroke-dasharray='{dash}'" if dash else "") + "/>"
        )

    def box(self, x: float, y: float, width: float, height: float, *, colour: str) -> None:
        self.parts.append(
            f"<rect x='{number(x)}' y='{number(y)}' width='{number(width)}' height='{number(height)}' rx='2' fill='{colour}'/>"
        )

    def dot(self, x: float, y: float, *, colour: str, radius: float = 3.5, hollow: bool = False) -> None:
        paint = f"fill='{PAPER}' stroke='{colour}' stroke-width='2'" if hollow else f"fill='{colour}'"
        self.parts.append(f"<circle cx='{number(x)}' cy='{number(y)}' r='{radius:g}' {paint}/>")

    def path(self, points: list[tuple[float, float]], *, colour: str) -> None:
        combined = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        self.parts.append(
            f"<polyline points='{combined}' fill='none' stroke='{colour}' stroke-width='2' stroke-linejoin='round'/>"
        )

    def svg(self, height: float) -> str:
        size = f"width='{self.width}' height='{number(height)}' viewBox='0 0 {self.width} {number(height)}'"
        background = (
            f"<rect x='0.5' y='0.5' width='{self.width - 1}' height='{number(height - 1)}' rx='6'"
            f" fill='{PAPER}' stroke='{GRID}'/>"
        )
        head = f"<svg xmlns='http://www.w3.org/2000/svg' {size} role='img' {FONT}>"
        return "\n".join(
            [head, f"<title>{escape(self.title)}</title>", background, *self.parts, "</svg>", ""]
        )
