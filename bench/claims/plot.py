"""The two plots, as SVG: bars with their range, and lines over time. Pure."""

from collections.abc import Sequence
from html import escape
from typing import Final

from bench.claims.variants import TITLES
from bench.common.figures import of, ratio
from bench.common.results import Results, Trace

_COLOURS: Final = {
    "claim": "#d6336c",
    "insert": "#343a40",
    "skip_locked": "#e8890c",
    "sequence": "#1c7ed6",
    "send": "#868e96",
    "redis_always": "#adb5bd",
    "redis_everysec": "#ced4da",
}
_WIDTH: Final = 880
_STYLE: Final = "font-family:system-ui,-apple-system,'Segoe UI',sans-serif;font-size:13px"


def bars(results: Results) -> str:
    """Claims a second of each variant, a panel for each number of clients."""
    left, right, bar, row, top = 262, 200, 16, 23, 58
    counts = sorted({each.clients for each in results.measurements if each.part == "throughput"})
    shown = {
        clients: [
            each
            for each in results.measurements
            if each.clients == clients
            and each.part in ("throughput", "redis")
            and each.variant in _COLOURS
            and each.samples
        ]
        for clients in counts
    }
    rates = {id(each): of(each, lambda sample: sample.rate) for some in shown.values() for each in some}
    most = max((rate.high for rate in rates.values()), default=1.0)
    scale = (_WIDTH - left - right) / most
    drawn = [_text(20, 30, "Claims a second: median, and the range of all rounds", "font-size:16px;font-weight:600")]
    y = top
    for clients, some in shown.items():
        drawn.append(_text(20, y + 4, f"{clients} clients", "font-weight:600;fill:#495057"))
        y += 14
        base = next((each for each in some if each.variant == "insert"), None)
        for each in sorted(some, key=lambda each: list(_COLOURS).index(each.variant)):
            rate = rates[id(each)]
            weight = "font-weight:600" if each.variant == "claim" else ""
            drawn.append(_text(left - 10, y + bar - 3, TITLES[each.variant], f"text-anchor:end;{weight}"))
            drawn.append(_box(left, y, rate.middle * scale, bar, _COLOURS[each.variant]))
            drawn.append(
                _line([(left + rate.low * scale, y + bar / 2), (left + rate.high * scale, y + bar / 2)], "#00000066", 2)
            )
            compared = base is not None and each.part == base.part and each is not base
            share = f"  ({ratio(each, base).middle:.2f} of the INSERT)" if base and compared else ""
            drawn.append(
                _text(left + rate.high * scale + 8, y + bar - 3, f"{rate.middle:,.0f}{share}", f"fill:#495057;{weight}")
            )
            y += row
        y += 26
    return _svg(y - 10, drawn)


def lines(traces: Sequence[Trace]) -> str:
    """Answers a second while each pool sells out."""
    left, top, height, bottom = 70, 70, 300, 50
    most = max((rate for trace in traces for rate in trace.rates), default=1.0)
    seconds = max((len(trace.rates) * trace.step_seconds for trace in traces), default=1.0)
    across, up = (_WIDTH - left - 30) / seconds, height / most
    title = ""
    if traces:
        title = (
            f"Answers a second, {traces[0].slots:,} slots, {traces[0].clients} clients: the sale, its end, and after"
        )
    drawn = [_text(20, 30, title, "font-size:16px;font-weight:600")]
    step = _round_step(most / 4)
    for n in range(int(most / step) + 1):
        y = top + height - n * step * up
        drawn.append(_line([(left, y), (_WIDTH - 30, y)], "#e9ecef", 1))
        drawn.append(_text(left - 8, y + 4, f"{n * step:,.0f}", "text-anchor:end;fill:#868e96"))
    drawn += [
        _text(left + second * across, top + height + 20, f"{second} s", "text-anchor:middle;fill:#868e96")
        for second in range(0, int(seconds) + 1, max(int(seconds / 10), 1))
    ]
    for n, trace in enumerate(traces):
        points = [
            (left + (i + 0.5) * trace.step_seconds * across, top + height - rate * up)
            for i, rate in enumerate(trace.rates)
        ]
        drawn.append(_line(points, _COLOURS[trace.variant], 2.5))
        drawn.append(_box(left + n * 270, 44, 12, 12, _COLOURS[trace.variant]))
        drawn.append(_text(left + n * 270 + 18, 54, TITLES[trace.variant], ""))
    return _svg(top + height + bottom, drawn)


def _round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten."""
    power = 10.0 ** (len(str(int(max(rough, 1)))) - 1)
    return next(power * n for n in (1, 2, 5, 10) if power * n >= rough)


def _svg(height: float, drawn: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" style="{_STYLE}">'
    return "\n".join([head, f'<rect width="{_WIDTH}" height="{height:.0f}" fill="#fff" rx="8"/>', *drawn, "</svg>", ""])


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" style="{style}">{escape(text)}</text>'


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" fill="{colour}"/>'


def _line(points: Sequence[tuple[float, float]], colour: str, width: float) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"/>'
