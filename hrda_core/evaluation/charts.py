"""Line charts as inline SVG text. Colours come from the page's style sheet, so they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from hrda_core.evaluation.formatting import format_number

Points = Sequence[tuple[float, float]]
Array = NDArray[np.float64]

# User units of the drawing; the page scales it to its column.
WIDTH, HEIGHT = 520, 280
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 12, 44
PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
COLOURS = 8
SMOOTH_ABOVE = 200  # points; shorter series are drawn as they are
TYPICAL = (0.5, 99.5)  # percentiles; a spike beyond them must not flatten the rest
NOISE = 0.002  # of the typical range; a learning rate is calmer than this, and smoothing would only blunt its corners
DOTS_BELOW = 40  # points; few measurements are marked one by one


@dataclass(frozen=True)
class Chart:
    """Lines over a common x axis. Points that are not finite leave a gap.

    A noisy series of more than 200 points is drawn thin, with its moving average over it.
    """

    title: str
    series: Mapping[str, Points]
    x_label: str = "iteration"
    y_label: str = ""


@dataclass(frozen=True)
class _Line:
    name: str
    x: Array
    y: Array
    smooth: Array | None
    style: str


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, values: Array) -> Array:
        """Fraction 0..1 along the axis."""
        return (values - self.low) / (self.high - self.low)


def render_chart(chart: Chart) -> str:
    """HTML <figure>: heading, SVG with axes, legend with the last value of each line."""
    lines = [_line(name, points, index) for index, (name, points) in enumerate(chart.series.items())]
    drawn = [line for line in lines if np.isfinite(line.y).any()]
    unit = f'<span class="unit">{escape(chart.y_label)}</span>' if chart.y_label else ""
    body = _svg(chart, drawn) if drawn else '<p class="empty">No data yet</p>'
    legend = "".join(_legend_entry(line) for line in lines)
    return (
        f'<figure class="chart"><figcaption><b>{escape(chart.title)}</b>{unit}</figcaption>{body}'
        f'<ul class="legend">{legend}</ul></figure>'
    )


def _line(name: str, points: Points, index: int) -> _Line:
    values = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    values = values[np.isfinite(values[:, 0])]
    x, y = values[:, 0], np.where(np.isfinite(values[:, 1]), values[:, 1], math.nan)
    # The second round of the eight colours is dashed.
    style = f"s{index % COLOURS}" + (" dashed" if index >= COLOURS else "")
    return _Line(name, x, y, _moving_average(y) if _is_noisy(y) else None, style)


def _svg(chart: Chart, lines: Sequence[_Line]) -> str:
    x_axis = _x_axis(np.concatenate([line.x[np.isfinite(line.y)] for line in lines]))
    y_axis = _y_axis(np.concatenate([_typical_values(line) for line in lines]))
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}">']
    for tick, text in zip(y_axis.ticks, _tick_texts(y_axis.ticks), strict=True):
        y = TOP + PLOT_HEIGHT * (1 - float(y_axis.place(np.float64(tick))))
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y:.1f}" dy="0.35em" text-anchor="end">{text}</text>')
    for tick, text in zip(x_axis.ticks, _tick_texts(x_axis.ticks), strict=True):
        x = LEFT + PLOT_WIDTH * float(x_axis.place(np.float64(tick)))
        anchor = "end" if x > WIDTH - RIGHT - 12 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{TOP + PLOT_HEIGHT + 18}" text-anchor="{anchor}">{text}</text>')
    parts.append(f'<text x="{LEFT + PLOT_WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(chart.x_label)}</text>')
    # A nested <svg> clips its content: spikes of the raw line end at the frame.
    parts.append(f'<svg x="{LEFT}" y="{TOP - 4}" width="{PLOT_WIDTH + 6}" height="{PLOT_HEIGHT + 8}">')
    for line in lines:
        if line.smooth is not None:
            parts.append(_path(*_thin_out(line.x, line.y), x_axis, y_axis, f"raw {line.style}"))
    for line in lines:
        if line.smooth is not None:
            parts.append(_path(*_thin_out(line.x, line.smooth), x_axis, y_axis, line.style))
        else:
            parts.append(_path(*_thin_out(line.x, line.y), x_axis, y_axis, line.style))
            parts.append(_dots(line, x_axis, y_axis))
    parts.append("</svg></svg>")
    return "".join(parts)


def _path(x: Array, y: Array, x_axis: _Axis, y_axis: _Axis, style: str) -> str:
    across, down = x_axis.place(x) * PLOT_WIDTH, 4 + (1 - y_axis.place(y)) * PLOT_HEIGHT
    commands, pen_down = [], False
    for px, py in zip(across, down, strict=True):
        if math.isnan(py):
            pen_down = False
            continue
        commands.append(f"{'L' if pen_down else 'M'}{px:.1f} {py:.1f}")
        pen_down = True
    return f'<path class="{style}" d="{"".join(commands)}"/>'


def _dots(line: _Line, x_axis: _Axis, y_axis: _Axis) -> str:
    known = np.isfinite(line.y)
    # A value between two gaps has no line to show it, so it always gets a dot.
    padded = np.concatenate([[False], known, [False]])
    alone = known & ~padded[:-2] & ~padded[2:]
    marked = known if len(line.y) < DOTS_BELOW else alone
    return "".join(
        f'<circle class="{line.style}" r="3" cx="{x_axis.place(x) * PLOT_WIDTH:.1f}"'
        f' cy="{4 + (1 - y_axis.place(y)) * PLOT_HEIGHT:.1f}">'
        f"<title>{escape(line.name)}: {format_number(float(y))} at {format_number(float(x))}</title></circle>"
        for x, y in zip(line.x[marked], line.y[marked], strict=True)
    )


def _legend_entry(line: _Line) -> str:
    values = line.y if line.smooth is None else line.smooth
    known = values[np.isfinite(values)]
    last = format_number(float(known[-1])) if known.size else "no data"
    return f'<li><i class="{line.style}"></i>{escape(line.name)}<b title="last value">{last}</b></li>'


def _is_noisy(y: Array) -> bool:
    known = y[np.isfinite(y)]
    if len(known) <= SMOOTH_ABOVE:
        return False
    low, high = np.percentile(known, TYPICAL)
    return bool(np.median(np.abs(np.diff(known, 2))) > NOISE * (high - low))


def _moving_average(y: Array) -> Array:
    """Centred mean over about a fortieth of the series; gaps stay gaps and do not weigh."""
    half = max(2, len(y) // 80)
    window = np.ones(2 * half + 1)
    known = np.isfinite(y)
    weight = np.convolve(known, window)[half:-half]
    total = np.convolve(np.where(known, y, 0), window)[half:-half]
    return np.where(known, total / np.maximum(weight, 1), math.nan)


def _thin_out(x: Array, y: Array, buckets: int = 400) -> tuple[Array, Array]:
    """Lowest and highest point of each of 400 buckets: looks the same, and a long run's page stays small."""
    if len(x) <= 2 * buckets:
        return x, y
    keep: list[int] = []
    for bucket in np.array_split(np.arange(len(x)), buckets):
        known = bucket[np.isfinite(y[bucket])]
        keep += sorted({int(known[y[known].argmin()]), int(known[y[known].argmax()])}) if known.size else [bucket[0]]
    return x[keep], y[keep]


