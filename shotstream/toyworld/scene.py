"""What a shot of the toy world shows, in words of its own: characters, scenes, and the lenses they are seen through.

Owns the lists of everything that can be chosen. Knows neither pixels nor captions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

WIDTH, HEIGHT, FPS = 48, 32, 16

SHAPES = ("ball", "cube", "star", "ghost", "cat", "cone")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
PLACES = ("forest", "beach", "desert", "city", "mountains", "meadow")
TIMES = ("day", "sunset", "night")
CAMERAS = ("wide", "medium", "close")
EXPRESSIONS = ("neutral", "happy", "surprised")
ACTIONS = ("stand", "walk_left", "walk_right", "jump", "dance", "look")
MOVES = ("still", "pan_left", "pan_right", "zoom_in", "zoom_out")


@dataclass(frozen=True)
class Character:
    """How a character looks."""

    shape: str
    colour: str
    expression: str


@dataclass(frozen=True)
class Scene:
    """What one shot shows. Two equal scenes are equal in every pixel.

    `camera` is the framing that the shot begins with; a zoom ends one framing further (`settled`). With a `partner` it
    is a two-shot, wide or medium: the first character stands on the left and does the action, the partner on the right
    stands, or does the same if `together`.
    """

    shape: str
    colour: str
    place: str
    time: str
    camera: str
    expression: str
    action: str
    partner: Character | None = None
    move: str = "still"
    together: bool = False

    @property
    def partner_shape(self) -> str | None:
        return self.partner.shape if self.partner else None

    @property
    def partner_colour(self) -> str | None:
        return self.partner.colour if self.partner else None

    @property
    def partner_expression(self) -> str | None:
        return self.partner.expression if self.partner else None


@dataclass(frozen=True)
class Lens:
    """How a camera distance draws: sprite size, line the feet stand on, horizon, scenery zoom, pixels walked per
    drawing, how far from the centre a walk may go, height of a jump, radius of sun and moon, which hand-drawn face;
    for two characters: half the distance between them and how far from the centre they may walk."""

    size: int
    feet: int
    horizon: int
    zoom: float
    pace: float
    walk_range: int
    jump: int
    disc: float
    face: str
    apart: int = 0
    pair_range: int = 0


LENSES = {
    "wide": Lens(11, 27, 19, 1.0, 1.0, 16, 6, 2.6, "wide", apart=9, pair_range=9),
    "wide+1": Lens(13, 28, 20, 1.17, 0.9, 15, 6, 2.6, "wide", apart=10, pair_range=7),
    "wide+2": Lens(15, 28, 20, 1.33, 0.8, 14, 6, 3.3, "medium", apart=10, pair_range=6),
    "medium": Lens(17, 29, 21, 1.5, 0.67, 13, 6, 3.6, "medium", apart=11, pair_range=4),
    "medium+1": Lens(20, 30, 22, 1.73, 0.6, 11, 5, 3.9, "medium"),
    "medium+2": Lens(23, 30, 22, 1.97, 0.5, 10, 4, 4.3, "close"),
    "close": Lens(27, 31, 23, 2.2, 0.4, 8, 3, 4.6, "close"),
}
# A zoom passes through two sizes in between, each held, as a projector with clicks would.
ZOOMS = {
    ("zoom_in", "wide"): ("wide", "wide+1", "wide+2", "medium"),
    ("zoom_in", "medium"): ("medium", "medium+1", "medium+2", "close"),
    ("zoom_out", "medium"): ("medium", "wide+2", "wide+1", "wide"),
    ("zoom_out", "close"): ("close", "medium+2", "medium+1", "medium"),
}


def settled(scene: Scene) -> Scene:
    """The scene as it is left when its camera move is over."""
    zoom = ZOOMS.get((scene.move, scene.camera))
    return replace(scene, camera=zoom[-1] if zoom else scene.camera, move="still")
