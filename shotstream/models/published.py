"""What is true of the published model and stands in no file of its: where its parts are, its pictures, its prompts.

A converted checkpoint takes them into its folder; read straight from the Hub it has them from here.
"""

from __future__ import annotations

from shotstream.models.hub import HubFiles
from shotstream.prompting import Prompting

# The one place where revisions are pinned. README's front matter repeats them (a test compares): `preload_from_hub`.
# No commit of the checkpoints' repository is known to us for certain: "main" is what it holds today. To pin it, put the
# 40 digits that its page shows under "Files and versions" here, and behind its line of `preload_from_hub`.
SHOTSTREAM_REVISION = "main"
WAN_REVISION = "0fad780a534b6463e45facd96134c9f345acfa5b"
WAN_TEXT_16_REVISION = "b8fff7315c768468a5333511427288870b2e9635"

# published as checkpoints instead of a folder
CHECKPOINTS = {"KlingTeam/ShotStream": {"student": "shotstream_merged.pt", "teacher": "bidirectional_teacher.pt"}}
PUBLISHED = "KlingTeam/ShotStream"
WAN_REPO = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
WAN = f"{WAN_REPO}@{WAN_REVISION}"


def checkpoint_files(name: str, revision: str | None, quality: str) -> HubFiles:
    """The one file of a published repository that holds the student or the teacher."""
    return HubFiles(name, revision or SHOTSTREAM_REVISION, (CHECKPOINTS[name][quality],))


