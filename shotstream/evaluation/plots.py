"""A picture per claim, from the rows of the table. Needs matplotlib, which the extra `evaluation` brings."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from shotstream.errors import UserError
from shotstream.evaluation.variants import TRUTH, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT, ROW_HEIGHT = 8.0, 4.0, 0.4  # inches: at least so high, and higher for many rows


def require_matplotlib() -> None:
    """Raises `UserError` if there is none: better before hours of shooting than after."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError("The plots need matplotlib: pip install 'shotstream[evaluation]'.") from error


def draw_plots(rows: Mapping[str, Row]) -> dict[str, tuple[str, bytes]]:
    """By name: caption and PNG, below 100 KB each, of all claims that the rows have figures for."""
    plots: dict[str, tuple[str, Callable[[Axes], None]]] = {
        "consistency": (
            "Do later shots keep the first shot's character and place when nobody says so?",
            lambda axes: _bars(axes, rows, {"character": "inter_subject_true", "place": "inter_background_true"}),
        ),
        "adherence": (
            "Do pictures show what their captions say, and do cuts fall where they should?",
            lambda axes: _bars(axes, rows, {"caption": "adherence", "cut": "cut_exact"}),
        ),
        "wider-world": (
            "Do two-shots, camera moves, returns and changes in mid-shot come out as told?",
            lambda axes: _bars(axes, rows, {"everything": "everything", "returns": "returns", "steering": "steering"}),
        ),
        "speed": ("What do few steps cost, and how much time do they save?", lambda axes: _speeds(axes, rows)),
    }
    for unit in ("shot", "chunk"):
        if any(f"subject_by_{unit}" in row.figures.drift for row in rows.values()):
            caption = f"Do films drift? Character right (lines) and place right (dotted), {unit} by {unit}"
            plots[f"drift-{unit}s"] = (caption, lambda axes, unit=unit: _drift(axes, rows, unit))
    height = max(HEIGHT, ROW_HEIGHT * len(rows))
    return {name: (caption, _png(draw, height)) for name, (caption, draw) in plots.items()}


def _png(draw: Callable[[Axes], None], height: float) -> bytes:
    from matplotlib.figure import Figure  # without pyplot, which keeps a window system and every figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()


def _bars(axes: Axes, rows: Mapping[str, Row], shown: Mapping[str, str]) -> None:
    height = 0.8 / len(shown)
    for place, (label, metric) in enumerate(shown.items()):
        found = [row.figures.metrics.get(metric) for row in rows.values()]
        axes.barh(
            [n + place * height for n in range(len(rows))],
            [estimate.value if estimate else 0.0 for estimate in found],
            height,
            xerr=[estimate.error or 0.0 if estimate else 0.0 for estimate in found],
            label=label,
        )
    axes.set_yticks([n + 0.4 - height / 2 for n in range(len(rows))], list(rows))
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share, with standard error")
    axes.legend()


def _drift(axes: Axes, rows: Mapping[str, Row], unit: str) -> None:
    for number, (name, row) in enumerate(rows.items()):
        for curve, style in ((f"subject_by_{unit}", "-"), (f"background_by_{unit}", ":")):
            steps = row.figures.drift.get(curve)
            if not steps:
                continue
            at = range(1, len(steps) + 1)
            values = [step.value for step in steps]
            colour = f"C{number % 10}"
            axes.plot(at, values, style, color=colour, label=name if style == "-" else None)
            if style == "-":
                errors = [step.error or 0.0 for step in steps]
                low, high = ([v + sign * e for v, e in zip(values, errors, strict=True)] for sign in (-1, 1))
                axes.fill_between(at, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set_ylim(-0.02, 1.02)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel(unit)
    axes.set_ylabel("share right")
    axes.legend(fontsize="small")


def _speeds(axes: Axes, rows: Mapping[str, Row]) -> None:
    for name, row in rows.items():
        estimate = row.figures.metrics.get("inter_subject_true")
        if name == TRUTH or row.fps is None or estimate is None:
            continue
        axes.errorbar(row.fps, estimate.value, estimate.error or 0.0, fmt="o", label=name)
    axes.set_xscale("log")
    axes.set_xlabel("frames a second, everything included")
    axes.set_ylabel("right character in later shots")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
