"""Plots as inline SVG, drawn without a library: histograms, lines over time, bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 720, 240
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 34
INNER = WIDTH - LEFT - RIGHT
DEEP = HEIGHT - TOP - BOTTOM
BAR = 22


def short(value: float) -> str:
    """A number with at most three digits that say something."""
    if value >= 1000:
        return f"{value / 1000:.3g}k"
    return f"{value:.3g}"


def time(seconds: float) -> str:
    """A tick of an axis of time."""
    return f"{seconds:.3g} s" if seconds >= 0.9995 else f"{seconds * 1000:.3g} ms"


def draw_histogram(title: str, edges: Sequence[float], counts: Sequence[float], marks: Mapping[str, float]) -> str:
    """Counts over a logarithmic axis of seconds, with marks at some of them."""
    low, high = math.log(edges[0]), math.log(edges[-1])
    most = max(counts) or 1

    def x(value: float) -> float:
        return LEFT + INNER * (math.log(value) - low) / (high - low)

    parts = [_grid_y(most, short)]
    parts += [_tick_x(x(tick), time(tick)) for tick in log_ticks(edges[0], edges[-1])]
    for start, end, count in zip(edges, edges[1:], counts, strict=False):
        tall = DEEP * count / most
        place = (
            f'x="{x(start):.1f}" y="{TOP + DEEP - tall:.1f}" width="{x(end) - x(start):.1f}" height="{tall:.1f}"'
        )
        parts.append(f'<rect class="bar" {place}>{_tip(f"{time(start)} to {time(end)}: {count:g}")}</rect>')
    for row, (name, value) in enumerate(marks.items()):
        at = x(min(max(value, edges[0]), edges[-1]))
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{TOP + DEEP}"/>')
        aside, anchor = (3, "start") if at < LEFT + INNER / 2 else (-3, "end")
        parts.append(_text(at + aside, TOP + 10 + 14 * row, f"{name} {time(value)}", anchor))
    return _figure(title, parts, HEIGHT)


def draw_lines(title: str, edges: Sequence[float], series: Mapping[str, Sequence[float | None]], unit: str) -> str:
    """Values of bins of time, one line for each name, broken where a bin has none."""
    told = [value for values in series.values() for value in values if value is not None]
    most = max(told, default=0.0) or 1.0
    label = time if unit == "s" else short
    parts = [_grid_y(most, label)]
    parts += [_tick_x(LEFT + INNER * tick / edges[-1], time(tick)) for tick in ticks(edges[-1])]
    middles = [(start + end) / 2 for start, end in zip(edges, edges[1:], strict=False)]
    for index, (name, values) in enumerate(series.items()):
        points = [
            None
            if value is None
            else (
                LEFT + INNER * at / edges[-1],
                TOP + DEEP * (1 - value / most),
                f"{name}, {time(at)}: {label(value)}",
            )
            for at, value in zip(middles, values, strict=True)
        ]
        parts.append(_line(points, index))
        parts.append(
            f'<text class="key line{index}" x="{LEFT + 8 + 110 * index}" y="{TOP + 10}">{escape(name)}</text>'
        )
    return _figure(f"{title} ({unit})", parts, HEIGHT)


def draw_curves(
    title: str, ticks_x: Sequence[str], series: Mapping[str, Sequence[float | None]], unit: str
) -> str:
    """Values at places that are named and equally far apart, one line for each name."""
    most = max((value for values in series.values() for value in values if value is not None), default=1.0) or 1.0
    gap = INNER / max(1, len(ticks_x))
    places = [LEFT + gap * (at + 0.5) for at in range(len(ticks_x))]
    parts = [_grid_y(most, short), *(_tick_x(x, label) for x, label in zip(places, ticks_x, strict=True))]
    for index, (name, values) in enumerate(series.items()):
        points = [
            None if value is None else (x, TOP + DEEP * (1 - value / most), f"{name}, {label}: {value:.3g}")
            for x, label, value in zip(places, ticks_x, values, strict=True)
        ]
        parts.append(_line(points, index))
        place = f'x="{LEFT + 8 + 130 * index}" y="{TOP + DEEP - 8}"'
        parts.append(f'<text class="key line{index}" {place}>{escape(name)}</text>')
    return _figure(f"{title} ({unit})", parts, HEIGHT)


def draw_bars(title: str, values: Mapping[str, float], unit: str) -> str:
    """One horizontal bar for each name."""
    most = max(values.values(), default=0.0) or 1.0
    label = time if unit == "s" else short
    inner = WIDTH - 150 - 90
    parts = []
    for row, (name, value) in enumerate(values.items()):
        y, long = TOP + row * BAR, inner * value / most
        shown = name if len(name) <= 22 else f"{name[:21]}…"
        parts.append(_text(142, y + 14, shown, "end"))
        place = f'x="150" y="{y + 3}" width="{long:.1f}" height="{BAR - 6}"'
        parts.append(f'<rect class="bar" {place}>{_tip(f"{name}: {value:g} {unit}")}</rect>')
        parts.append(_text(154 + long, y + 14, label(value), "start"))
    return _figure(f"{title} ({unit})", parts, TOP + BAR * len(values) + 8)


def draw_marks(title: str, end: float, rows: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """What happened when: one row for each name, with a bar from each start to its end, in seconds up to `end`."""
    inner = WIDTH - 150 - RIGHT
    tall = TOP + BAR * len(rows)
    parts = []
    for tick in ticks(end):
        x = 150 + inner * tick / end
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{tall}"/>')
        parts.append(_text(x, tall + 16, time(tick) if tick else "0", "middle"))
    for row, (name, spans) in enumerate(rows.items()):
        y = TOP + row * BAR
        parts.append(_text(142, y + 15, f"{name} ({len(spans)})", "end"))
        for start, stop in spans:
            x, long = 150 + inner * max(start, 0) / end, max(1.5, inner * (stop - max(start, 0)) / end)
            place = f'x="{x:.1f}" y="{y + 4}" width="{long:.1f}" height="{BAR - 8}"'
            parts.append(f'<rect class="bar" {place}>{_tip(f"{name}, {time(start)} to {time(stop)}")}</rect>')
    return _figure(title, parts, tall + 24)


def ticks(most: float, count: int = 5) -> list[float]:
    """Round numbers from 0 to at most `most`, about `count` of them."""
    if most <= 0:
        return [0.0]
    power = 10.0 ** math.floor(math.log10(most / count))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * count >= most)
    return [index * step for index in range(int(most / step * (1 + 1e-9)) + 1)]


def log_ticks(least: float, most: float) -> list[float]:
    """Ticks between two positive numbers: round ones of a narrow range, the powers of ten of a wide one."""
    if most / least < 5:
        return [tick for tick in ticks(most, round(5 * most / (most - least))) if tick >= least]
    factors = (1, 2, 5) if most / least < 1000 else (1,)
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    found = [factor * 10.0**power for power in powers for factor in factors]
    return [tick for tick in found if least <= tick <= most]


def _figure(title: str, parts: Sequence[str], height: int) -> str:
    head = f'<svg role="img" viewBox="0 0 {WIDTH} {height}" aria-label="{escape(title, quote=True)}">'
    return f"<figure><figcaption>{escape(title)}</figcaption>{head}{''.join(parts)}</svg></figure>"


def _line(points: Sequence[tuple[float, float, str] | None], index: int) -> str:
    """The points joined where they are neighbours; each has a dot that tells its value."""
    path, dots, pen = [], [], "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        x, y, told = point
        path.append(f"{pen}{x:.1f} {y:.1f}")
        dots.append(f'<circle class="dot line{index}" cx="{x:.1f}" cy="{y:.1f}" r="2.5">{_tip(told)}</circle>')
        pen = "L"
    return f'<path class="line line{index}" d="{" ".join(path)}"/>{"".join(dots)}' if path else ""


def _grid_y(most: float, label: object) -> str:
    assert callable(label)
    lines = []
    for tick in ticks(most):
        y = TOP + DEEP * (1 - tick / most)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + INNER}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(_text(LEFT - 6, y + 4, label(tick) if tick else "0", "end"))
    return "".join(lines)


def _tick_x(x: float, label: str) -> str:
    line = f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP + DEEP}" y2="{TOP + DEEP + 4}"/>'
    return line + _text(x, TOP + DEEP + 18, label, "middle")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _tip(text: str) -> str:
    return f"<title>{escape(text)}</title>"
