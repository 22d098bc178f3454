"""The toy world: deterministic, quick, and readable back from its own pixels."""

import random
import time
from dataclasses import replace

import numpy as np
import pytest

from shotstream.evaluation.reader import Reading, read_shot
from shotstream.evaluation.toyworld import blips
from shotstream.toyworld import world
from shotstream.toyworld.motion import draw
from shotstream.toyworld.plot import Shares, segments
from shotstream.toyworld.stories import PLACE_NAMES, leave_out, long_story, random_story, returning, steered
from shotstream.toyworld.takes import parts, render_take
from shotstream.toyworld.wording import Member, instruction

ATTRIBUTES = tuple(Reading.__dataclass_fields__)


def test_a_seed_is_a_story_in_every_pixel():
    first, again, other = (random_story(random.Random(seed)) for seed in (5, 5, 6))
    assert first == again != other
    shot = first.shots[0]
    assert np.array_equal(world.render_shot(shot.scene, 33), world.render_shot(again.shots[0].scene, 33))


def test_renders_far_beyond_real_time():
    scenes = [shot.scene for seed in range(20) for shot in random_story(random.Random(seed)).shots]
    started = time.perf_counter()
    for scene in scenes:
        world.render_shot(scene, 33)
    assert 33 * len(scenes) / (time.perf_counter() - started) >= 500


def test_every_action_moves_or_stands_as_it_says():
    base = leave_out(random.Random(0)).shots[0].scene.__dict__
    for action in world.ACTIONS:
        scene = world.Scene(**{**base, "action": action, "camera": "medium"})
        xs, ys, gazes, _ = zip(*(world.pose(scene, frame) for frame in range(33)), strict=True)
        assert (xs[-1] - xs[0] > 8) == (action == "walk_right")
        assert (xs[-1] - xs[0] < -8) == (action == "walk_left")
        assert (min(ys) <= -5) == (action == "jump")
        assert (len(set(gazes)) > 1) == (action == "look")
        assert max(max(ys), 0) == 0, "nobody sinks into the ground"


def test_clips_have_no_one_frame_flicker():
    for seed in range(10):
        for shot in random_story(random.Random(seed)).shots:
            assert blips(world.to_rgb(render_take(shot))) == 0.0


def test_reader_reads_real_takes_beat_by_beat():
    rng, hits = random.Random(3), {name: [] for name in ATTRIBUTES}
    for _ in range(30):
        for shot in random_story(rng).shots:
            frames = world.to_rgb(render_take(shot))
            for part, scene in parts(shot):
                reading = read_shot(frames[part])
                for name in ATTRIBUTES:
                    hits[name].append(getattr(reading, name) == getattr(scene, name))
    for name, found in hits.items():
        assert np.mean(found) >= 0.98, (name, np.mean(found))


def test_reader_sees_no_character_on_an_empty_stage():
    backdrop = world.to_rgb(world.backdrop("city", "night", "wide"))
    reading = read_shot(np.stack([backdrop] * 9))
    assert reading == Reading("city", "night", "wide", None, None, None, move="still")


def test_memory_stories_leave_out_what_only_the_memory_knows():
    telling = {*world.COLOURS, *world.SHAPES, *(name for names in PLACE_NAMES.values() for name in names)}
    for seed in range(50):
        story = leave_out(random.Random(seed))
        assert len({(s.scene.colour, s.scene.shape, s.scene.place, s.scene.time) for s in story.shots}) == 1
        for shot in story.shots[1:]:
            assert not telling & set(shot.caption.lower().replace(",", " ").replace(".", " ").split())


@pytest.mark.parametrize(
    ("wording", "change"),
    [
        ("make him look surprised", {"expression": "surprised"}),
        ("transition to a wide shot of the city", {"camera": "wide", "place": "city"}),
    ],
)
def test_directors_wording_occurs(wording, change):
    rng, old = random.Random(1), world.Scene("ball", "red", "forest", "day", "close", "happy", "stand")
    member = Member("ball", "red", None, "he", "him")
    captions = [instruction(rng, old, replace(old, **change), member) for _ in range(600)]
    assert any(wording in caption.lower() for caption in captions)
    said = (shot.caption.lower() for _ in range(600) for shot in random_story(rng).shots[1:])
    assert any(caption.startswith(" ".join(wording.split()[:2])) for caption in said), "and stories do call like this"


PAIR = world.Scene("ball", "red", "forest", "day", "wide", "happy", "jump", world.Character("cube", "blue", "neutral"))


def test_a_two_shot_shows_both_side_by_side_and_says_who_acts():
    alone, both = PAIR, replace(PAIR, together=True)
    for scene in (alone, both):
        reading = read_shot(world.to_rgb(world.render_shot(scene, 33)))
        assert all(getattr(reading, name) == getattr(scene, name) for name in ATTRIBUTES)
    heights = [[pose.y for pose in draw([(0, scene)], 4).poses] for scene in (alone, both)]
    assert heights == [[-6, 0], [-6, -6]]


