"""Training data from a folder of real multi-shot videos, as the same `StoryLatents` that the toy world gives.

Owns encoding and the cache on the disk (`annotations` and `decoding` own what comes before), and writes a sample of
the format. Captions are not cached, so correcting one costs nothing. Knows no denoiser.

Every story is one safetensors file of the cache: it appears whole or not at all, so that a killed run goes on after
the last finished story, and a changed video costs only its own. The files' names are digests of all that they follow
from; files that nothing asks for any more, and the `.part` that a killed run leaves, may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from shotstream.context import sample_context
from shotstream.errors import UserError, telling_lack_of_memory
from shotstream.film_file import FilmShot, write_film
from shotstream.media import SegmentEncoder, enlargement
from shotstream.models.vae import VAE, WanVAE, network_of
from shotstream.story import compose_caption
from shotstream.toyworld import world
from shotstream.toyworld.stories import leave_out
from shotstream.training.annotations import AnnotatedStory, read_annotations
from shotstream.training.data import EncodedShot, StoryLatents, num_frames
from shotstream.training.decoding import cannot_decode, plan_shots, read_clock, read_shots

CACHE_VERSION = 1  # to be raised when the same video would give other latents
MAX_SIDE, MAX_FPS, MAX_CHUNKS = 4096, 240, 1000


def encode_videos(
    folder: Path, vae: VAE, *, height: int, width: int, fps: int, max_chunks: int, cache: Path, progress: bool = True
) -> StoryLatents:
    """Encode the annotated videos of `folder` at `height` x `width` pixels and `fps`; what `cache` holds is not redone.

    A shot is cut to the whole chunks that fit, `max_chunks` at most. `moving` is False everywhere: no part of a real
    picture weighs more than another. All latents are held in memory, 4 MB for a shot of 81 frames at 832x480.
    Raises `UserError`, for wrong frame ranges and unreadable videos before anything is encoded.
    """
    _check_numbers(vae, height, width, fps, max_chunks)
    stories = read_annotations(folder)
    maker = json.dumps([CACHE_VERSION, _fingerprint(vae), height, width, fps, max_chunks])
    files = [cache / f"{_digest(maker, story)}.safetensors" for story in stories]
    todo = {file: story for file, story in zip(files, stories, strict=True) if not _is_whole(file)}
    plans = {file: plan_shots(story, read_clock(story), fps, max_chunks) for file, story in todo.items()}
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(cache, error) from error
    num_shots = sum(len(plan) for plan in plans.values())
    with tqdm(total=num_shots, unit="shot", desc="encoding videos", disable=not progress or not plans) as bar:
        for file, story in todo.items():
            with telling_lack_of_memory(f"to encode {story.video}"):
                latents, shots = _encode_story(vae, story, plans[file], height, width, bar)
            _write(file, latents, shots)
    with telling_lack_of_memory("for the latents of all videos"):
        return _join(stories, files)


def encode_shot(vae: VAE, frames: Tensor) -> Tensor:
    """A whole shot [1 + 4 k, 3, H, W] in [-1, 1] to normalised latents [1 + k, C, h, w]."""
    if not isinstance(vae, WanVAE):
        return vae.encode_shot(frames)
    module, config = vae.module, vae.module.config
    raw = module.encode(frames.to(module.dtype).transpose(0, 1)[None]).latent_dist.mode()[0].transpose(0, 1).float()
    mean, std = (raw.new_tensor(values).view(-1, 1, 1) for values in (config.latents_mean, config.latents_std))
    return ((raw - mean) / std).to(module.dtype)


@torch.no_grad()
def _encode_story(
    vae: VAE, story: AnnotatedStory, plan: list[list[int]], height: int, width: int, bar: tqdm
) -> tuple[Tensor, list[dict[str, list[int]]]]:
    """Latents [u, C, h, w] float16 of a story and, for every shot, which of them it is and looks back at."""
    module = network_of(vae)
    device = next(module.parameters()).device
    lengths = [len(numbers) for numbers in plan]
    looks = [[]] + [sample_context(lengths[:index]) for index in range(1, len(plan))]
    latents: list[Tensor] = []
    number: dict[tuple[int, int], int] = {}  # of the frame `offset` of a shot, encoded alone
    own: list[list[int]] = []
    for index, pictures in enumerate(read_shots(story, plan, height, width)):
        frames = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(device, torch.float32).div_(127.5).sub_(1.0)
        first = sum(map(len, latents))
        latents.append(encode_shot(vae, frames).half().cpu())
        own.append(list(range(first, first + len(latents[-1]))))
        number[index, 0] = first  # a shot's first latent frame is its first frame encoded alone
        offsets = sorted({offset for look in looks for shot, offset in look if shot == index} - {0})
        if offsets:
            number |= {(index, offset): own[-1][-1] + 1 + i for i, offset in enumerate(offsets)}
            latents.append(vae.encode_frames(frames[offsets]).half().cpu())
        bar.update()
    whole = torch.cat(latents)
    if not whole.isfinite().all():
        raise UserError(f"The VAE makes something that is not a number of {story.video}.")
    shots = [
        {"latents": own[index], "context": [number[pick] for pick in look], "context_shots": [shot for shot, _ in look]}
        for index, look in enumerate(looks)
    ]
    return whole, shots


def _write(file: Path, latents: Tensor, shots: list[dict[str, list[int]]]) -> None:
    part = file.with_name(f"{file.name}.{os.getpid()}.part")  # two runs at once do not meet
    try:
        save_file({"latents": latents}, part, {"shots": json.dumps(shots)})
        os.replace(part, file)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise _cannot_write(file.parent, error) from error


def _cannot_write(cache: Path, error: Exception) -> UserError:
    return UserError(f"Cannot write the latents of the videos to {cache}: {getattr(error, 'strerror', None) or error}.")


def _is_whole(file: Path) -> bool:
    """Opening compares the file's size with what its header promises, so that a power cut's leftovers are told."""
    try:
        with safe_open(file, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


def _join(stories: list[AnnotatedStory], files: list[Path]) -> StoryLatents:
    with_shapes = []
    for file in files:
        with safe_open(file, framework="pt") as opened:
            with_shapes.append((opened.get_slice("latents").get_shape(), json.loads(opened.metadata()["shots"])))
    shape = with_shapes[0][0]
    latents = torch.empty(sum(s[0] for s, _ in with_shapes), *shape[1:], dtype=torch.float16)
    told, first = [], 0
    for story, file, (shape, shots) in zip(stories, files, with_shapes, strict=True):
        with safe_open(file, framework="pt") as opened:  # one at a time: two copies never meet in memory
            latents[first : first + shape[0]] = opened.get_tensor("latents")
        told.append(
            [
                EncodedShot(
                    caption=compose_caption(story.global_caption, index, shot.caption),
                    latents=[first + n for n in numbers["latents"]],
                    context=[first + n for n in numbers["context"]],
                    context_shots=numbers["context_shots"],
                )
                for index, (shot, numbers) in enumerate(zip(story.shots, shots, strict=True))
            ]
        )
        first += shape[0]
    return StoryLatents(
        latents=latents, moving=latents.new_zeros(len(latents), *shape[2:], dtype=torch.bool), stories=told
    )


def _check_numbers(vae: VAE, height: int, width: int, fps: int, max_chunks: int) -> None:
    factor = vae.spatial_factor
    if any(side % factor or not factor <= side <= MAX_SIDE for side in (height, width)):
        raise UserError(
            f"Videos cannot be encoded at {width}x{height}: this model needs multiples of {factor} up to {MAX_SIDE}."
        )
    for name, value, highest in (("frames a second", fps, MAX_FPS), ("chunks a shot", max_chunks, MAX_CHUNKS)):
        if not 1 <= value <= highest:
            raise UserError(f"Videos cannot be encoded with {value} {name}: use 1 to {highest}.")


def _fingerprint(vae: VAE) -> str:
    """Of the configuration and of the weights: an autoencoder trained anew has the same configuration."""
    module = network_of(vae)
    config = {key: value for key, value in module.config.items() if not key.startswith("_")}
    digest = hashlib.blake2b(json.dumps([type(module).__name__, config], sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _digest(maker: str, story: AnnotatedStory) -> str:
    try:
        status = story.path.stat()
    except OSError as error:
        raise cannot_decode(story) from error
    ranges = [(shot.start, shot.end) for shot in story.shots]
    source = json.dumps([maker, story.video, status.st_size, status.st_mtime_ns, ranges])
    return hashlib.sha256(source.encode()).hexdigest()[:32]


def write_sample(folder: Path, stories: int, seed: int) -> None:
    """A folder in the annotated format, made by the toy renderer: one film a story, large enough to look at.

    The same for the same `seed`. Raises `UserError` if the folder is not new or empty, or cannot be written.
    """
    rng = random.Random(seed)
    annotations = []
    scale = enlargement(world.WIDTH, world.HEIGHT)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"Cannot write the sample to {folder}: it is not empty, choose a new folder.")
        for index in range(stories):
            story = leave_out(rng, num_shots=rng.randint(2, 4), num_chunks=rng.randint(1, 3))
            video = f"story{index:03}.mp4"
            encoder = SegmentEncoder(world.WIDTH, world.HEIGHT, world.FPS, scale)
            film, shots = [], []
            for shot in story.shots:
                start, frames = encoder.num_frames, num_frames(shot.num_chunks)
                segment = encoder.encode(world.to_rgb(world.render_shot(shot.scene, frames)))
                film.append(FilmShot(shot.caption, [segment.data]))
                shots.append({"start": start, "end": encoder.num_frames, "caption": shot.caption})
            write_film(folder / video, film, world.FPS)
            annotations.append({"video": video, "global_caption": story.global_caption, "shots": shots})
        (folder / "annotations.json").write_text(json.dumps(annotations, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"Cannot write the sample to {folder}: {error.strerror}.") from error
