"""Tables for people: plain text for the terminal, Markdown for a file, with what every column means.

Knows how figures are shown; not where they come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shotstream.evaluation.estimate import Estimate
from shotstream.evaluation.variants import Row

# Name: what it says, and which way is better (+1, -1, 0 for neither). Attributes that a reader adds come besides.
MEANINGS = {
    "adherence": ("share of all that the caption says which is in the picture", 1),
    "intra_subject": ("share of a shot's frames in which the character looks as in most of them", 1),
    "intra_background": ("the same of place and time of day", 1),
    "inter_subject": ("share of later shots with the character of the film's own first shot, unsaid", 1),
    "inter_subject_true": ("... with the character that it should be", 1),
    "inter_background": ("share of later shots with place and time of the film's own first shot, unsaid", 1),
    "inter_background_true": ("... with place and time that they should be", 1),
    "cut_exact": ("share of cuts that fall on the very frame", 1),
    "cut_detected": ("share of right ones among cuts asked for or found by the detector", 1),
    "alone": ("share of shots of one character with nobody else in them", 1),
    "camera_stands": ("share of shots without a camera move whose camera stands still", 1),
    "everything": ("share of all attributes right in random stories: two-shots, moves, changes, unsaid or said", 1),
    "two_shots": ("there, colours and shapes of both characters where there are two", 1),
    "camera_moves": ("there, pans and zooms", 1),
    "new_settings": ("there, place and time of day where they change", 1),
    "returns": ("share of films in which a character comes back as it was, after somebody else's shot", 1),
    "steering": ("share of changes told in mid-shot that the rest of the shot shows", 1),
    "flicker": ("share of pixels that differ for one frame only", -1),
    "shimmer": ("share of pixels that differ for one drawing of two frames only", 0),
    "motion": ("share of pixels that change from frame to frame", 0),
    "motion_gap": ("by how much that differs from the truth's", -1),
}
SHORT = {"flicker": 4, "shimmer": 4}  # decimals of small figures


def columns_of(rows: Mapping[str, Row]) -> list[str]:
    """All metrics that any row has: those of `MEANINGS` first, then the single attributes."""
    found = dict.fromkeys(name for row in rows.values() for name in row.figures.metrics)
    return [name for name in MEANINGS if name in found] + [name for name in found if name not in MEANINGS]


def shown(estimate: Estimate | None, decimals: int = 3) -> str:
    if estimate is None:
        return "-"
    error = "" if estimate.error is None else f" ±{estimate.error:.{decimals}f}"
    return f"{estimate.value:.{decimals}f}{error}"


def text_table(rows: Mapping[str, Row]) -> str:
    """A line per metric, a column per row: there are more metrics than fit beside each other."""
    widths = [max(15, len(name) + 2) for name in rows]
    lines = [" " * 24 + "".join(f"{name:>{width}}" for name, width in zip(rows, widths, strict=True))]
    for metric in columns_of(rows):
        cells = [shown(row.figures.metrics.get(metric), SHORT.get(metric, 3)) for row in rows.values()]
        lines.append(f"{metric:<24}" + "".join(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True)))
    for curve in dict.fromkeys(name for row in rows.values() for name in row.figures.drift):
        for row, figures in ((name, row.figures.drift.get(curve)) for name, row in rows.items()):
            if figures:
                lines.append(f"{curve}, {row}: " + " ".join(f"{step.value:.2f}" for step in figures))
    lines += [f"{name}: {speed}" for name, row in rows.items() if (speed := _speed(row))]
    return "\n".join(lines)


def _speed(row: Row) -> str:
    if row.fps is None:
        return ""
    return f"{row.fps.value:.1f} FPS, first picture after {row.first_picture.value:.2f} s"


def markdown(
    rows: Mapping[str, Row], title: str, notes: Sequence[str], plots: Mapping[str, str], findings: str = ""
) -> str:
    """The whole page. `plots`: file name by caption; `findings`: what somebody made of it."""
    columns = columns_of(rows)
    main = [name for name in columns if name in MEANINGS]
    parts = [f"# {title}", *notes]
    if findings.strip():
        parts.append(f"{FINDINGS.strip()}\n\n{findings.strip()}")
    parts += ["## The table", _markdown_table(rows, main, speed=True)]
    arrows = {1: "more is better", -1: "less is better", 0: "as the truth"}
    parts.append("\n".join(f"* `{name}`: {MEANINGS[name][0]} ({arrows[MEANINGS[name][1]]})." for name in main))
    if attributes := [name for name in columns if name not in MEANINGS]:
        parts.append("## Attribute by attribute")
        parts.append(
            "`adherence_` where the caption says it; `kept_` where only an earlier shot does: right by the truth."
        )
        parts.append(_markdown_table(rows, attributes))
    for unit in ("shot", "chunk"):
        curves = {name: row.figures.drift for name, row in rows.items() if f"subject_by_{unit}" in row.figures.drift}
        if curves:
            parts.append(f"## {unit.capitalize()} by {unit}")
            errors = [step.error or 0.0 for drift in curves.values() for steps in drift.values() for step in steps]
            told = "Share of films in which the character (colour and shape), its colour, the place are right"
            parts.append(f"{told}; standard errors up to {max(errors):.2f}.")
            parts.append(_drift_table(curves, unit))
    if plots:
        parts.append("## Claims")
        parts += [f"{caption}\n\n![{caption}]({name})" for caption, name in plots.items()]
    return "\n\n".join(parts) + "\n"


FINDINGS = "\n## What it says\n"
DIRECTING = "\n## What a director relies on\n"


def with_directing(page: str, section: str) -> str:
    """`page` with `section`, which may be empty, in the place of the one that it had on what a director relies on."""
    rest = page.partition(DIRECTING)[0].rstrip("\n")
    return rest + (f"\n{DIRECTING}\n{section.strip()}" if section.strip() else "") + "\n"


def findings_of(page: str) -> str:
    """What somebody wrote on a page of what it says; empty if nobody did."""
    return page.partition(FINDINGS)[2].partition("\n## ")[0]


def directing_of(page: str) -> str:
    """That section of a page; empty if it has none. It is the last one."""
    return page.partition(DIRECTING)[2]


def _drift_table(curves: Mapping[str, Mapping[str, Sequence[Estimate]]], unit: str) -> str:
    """A line per row and curve, a column per shot or chunk."""
    longest = max(len(drift[f"subject_by_{unit}"]) for drift in curves.values())
    lines = ["| | | " + " | ".join(map(str, range(1, longest + 1))) + " |", "|---" * (2 + longest) + "|"]
    for name, drift in curves.items():
        for part in ("subject", "colour", "background"):
            cells = [f"{step.value:.2f}" for step in drift[f"{part}_by_{unit}"]]
            lines.append(
                f"| {name.replace('|', '/')} | {part} | " + " | ".join(cells) + " |" + " |" * (longest - len(cells))
            )
    return "\n".join(lines)


def _markdown_table(rows: Mapping[str, Row], columns: Sequence[str], speed: bool = False) -> str:
    ends = ["FPS", "first picture, s"] if speed else []
    lines = ["| | " + " | ".join([*columns, *ends]) + " |", "|---" * (1 + len(columns) + len(ends)) + "|"]
    for name, row in rows.items():
        cells = [shown(row.figures.metrics.get(column), SHORT.get(column, 3)) for column in columns]
        if speed:
            cells += [shown(row.fps, 1), shown(row.first_picture)]
        lines.append(f"| {name.replace('|', '/')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
