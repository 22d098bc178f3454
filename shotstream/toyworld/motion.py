"""How characters and camera move: what every drawing of a take shows, whatever happens in mid-take.

Animated on twos, as cartoons are: every drawing after the first is held for two frames. Knows no pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shotstream.toyworld.scene import LENSES, ZOOMS, Lens, Scene

_DANCE = (0, 1, 2, 2, 1, 0, -1, -2, -2, -1)
_LOOK = (0, -1, -1, 0, 1, 1)
_LEAP = 8  # drawings from take-off to landing
_ZOOM_STEP = 2  # drawings that each size of a zoom is held for
_ZOOM_HOLD = 4  # drawings before a zoom that begins with the shot: first see, then come closer
_DIRECTION = {"walk_left": -1, "walk_right": 1, "pan_left": -1, "pan_right": 1}

Segments = Sequence[tuple[int, Scene]]  # (first drawing, what happens from then on), the first at 0


@dataclass(frozen=True)
class Pose:
    """Offset (x, y) of a sprite from its place on stage in pixels, gaze (-1, 0, 1), and whether it blinks."""

    x: int
    y: int
    gaze: int
    blink: bool


@dataclass(frozen=True)
class Drawing:
    """One drawing: the scene, the lens it is seen through, pixels the scenery has scrolled, a pose per character."""

    scene: Scene
    lens: str
    scroll: int
    poses: tuple[Pose, ...]


@dataclass(frozen=True)
class _Actor:
    """What a character has been doing since when, from which x, with how many pixels of room ahead; and the heights
    that it still falls through if it was in the air when told to do something else."""

    action: str
    since: int
    x: int
    room: int
    fall: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Camera:
    """The camera's move, since when, the scroll and the shift of all characters that it began with."""

    move: str
    since: int
    scroll: int
    shift: int
    room: int
    hold: int = 0


def drawing_of(frame: int) -> int:
    """Number of the drawing that a frame of a take shows."""
    return (frame + 1) // 2


def first_frame(chunk: int) -> int:
    """First pixel frame of a chunk of three latent frames, of which a shot's very first is a single frame."""
    return max(0, 12 * chunk - 3)


def _height(lens: Lens, step: int) -> int:
    phase = step % _LEAP / _LEAP
    return -int(round(4 * lens.jump * phase * (1 - phase)))


def _reach(scene: Scene) -> int:
    lens = LENSES[scene.camera]
    return lens.pair_range if scene.partner else lens.walk_range


def _tracked(scene: Scene) -> bool:
    """Does the camera go along with whoever walks?"""
    return _DIRECTION.get(scene.move) is not None and _DIRECTION.get(scene.move) == _DIRECTION.get(scene.action)


def _actions(scene: Scene) -> tuple[str, ...]:
    if scene.partner is None:
        return (scene.action,)
    return scene.action, scene.action if scene.together else "stand"


def _begin(scene: Scene) -> tuple[_Camera, list[_Actor]]:
    """Where a take begins: walks and pans start off-centre, so that there is somewhere to go."""
    reach, pan = _reach(scene), _DIRECTION.get(scene.move, 0)
    still = _tracked(scene)
    actors = []
    for action in _actions(scene):
        way = 0 if still else _DIRECTION.get(action, 0)
        actors.append(_Actor(action, 0, -way * reach, 2 * reach))
    camera = _Camera(scene.move, 0, 0, 0 if still else pan * reach, 2 * reach, _ZOOM_HOLD)
    return camera, actors


def _go_on(old: Scene, scene: Scene, camera: _Camera, actors: list[_Actor], first: int) -> tuple[_Camera, list[_Actor]]:
    """The same take under another instruction: everybody goes on from where the drawing before left them."""
    last, reach = first - 1, _reach(scene)
    lens, scroll, shift = _seen(old, camera, last)
    actions = _actions(scene)
    carried = []
    for actor, action in zip(actors, actions, strict=True):
        if action == actor.action:
            carried.append(actor)
            continue
        x, fall = actor.x + _step(actor, LENSES[lens], last, _tracked(old))[0], ()
        if actor.action == "jump" and (step := (last - actor.since) % _LEAP):
            fall = tuple(_height(LENSES[lens], s) for s in range(max(step, _LEAP - step) + 1, _LEAP))
        room = max(0, reach - _DIRECTION.get(action, 0) * (x + shift))
        carried.append(_Actor(action, last, x, room, fall))
    if scene.move != camera.move:
        pan = _DIRECTION.get(scene.move, 0)
        ahead = reach + pan * (carried[0].x + shift)
        camera = _Camera(scene.move, last, scroll, shift, max(0, ahead))
    return camera, carried


def _seen(scene: Scene, camera: _Camera, drawing: int) -> tuple[str, int, int]:
    """Lens, scroll and shift of the characters at a drawing."""
    lens, passed = LENSES[scene.camera], drawing - camera.since
    if zoom := ZOOMS.get((camera.move, scene.camera)):
        step = (max(0, passed - camera.hold) + _ZOOM_STEP - 1) // _ZOOM_STEP
        return zoom[min(step, len(zoom) - 1)], camera.scroll, camera.shift
    pan = _DIRECTION.get(camera.move, 0)
    way = int(passed * lens.pace)
    if _tracked(scene):
        return scene.camera, camera.scroll + pan * way, camera.shift
    way = pan * min(way, camera.room)
    return scene.camera, camera.scroll + way, camera.shift - way


def _step(actor: _Actor, lens: Lens, drawing: int, tracked: bool) -> tuple[int, int, int]:
    """What the action adds: x, y and gaze."""
    step = drawing - actor.since
    x = y = gaze = 0
    match actor.action:
        case "walk_left" | "walk_right":
            x = 0 if tracked else _DIRECTION[actor.action] * min(int(step * lens.pace), actor.room)
            y = -(step // 2 % 2)  # a light step
        case "jump":
            y = _height(lens, step)
        case "dance":
            x = _DANCE[step % len(_DANCE)]
            y = -(step // 2 % 2)
        case "look":
            gaze = _LOOK[step // 3 % len(_LOOK)]
    if 0 < step <= len(actor.fall):
        y = actor.fall[step - 1]
    return x, y, gaze


def draw(segments: Segments, drawing: int) -> Drawing:
    """What a drawing of a take shows. Segments after it play no part."""
    (_, scene), *later = segments
    camera, actors = _begin(scene)
    for first, following in later:
        if first > drawing:
            break
        camera, actors = _go_on(scene, following, camera, actors, first)
        scene = following
    lens, scroll, shift = _seen(scene, camera, drawing)
    poses = []
    for actor, blinks in zip(actors, (10, 2), strict=False):  # two characters never blink at once
        x, y, gaze = _step(actor, LENSES[lens], drawing, _tracked(scene))
        poses.append(Pose(actor.x + x + shift, y, gaze, actor.action != "look" and drawing % 16 == blinks))
    return Drawing(scene, lens, scroll, tuple(poses))


def pose(scene: Scene, frame: int) -> tuple[int, int, int, bool]:
    """Offset (x, y) of the first character from its place at centre stage, gaze (-1, 0, 1) and blink at a frame."""
    first = draw([(0, scene)], drawing_of(frame)).poses[0]
    return first.x, first.y, first.gaze, first.blink


def travelled(segments: Segments, drawing: int) -> int:
    """Pixels that the first character has come since the last segment began, scenery included, to the right."""
    start, end = (draw(segments, d) for d in (max(0, segments[-1][0] - 1), drawing))
    return end.poses[0].x + end.scroll - start.poses[0].x - start.scroll