def _shards(count: int) -> tuple[str, ...]:
    shards = (f"text_encoder/model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1))
    return ("text_encoder/config.json", "text_encoder/model.safetensors.index.json", *shards)


_TOKENIZER_NAMES = ("special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer_config.json")
VAE_FILES = HubFiles(WAN_REPO, WAN_REVISION, ("vae/config.json", "vae/diffusion_pytorch_model.safetensors"))
TOKENIZER_FILES = HubFiles(WAN_REPO, WAN_REVISION, tuple(f"tokenizer/{name}" for name in _TOKENIZER_NAMES))
# The same text encoder twice: 11.4 GB in bfloat16, which is what it is used in, and 22.7 GB in float32.
TEXT_16_FILES = HubFiles("Wan-AI/Wan2.2-TI2V-5B-Diffusers", WAN_TEXT_16_REVISION, _shards(3))
TEXT_32_FILES = HubFiles(WAN_REPO, WAN_REVISION, _shards(5))

# The text encoder's numbers, to plan with before it is there.
UMT5_XXL = {
    "vocab_size": 256384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
}


def preloaded_files() -> list[HubFiles]:
    """All that the published student is made of when the smaller text encoder is what it should be."""
    wan = HubFiles(WAN_REPO, WAN_REVISION, VAE_FILES.files + TOKENIZER_FILES.files)
    return [checkpoint_files(PUBLISHED, None, "student"), wan, TEXT_16_FILES]


# Wan's own, which the published teacher was sampled with
WAN_NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，"
    "静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
PUBLISHED_SIZE = {"height": 480, "width": 832, "fps": 16}
PUBLISHED_SHAPES = {"landscape": (832, 480), "portrait": (480, 832), "square": (624, 624)}

_VERBS = (
    *("walk", "stroll", "stride", "run", "jog", "jump", "leap", "hop", "dance", "spin", "turn", "twist"),
    *("lean", "bend", "bow", "kneel", "crouch", "sit", "stand", "rise", "wake", "sleep", "lie", "look"),
    *("gaze", "glance", "stare", "watch", "smile", "laugh", "cry", "weep", "frown", "nod", "wave"),
    *("point", "reach", "hold", "grab", "pick", "carry", "lift", "throw", "catch", "push", "pull"),
    *("open", "close", "enter", "leave", "exit", "arrive", "approach", "step", "climb", "fall", "swim"),
    *("fly", "ride", "drive", "read", "write", "draw", "paint", "cook", "eat", "drink", "pour", "speak"),
    *("talk", "say", "whisper", "shout", "sing", "play", "fight", "chase", "follow", "meet", "hug"),
    *("kiss", "shake", "wait", "rest", "work", "move", "drift", "flow", "float", "swirl", "sway"),
    *("glide", "pass", "appear", "vanish", "emerge", "explode", "burn", "go", "come", "make", "take"),
    *("give", "put", "cross", "stop", "search", "hide", "dig"),
)
_DOUBLED = ("run", "jog", "hop", "spin", "sit", "nod", "grab", "step", "swim", "hug", "put", "stop", "dig")


def _forms(verb: str) -> tuple[str, str]:
    """walks, walking"""
    if verb == "lie":
        return "lies", "lying"
    if verb[-1] == "y" and verb[-2] not in "aeo":
        return f"{verb[:-1]}ies", f"{verb}ing"
    does = f"{verb}es" if verb.endswith(("s", "sh", "ch", "go")) else f"{verb}s"
    if verb in _DOUBLED:
        return does, f"{verb}{verb[-1]}ing"
    return does, f"{verb.removesuffix('e')}ing"


PUBLISHED_PROMPTING = Prompting(
    advice=(
        "Describe like a film script, in long full sentences: in the story who is seen (age, hair, clothes), where, "
        "and in which style; in every shot the framing, what happens from beginning to end, and the light."
    ),
    templates={
        "camera": (
            "A wide establishing shot at eye level, the camera held still",
            "A medium shot at eye level, the background softly out of focus",
            "A close-up with a shallow depth of field, the subject filling most of the frame",
            "A medium close-up from slightly below, the camera slowly pushing in",
            "A full shot from the side, the camera tracking along at walking pace",
            "An over-the-shoulder shot, the foreground dark and blurred",
            "A high-angle wide shot, the camera slowly rising",
        ),
        "action": (
            "Every movement is calm and natural, with small shifts of weight and a steady gaze.",
            "After a moment of stillness there is a slow turn towards the camera, and the expression softens.",
            "The movement begins slowly, gathers pace, and comes to rest at the end of the shot.",
            "A few unhurried steps lead through the frame, while hair and clothing stir in the moving air.",
            "There is a pause, a breath, and then a quick look back over the shoulder.",
            "The hands move with care, and the eyes follow them attentively.",
        ),
        "light": (
            "Warm late-afternoon light comes in low from the side, with long soft shadows and golden highlights.",
            "Soft overcast daylight gives even, natural colours and gentle contrast.",
            "Cool moonlight outlines the scene in blue, with deep shadows and a faint mist in the air.",
            "A single warm lamp lights the scene from one side, and the rest falls away into soft darkness.",
            "Bright morning light floods the scene, clear and fresh, with crisp shadows.",
            "Neon signs throw pink and blue reflections on wet surfaces, and the background glows out of focus.",
        ),
    },
    signs={
        "camera": (
            *("shot", "close-up", "closeup", "camera", "establishing", "angle", "framing", "pan", "pans", "panning"),
            *("zoom", "zooms", "dolly", "tracking", "point of view", "bird's-eye", "over-the-shoulder", "wide view"),
        ),
        "action": tuple(form for verb in _VERBS for form in _forms(verb)),
        "light": (
            *("light", "lights", "lit", "lighting", "sunlight", "sunlit", "daylight", "moonlight", "moonlit"),
            *("backlit", "candlelight", "candlelit", "lamplight", "firelight", "sunset", "sunrise", "dawn", "dusk"),
            *("twilight", "morning", "noon", "midday", "afternoon", "evening", "night", "midnight", "golden hour"),
            *("blue hour", "overcast", "sunny", "shadow", "shadows", "neon", "glow", "glows", "glowing", "dark"),
            *("darkness", "silhouette"),
        ),
    },
)
