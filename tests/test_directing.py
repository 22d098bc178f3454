"""What a director relies on, measured: the truth scores as it should, a jump is seen, the shipped model passes."""

from __future__ import annotations

import random

import numpy as np
import pytest

from shotstream.context import DIRECTED
from shotstream.engine import Engine
from shotstream.evaluation import directing, report
from shotstream.models.weights import SHIPPED, load_model
from shotstream.toyworld.stories import leave_out, long_return, steered


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load_model(SHIPPED))


def test_a_jump_is_seen_and_an_even_motion_is_none():
    ramp = np.arange(24, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), dtype=np.uint8)
    assert directing._jump(ramp, 9) == pytest.approx(1.0)
    broken = ramp.copy()
    broken[9:] += 50
    assert directing._jump(broken, 9) == pytest.approx(51.0)
    assert directing._jump(broken, 12) < 1.0


def test_a_story_returns_by_name_alone_after_somebody_else():
    for number in range(20):
        story = long_return(random.Random(number))
        first, last = story.shots[0], story.shots[-1]
        name = first.caption.split(" named ")[1].split()[0].strip(".,:")
        assert len(story.shots) == directing.FAR and name in last.caption
        assert (first.scene.shape, first.scene.colour) == (last.scene.shape, last.scene.colour)
        assert last.scene.colour not in last.caption
        middle = {(shot.scene.shape, shot.scene.colour) for shot in story.shots[1:-1]}
        assert len(middle) == 1 and (first.scene.shape, first.scene.colour) not in middle
        assert all(name not in shot.caption for shot in story.shots[1:-1])


def test_a_steered_shot_does_not_jump_and_a_long_one_costs_the_same(engine: Engine):
    ratios = [directing.steering_jump(engine, steered(random.Random(n)), n)["jump_steered"] for n in range(3)]
    assert np.median(ratios) < 6.0
    found = directing.long_shot(engine, leave_out(random.Random(1), 1), 1)
    assert found["long_colour_start"] == found["long_background_start"] == 1
    assert found["long_cost"] < 1.5


def test_every_policy_is_asked_about_the_same_film(engine: Engine):
    found = directing.return_by_policy(engine, long_return(random.Random(1), 8, 1), 1)
    assert set(found) == {f"returns_{part}{policy}" for part in ("", "colour_") for policy in DIRECTED}
    assert set(map(float, found.values())) <= {0.0, 1.0}
    assert set(found) <= set(directing.SAID)


def test_the_section_of_a_page_is_replaced_and_the_rest_stays():
    page = report.with_directing("# Models\n\n| a | b |\n", "first\n")
    assert page == "# Models\n\n| a | b |\n\n## What a director relies on\n\nfirst\n"
    assert report.with_directing(page, "second") == page.replace("first", "second")
    made_anew = report.with_directing("# Models\n\n| c | d |\n", report.directing_of(page))
    assert made_anew == page.replace("a | b", "c | d")
    assert report.with_directing("# Models\n", report.directing_of("# Models\n")) == "# Models\n"
