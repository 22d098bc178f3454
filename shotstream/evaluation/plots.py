"""A picture per claim, from the rows of the table. Needs matplotlib, which the extra `evaluation` brings."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from shotstream.errors import UserError
from shotstream.evaluation.variants import TRUTH, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT, ROW_HEIGHT = 8.0, 4.0, 0.4  # inches: at least so high, and higher for many rows


def require_matplotlib() -> None:
    """Raises `UserError` if there is none: better before hours of shooting than after."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError("The plots need matplotlib: pip install -e '.[evaluation]'.") from error


def draw_plots(rows: Mapping[str, Row]) -> dict[str, tuple[str, bytes]]:
    """By name: caption and PNG, below 100 KB each, of all claims that the rows have figures for."""
    plots: dict[str, tuple[str, Callable[[Figure], None]]] = {
        "consistency": (
            "Do later shots keep the first shot's character and place when nobody says so?",
            lambda figure: _bars(figure, rows, {"character": "inter_subject_true", "place": "inter_background_true"}),
        ),
        "adherence": (
            "Do pictures show what their captions say, and do cuts fall where they should?",
            lambda figure: _bars(figure, rows, {"caption": "adherence", "cut": "cut_exact"}),
        ),
        "wider-world": (
            "Do two-shots, camera moves, returns and changes in mid-shot come out as told?",
            lambda figure: _bars(
                figure, rows, {"everything": "everything", "returns": "returns", "steering": "steering"}
            ),
        ),
        "speed": ("What do few steps cost, and how much time do they save?", lambda figure: _speeds(figure, rows)),
    }
    for unit in ("shot", "chunk"):
        if any(f"subject_by_{unit}" in row.figures.drift for row in rows.values()):
            caption = f"Do films drift? Share of films that are right, {unit} by {unit}"
            plots[f"drift-{unit}s"] = (caption, lambda figure, unit=unit: _drift(figure, rows, unit))
    height = max(HEIGHT, ROW_HEIGHT * len(rows))
    return {name: (caption, _png(draw, height)) for name, (caption, draw) in plots.items()}


def _png(draw: Callable[[Figure], None], height: float) -> bytes:
    from matplotlib.figure import Figure  # without pyplot, which keeps a window system and every figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    draw(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()


def _bars(figure: Figure, rows: Mapping[str, Row], shown: Mapping[str, str]) -> None:
    axes, height = _with_grid(figure), 0.8 / len(shown)
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
    figure.legend(loc="outside lower center", ncols=len(shown))


def _drift(figure: Figure, rows: Mapping[str, Row], unit: str) -> None:
    """A field for every shot or chunk of every row, dark where few films are right: lines would cover each other."""
    curves = {"character": f"subject_by_{unit}", "place": f"background_by_{unit}"}
    shown = {name: row.figures.drift for name, row in rows.items() if curves["character"] in row.figures.drift}
    longest = max(len(drift[curves["character"]]) for drift in shown.values())
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (title, curve) in zip(panels, curves.items(), strict=True):
        values = [[step.value for step in drift[curve]] for drift in shown.values()]
        padded = [line + [float("nan")] * (longest - len(line)) for line in values]
        extent = (0.5, longest + 0.5, len(shown) - 0.5, -0.5)
        image = axes.imshow(padded, vmin=0, vmax=1, aspect="auto", extent=extent, interpolation="nearest")
        axes.set_yticks(range(len(shown)), list(shown))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(title)
        axes.set_xlabel(unit)
    figure.colorbar(image, ax=panels, label="share right")


def _speeds(figure: Figure, rows: Mapping[str, Row]) -> None:
    axes, points = _with_grid(figure), []
    for name, row in rows.items():
        estimate = row.figures.metrics.get("inter_subject_true")
        if name == TRUTH or row.fps is None or estimate is None:
            continue
        errors = (estimate.error or 0.0, row.fps.error or 0.0)
        mark = "osD^v"[len(axes.containers) // 10 % 5]  # the colours come round again after ten
        axes.errorbar(row.fps.value, estimate.value, *errors, fmt=mark, label=name)
        points.append((row.fps.value, estimate.value))
    if best := pareto_front(points):
        axes.plot(*zip(*best, strict=True), ":", color="grey", zorder=0, label="nothing is better in both")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("frames a second, everything included")
    axes.set_ylabel("right character in later shots")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right center", fontsize="small")


def pareto_front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points (speed, quality) those than which none is better in one and as good in the other, slowest first."""
    front: list[tuple[float, float]] = []
    for speed, quality in sorted(points, reverse=True):
        if not front or quality > front[-1][1]:
            front.append((speed, quality))
    return front[::-1]


def _with_grid(figure: Figure) -> Axes:
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return axes
