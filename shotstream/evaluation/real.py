"""Films of story files, by any model, measured by features: no truth is known of them.

Owns the films and the table; what is measured of one is in `features`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from shotstream.engine import Engine
from shotstream.evaluation.cuts import best_detector
from shotstream.evaluation.estimate import Estimate, over_stories
from shotstream.evaluation.features import DEFINITIONS, RealMeasures
from shotstream.evaluation.speed import measure as measure_speed
from shotstream.evaluation.toyworld import film_of_captions
from shotstream.evaluation.variants import BENCH_SHOTS
from shotstream.models.model import Model
from shotstream.story import Story


@dataclass(frozen=True)
class Found:
    """`metrics` over the films, None for what none of them was long enough for; why others were `not_measured`."""

    model: str
    stories: int
    seed: int
    fps: float
    first_picture: float  # seconds
    detector: str | None
    metrics: Mapping[str, Estimate | None]
    not_measured: Mapping[str, str]

    def as_dict(self) -> dict:
        return asdict(self) | {"definitions": DEFINITIONS}

    def text(self) -> str:
        """For people."""
        lines = [f"{self.model}: films of {self.stories} story files, standard errors over films"]
        lines += [f"{name:<24}{figure or 'needs films of two shots or more'}" for name, figure in self.metrics.items()]
        lines += [f"{name:<24}not measured: {why}" for name, why in self.not_measured.items()]
        found_here = {n: told for n, told in DEFINITIONS.items() if any(key.startswith(n) for key in self.metrics)}
        lines += [f"{name}: {told}" for name, told in found_here.items()]
        lines.append(f"{self.fps:.1f} FPS, first picture after {self.first_picture:.2f} s")
        return "\n".join(lines)


def measure(
    model: Model,
    stories: Sequence[Story],
    seed: int,
    dino: Path | None,
    clip: Path | None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Found:
    """Shoots the stories and measures their films, with the networks in the folders `dino` and `clip` if given."""
    detector = best_detector(model.device)
    measures, engine, films = RealMeasures(dino, clip, detector, model.device), Engine(model), []
    for number in progress(range(len(stories))):
        film = film_of_captions(engine, stories[number].captions, seed + 100 * number)
        films.append(measures.of_film([shot.caption for shot in stories[number].shots], film))
    names = dict.fromkeys(name for film in films for name in film)
    figures = {name: over_stories(film.get(name) for film in films) for name in names}
    speed = measure_speed(model, BENCH_SHOTS)
    return Found(
        model.name,
        len(stories),
        seed,
        speed.fps,
        speed.first_pixels_seconds,
        detector and detector.name,
        figures,
        measures.not_measured,
    )