def test_a_pan_scrolls_the_scenery_and_goes_along_with_a_walk():
    passed = [draw([(0, replace(PAIR, partner=None, action="stand", move="pan_left"))], d) for d in range(17)]
    assert [d.scroll for d in passed] == [-n for n in range(17)]
    assert {d.poses[0].x + d.scroll for d in passed} == {passed[0].poses[0].x}, "stands still in the world"
    tracked = [draw([(0, replace(PAIR, partner=None, action="walk_right", move="pan_right"))], d) for d in range(17)]
    assert {d.poses[0].x for d in tracked} == {0} and tracked[-1].scroll == 16


def test_a_zoom_goes_through_a_few_sizes_in_whole_steps():
    zoom = replace(PAIR, partner=None, move="zoom_in")
    lenses = [draw([(0, zoom)], d).lens for d in range(17)]
    assert list(dict.fromkeys(lenses)) == ["wide", "wide+1", "wide+2", "medium"]
    assert world.settled(zoom).camera == "medium" and world.settled(zoom).move == "still"


def test_nobody_jumps_in_position_at_a_beat():
    rng = random.Random(4)
    beats = [shot for _ in range(300) for shot in steered(rng, num_chunks=rng.randint(3, 7)).shots]
    beats += [shot for _ in range(300) for shot in random_story(rng).shots if shot.beat]
    for shot in beats:
        first = segments(shot)[1][0]
        before, after = (draw(segments(shot), d) for d in (first - 1, first))
        for a, b in zip(before.poses, after.poses, strict=True):
            assert abs(a.x + before.scroll - b.x - after.scroll) <= 1, "a step at most in the world"
            assert abs(a.x - b.x) <= 2, "on the screen the camera's own step may add to it"
            assert abs(a.y - b.y) <= 3
        assert shot.beat.scene != shot.scene and shot.beat.caption
        assert np.array_equal(
            render_take(shot)[: 12 * shot.beat.chunk - 3],
            render_take(replace(shot, beat=None))[: 12 * shot.beat.chunk - 3],
        )


def test_stories_come_in_the_promised_mixture():
    stories = [random_story(random.Random(seed)) for seed in range(600)]
    shots = [shot for story in stories for shot in story.shots]
    assert 0.12 < np.mean([any(s.scene.partner for s in story.shots) for story in stories]) < 0.3
    assert 0.08 < np.mean([shot.beat is not None for shot in shots]) < 0.17
    assert 0.1 < np.mean([shot.scene.move != "still" for shot in shots]) < 0.2
    assert np.mean([shot.scene.camera == "close" for shot in shots if shot.scene.partner]) == 0
    assert {shot.num_chunks for shot in shots} == set(range(1, 8))


def test_who_returns_is_named_by_nothing_that_shows_its_looks():
    told = {*world.COLOURS, *world.PLACES, *world.TIMES}
    for seed in range(50):
        first, second, third = returning(random.Random(seed)).shots
        looks = [(shot.scene.colour, shot.scene.shape) for shot in (first, second, third)]
        assert looks[0] == looks[2] and looks[0][0] != looks[1][0] and looks[0][1] != looks[1][1]
        assert not told & set(third.caption.lower().replace(",", " ").replace(".", " ").split())


def test_a_character_of_two_looks_the_same_whenever_it_is_back():
    """In stories of two, whoever has a colour has that shape in every shot, alone or with the other."""
    rng, seen = random.Random(9), 0
    for _ in range(200):
        shots = random_story(rng).shots
        if any(shot.scene.partner for shot in shots):
            looks = {(s.scene.colour, s.scene.shape) for s in shots}
            looks |= {(s.scene.partner_colour, s.scene.partner_shape) for s in shots if s.scene.partner}
            assert len(looks) == 2
            seen += 1
    assert seen > 25


def test_without_two_shots_two_take_turns_and_come_back():
    rng, back = random.Random(3), 0
    for _ in range(100):
        shots = random_story(rng, shares=Shares(duos=1.0, moves=0.0, two_shots=False)).shots
        looks = [(shot.scene.colour, shot.scene.shape) for shot in shots]
        assert not any(shot.scene.partner for shot in shots) and len(set(looks)) <= 2
        back += any(looks[at] != looks[at - 1] and looks[at] in looks[: at - 1] for at in range(2, len(looks)))
    assert back > 30


def test_long_stories_are_long():
    story = long_story(random.Random(0))
    assert len(story.shots) == 20 and len({shot.scene.colour for shot in story.shots}) == 1
