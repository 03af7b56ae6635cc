"""Lines over two logarithmic axes, as an SVG file: small enough to read, and the text stays text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 860, 560
LEFT, RIGHT, TOP, BOTTOM = 70, 250, 46, 52
"""Margins; the lines' names stand in the right one."""
NAME_HEIGHT = 16
COLOURS = ("#1f2937", "#d1495b", "#2a6fbb", "#e08e0b", "#2e8b57", "#8e5bb5", "#00838f", "#a0522d", "#6b7280", "#c2187e")
DASHES = ("", "6 3", "2 3")
"""Beyond the colours, lines are told apart by their dashes."""
FONT = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"'


@dataclass(frozen=True)
class Line:
    """One line of the chart; both coordinates of its points are above 0, and it is named where it ends."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Level:
    """A height that is marked across the whole chart."""

    name: str
    height: float


@dataclass(frozen=True)
class Scale:
    """Values between `low` and `high` -> places between `start` and `end`, evenly for equal ratios."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        part = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + part * (self.end - self.start)


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    across: str,
    up: str,
    ticks: Sequence[float],
    levels: Sequence[Level] = (),
    ceiling: float = math.inf,
) -> str:
    """The chart's SVG. `across` and `up` name the axes; `ticks` are the marked places of the one that goes across.

    Points above the `ceiling` are left out, and with them the lines that are nowhere below it.
    """
    lines = [Line(line.name, tuple(point for point in line.points if point[1] <= ceiling)) for line in lines]
    lines = [line for line in lines if line.points]
    heights = [height for line in lines for _, height in line.points] + [level.height for level in levels]
    places_across = [*ticks, *(place for line in lines for place, _ in line.points)]
    x = Scale(min(places_across), max(places_across), LEFT, WIDTH - RIGHT)
    y = Scale(min(heights) / 1.2, max(heights) * 1.2, HEIGHT - BOTTOM, TOP)
    body = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 24, title, size=16, weight="600"),
        *_grid(x, y, ticks, decades(y.low, y.high)),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, across, anchor="middle"),
        _text(18, (TOP + HEIGHT - BOTTOM) / 2, up, anchor="middle", turned=True),
    ]
    for level in levels:
        place = y(level.height)
        body.append(_stroke([(LEFT, place), (WIDTH - RIGHT, place)], "#111827", 1.2, "4 4"))
        body.append(_text(LEFT + 6, place - 5, level.name, size=12))
    ends = {line.name: y(line.points[-1][1]) for line in lines}
    names = spread(ends, NAME_HEIGHT, TOP, HEIGHT - BOTTOM)
    for index, line in enumerate(lines):
        colour, dash = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
        places = [(x(one), y(height)) for one, height in line.points]
        body.append(_stroke(places, colour, 2, dash))
        body += [f'<circle cx="{one:.1f}" cy="{height:.1f}" r="2.6" fill="{colour}"/>' for one, height in places]
        place = names[line.name]
        body.append(_stroke([places[-1], (WIDTH - RIGHT + 14, place)], colour, 0.8, "1 2"))
        body.append(_text(WIDTH - RIGHT + 18, place + 4, line.name, size=12, colour=colour))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" {FONT}>'
    return "\n".join([head, f"<title>{escape(title)}</title>", *body, "</svg>"]) + "\n"


def decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between `low` and `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [
        value for power in powers for value in (10.0**power, 2 * 10.0**power, 5 * 10.0**power) if low <= value <= high
    ]


def spread(places: dict[str, float], apart: float, first: float, last: float) -> dict[str, float]:
    """The places moved as little as keeps them `apart` and, as far as there is room, between `first` and `last`."""
    moved: dict[str, float] = {}
    above = -math.inf
    for name, place in sorted(places.items(), key=lambda item: item[1]):
        above = moved[name] = max(place, above + apart, first)
    below = math.inf
    for name, place in reversed(moved.items()):
        below = moved[name] = min(place, below - apart, last)
    return moved


def _grid(x: Scale, y: Scale, across: Sequence[float], up: Sequence[float]) -> list[str]:
    drawn = []
    for value in across:
        drawn.append(_stroke([(x(value), y.start), (x(value), y.end)], "#e5e7eb", 1))
        drawn.append(_text(x(value), y.start + 18, f"{value:g}", size=12, anchor="middle"))
    for value in up:
        drawn.append(_stroke([(x.start, y(value)), (x.end, y(value))], "#e5e7eb", 1))
        drawn.append(_text(x.start - 8, y(value) + 4, f"{value:g}", size=12, anchor="end"))
    return drawn


def _stroke(places: Sequence[tuple[float, float]], colour: str, width: float, dash: str = "") -> str:
    points = " ".join(f"{one:.1f},{other:.1f}" for one, other in places)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 13,
    anchor: str = "start",
    colour: str = "#111827",
    weight: str = "400",
    turned: bool = False,
) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    style = f'font-size="{size}" font-weight="{weight}" fill="{colour}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}{turn}>{escape(text)}</text>'
