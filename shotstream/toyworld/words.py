"""The words of the toy world's captions: for everything that a scene can show, the ways in which people say it.

Only tables. A word added here is a word in the tokenizer.
"""

from __future__ import annotations

COLOUR_WORDS = {
    "red": ("red", "red", "crimson", "scarlet"),
    "orange": ("orange",),
    "yellow": ("yellow", "yellow", "golden"),
    "green": ("green", "green", "emerald"),
    "blue": ("blue", "blue", "azure"),
    "purple": ("purple", "purple", "violet"),
    "pink": ("pink", "pink", "rosy"),
}
SHAPE_WORDS = {
    "ball": ("ball", "ball", "sphere", "circle"),
    "cube": ("cube", "cube", "box", "block", "square"),
    "star": ("star",),
    "ghost": ("ghost", "ghost", "spirit"),
    "cat": ("cat", "cat", "kitty", "kitten"),
    "cone": ("cone", "cone", "triangle", "pyramid"),
}
PLACE_WORDS = {
    "forest": ("in the forest", "in the forest", "in the woods", "among the trees", "in a dark forest"),
    "beach": ("on the beach", "at the beach", "by the sea", "at the seaside", "on the shore", "by the ocean"),
    "desert": ("in the desert", "in the desert", "among the dunes", "on the sand dunes"),
    "city": ("in the city", "in the city", "downtown", "in town", "in the streets of the city"),
    "mountains": ("in the mountains", "in the mountains", "in the snow", "on a snowy mountain", "in the snowy hills"),
    "meadow": ("in the meadow", "in a meadow", "in a green field", "on the grass", "in the fields"),
}
PLACE_NAMES = {
    "forest": ("the forest", "the woods"),
    "beach": ("the beach", "the sea", "the seaside"),
    "desert": ("the desert", "the dunes"),
    "city": ("the city", "downtown", "the town"),
    "mountains": ("the mountains", "the snowy mountains"),
    "meadow": ("the meadow", "the fields"),
}
TIME_WORDS = {
    "day": ("during the day", "by day", "in daylight", "at noon", "on a sunny day", "in the morning"),
    "sunset": ("at sunset", "at sunset", "at dusk", "in the evening", "as the sun sets"),
    "night": ("at night", "at night", "at midnight", "in the moonlight", "under the stars"),
}
TIME_CHANGES = {
    "day": ("the sun comes up", "a new day begins", "now it is day", "it is morning now"),
    "sunset": ("the sun goes down", "evening comes", "now it is sunset", "the sun is setting"),
    "night": ("night falls", "now it is night", "it gets dark", "the moon comes out"),
}
CAMERA_WORDS = {
    "wide": ("wide shot", "wide shot", "long shot", "wide view", "shot from far away"),
    "medium": ("medium shot", "medium shot", "mid shot", "medium view"),
    "close": ("close-up", "close-up", "closeup", "close shot", "close view"),
}
FEELINGS = {
    "neutral": ("calm", "neutral", "serious", "relaxed"),
    "happy": ("happy", "happy", "joyful", "cheerful", "delighted"),
    "surprised": ("surprised", "surprised", "amazed", "astonished", "shocked"),
}
DOES = {
    "stand": ("stands still", "waits", "rests", "stands there"),
    "walk_left": ("walks to the left", "goes left", "walks left", "strolls to the left"),
    "walk_right": ("walks to the right", "goes right", "walks right", "strolls to the right"),
    "jump": ("jumps", "jumps up and down", "hops", "is jumping", "leaps"),
    "dance": ("dances", "is dancing", "sways", "dances around"),
    "look": ("looks around", "looks left and right", "glances around", "is looking around"),
}
DOING = {
    "stand": ("standing still", "waiting", "resting"),
    "walk_left": ("walking to the left", "walking left", "going left"),
    "walk_right": ("walking to the right", "walking right", "going right"),
    "jump": ("jumping", "jumping up and down", "hopping", "leaping"),
    "dance": ("dancing", "swaying"),
    "look": ("looking around", "glancing around"),
}
DO = {
    "stand": ("stand still", "wait", "stop"),
    "walk_left": ("walk to the left", "go left", "walk left"),
    "walk_right": ("walk to the right", "go right", "walk right"),
    "jump": ("jump", "jump up and down", "hop"),
    "dance": ("dance", "sway"),
    "look": ("look around", "look left and right"),
}
NAMES = ("Pip", "Momo", "Bobo", "Luna", "Max", "Zoe", "Kiki", "Ollie", "Nova", "Tito", "Mia", "Leo")
DO_BOTH = {
    "stand": ("stand still", "wait", "stand side by side", "rest"),
    "walk_left": ("walk to the left", "go left", "walk left"),
    "walk_right": ("walk to the right", "go right", "walk right"),
    "jump": ("jump", "jump up and down", "hop"),
    "dance": ("dance", "sway", "dance around"),
    "look": ("look around", "look left and right"),
}
MOVE_WORDS = {
    "pan_left": ("the camera pans to the left", "pan left", "pan to the left", "the camera moves left"),
    "pan_right": ("the camera pans to the right", "pan right", "pan to the right", "the camera moves right"),
    "zoom_in": ("zoom in", "the camera zooms in", "slow zoom in", "the camera comes closer"),
    "zoom_out": ("zoom out", "the camera zooms out", "slow zoom out", "the camera pulls back"),
}
PRONOUNS = (("it", "it"), ("it", "it"), ("he", "him"), ("she", "her"))
STYLES = (
    "",
    "An 8-bit cartoon.",
    "Pixel art.",
    "A pixel art film.",
    "A short story in pixel art style.",
    "A little film.",
    "Retro video game style.",
    "A simple animation with flat colours.",
    "A cute cartoon.",
)
SIZES = ("", "", "", "little ", "small ", "cute ", "tiny ", "round ", "friendly ")