def _typical_values(line: _Line) -> Array:
    """What the y axis must show: everything, but of a noisy line not its half percent of extremes on either side."""
    known = line.y[np.isfinite(line.y)]
    return known if line.smooth is None else np.percentile(known, TYPICAL)


def _x_axis(values: Array) -> _Axis:
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 1, high + 1
    step = _nice_step((high - low) / 5)
    if 0 < low <= step:  # a run starts at 0, though its first measurement comes later
        low = 0.0
    end = math.ceil(high / step) * step
    if end - high < 0.02 * (high - low):  # 19,990 of 20,000
        high = end
    return _Axis(low, high, _multiples(step, low, high))


def _y_axis(values: Array) -> _Axis:
    low, high = float(values.min()), float(values.max())
    if 0 <= low <= 0.5 * high:
        low = 0.0
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        pad = 0.1 * abs(high) or 1.0
        low, high = low - pad, high + pad
    step = _nice_step((high - low) / 5)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return _Axis(low, high, _multiples(step, low, high))


def _nice_step(rough: float) -> float:
    unit = 10.0 ** math.floor(math.log10(rough))
    return next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)


def _multiples(step: float, low: float, high: float) -> tuple[float, ...]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(index * step for index in range(first, last + 1))


def _tick_texts(ticks: Sequence[float]) -> list[str]:
    """All ticks of an axis with the same number of decimals; thousands as k, millions as M."""
    top = max((abs(tick) for tick in ticks), default=0.0)
    scale, suffix = (1e6, "M") if top >= 1e6 else (1e3, "k") if top >= 1e4 else (1.0, "")
    if 0 < top < 1e-2:
        exponent = math.floor(math.log10(top))
        return [f"{tick / 10.0**exponent:.3g}e{exponent}" if tick else "0" for tick in ticks]
    decimals = next(d for d in range(8) if d == 7 or all(math.isclose(t / scale, round(t / scale, d)) for t in ticks))
    return [f"{tick / scale:.{decimals}f}{suffix}" if tick else "0" for tick in ticks]
