"""Memory: what is kept of a film, and a file that believes nothing."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from complaints import refusal
from safetensors.torch import load_file, save_file

from shotstream.context import stored_offsets
from shotstream.errors import UserError
from shotstream.memory import MAX_TEXT, Memory, MemoryFile, ShotMemory, read_file, write_file


def shot(num_frames: int = 81, first: int = 0, caption: str = "A fox. shot0:It runs.", **changes) -> ShotMemory:
    offsets = stored_offsets(first, num_frames)
    fields = {
        "caption": caption,
        "seed": 7,
        "num_frames": num_frames,
        "offsets": offsets,
        "latents": torch.randn(len(offsets), 16, 4, 6),
        "thumbnails": np.random.default_rng(0).integers(0, 256, (len(offsets), 30, 52, 3), dtype=np.uint8),
    }
    return ShotMemory(**fields | changes)


def assert_same(a: Memory, b: Memory) -> None:
    assert len(a.shots) == len(b.shots)
    for x, y in zip(a.shots, b.shots, strict=True):
        assert (x.caption, x.seed, x.num_frames, x.offsets) == (y.caption, y.seed, y.num_frames, y.offsets)
        assert x.latents.dtype == y.latents.dtype and torch.equal(x.latents, y.latents)
        assert np.array_equal(x.thumbnails, y.thumbnails)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_saved_and_loaded(tmp_path, dtype):
    memory = Memory((shot(latents=torch.randn(7, 16, 4, 6).to(dtype), caption="Ein Fuchs ☀ <b>"), shot(33, first=81)))
    memory = Memory((memory.shots[0], shot(33, first=81, latents=torch.randn(7, 16, 4, 6).to(dtype))))
    memory.save(tmp_path / "film.memory")
    assert_same(Memory.load(tmp_path / "film.memory"), memory)
    assert [file.name for file in tmp_path.iterdir()] == ["film.memory"]


def test_a_file_also_keeps_what_its_session_says(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    kept = MemoryFile((shot(),), '{"story": "Ein Fuchs ☀"}', (picture, picture[:8]))
    write_file(tmp_path / "film", kept)
    found = read_file(tmp_path / "film")
    assert len(found.shots) == 1 and found.session == kept.session
    assert all(map(np.array_equal, found.pictures, kept.pictures)) and len(found.pictures) == 2
    resave(tmp_path / "film", session="{}")
    assert "checksum" in refusal(Memory.load, tmp_path / "film")


def test_a_file_of_the_version_before_is_read(tmp_path):
    memory = Memory((shot(caption="Ein Fuchs ☀"),))
    memory.save(tmp_path / "film")
    resave(tmp_path / "film", version="2")
    assert_same(Memory.load(tmp_path / "film"), memory)


def test_an_empty_memory_is_a_film_not_begun(tmp_path):
    Memory().save(tmp_path / "empty")
    assert Memory.load(tmp_path / "empty").shots == ()


def test_pickles():
    memory = Memory((shot(),))
    assert_same(pickle.loads(pickle.dumps(memory)), memory)


def test_a_shot_at_480p_takes_at_most_one_and_a_half_megabytes(tmp_path):
    latents = torch.randn(7, 16, 60, 104).to(torch.bfloat16)
    Memory((shot(latents=latents, thumbnails=np.zeros((7, 48, 83, 3), np.uint8)),)).save(tmp_path / "film")
    assert (tmp_path / "film").stat().st_size <= 1_500_000


def test_an_unwritable_place_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="Cannot write"):
        Memory((shot(),)).save(tmp_path / "no such folder" / "film")


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """No file can grow beyond 10 kB, as when a disk is nearly full."""
    resource = pytest.importorskip("resource")
    file = tmp_path / "film"
    Memory().save(file)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(UserError, match="Cannot write"):
            Memory((shot(),)).save(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert Memory.load(file).shots == () and list(tmp_path.iterdir()) == [file]


def resave(path: Path, tensors: dict | None = None, **metadata: str) -> None:
    """Write the file anew with some parts exchanged."""
    old = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])["__metadata__"]
    save_file(load_file(path) | (tensors or {}), path, old | metadata)


def description(**changes) -> str:
    entry = {"caption": "c", "seed": 0, "num_frames": 81, "offsets": [0, 16, 32, 40, 48, 64, 80]}
    return json.dumps([entry | changes])


BAD_METADATA = {
    "another program": {"format": "pt"},
    "another version": {"version": "99"},
    "no JSON": {"shots": "{"},
    "no list": {"shots": "3"},
    "nesting bomb": {"shots": "[" * 100_000},
    "another number of shots": {"shots": "[]"},
    "negative seed": {"shots": description(seed=-1)},
    "huge seed": {"shots": description(seed=2**70)},
    "seed of another kind": {"shots": description(seed=True)},
    "no frames": {"shots": description(num_frames=0)},
    "absurd length": {"shots": description(num_frames=10**12)},
    "offsets outside": {"shots": description(num_frames=50)},
    "offsets out of order": {"shots": description(offsets=[80, 64, 48, 40, 32, 16, 0])},
    "too few offsets": {"shots": description(offsets=[0, 40, 80])},
    "caption of another kind": {"shots": description(caption=[1])},
}
BAD_TENSORS = {
    "not finite": {"shot0.latents": torch.full((7, 16, 4, 6), torch.nan)},
    "flat": {"shot0.latents": torch.zeros(7, 16)},
    "whole numbers": {"shot0.latents": torch.zeros(7, 16, 4, 6, dtype=torch.int64)},
    "too wide": {"shot0.latents": torch.zeros(7, 16, 1, 600)},
    "a picture of floats": {"picture0": torch.zeros(32, 48, 3)},
    "a grey picture": {"picture0": torch.zeros(32, 48, dtype=torch.uint8)},
    "no first picture": {"picture1": torch.zeros(32, 48, 3, dtype=torch.uint8)},
    "one more": {"shot1.latents": torch.zeros(7, 16, 4, 6)},
    "pictures of floats": {"shot0.thumbnails": torch.zeros(7, 30, 52, 3)},
    "grey pictures": {"shot0.thumbnails": torch.zeros(7, 30, 52, dtype=torch.uint8)},
    "one picture less": {"shot0.thumbnails": torch.zeros(6, 30, 52, 3, dtype=torch.uint8)},
}


@pytest.mark.parametrize("metadata", BAD_METADATA.values(), ids=BAD_METADATA)
def test_foreign_descriptions_are_refused(tmp_path, metadata):
    Memory((shot(),)).save(tmp_path / "film")
    resave(tmp_path / "film", **metadata)
    assert "checksum" not in refusal(Memory.load, tmp_path / "film")  # told before by what is wrong


@pytest.mark.parametrize("tensors", BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_unfit_tensors_are_refused(tmp_path, tensors):
    Memory((shot(),)).save(tmp_path / "film")
    resave(tmp_path / "film", tensors)
    assert "checksum" not in refusal(Memory.load, tmp_path / "film")


@pytest.mark.parametrize("part", [b"A fox", b"shot0.latents", None])
def test_a_flipped_bit_is_refused(tmp_path, part):
    file = tmp_path / "film"
    Memory((shot(),)).save(file)
    data = bytearray(file.read_bytes())
    data[data.index(part) if part else -300] ^= 1
    file.write_bytes(data)
    refusal(Memory.load, file)


def test_a_film_that_could_not_be_loaded_is_not_saved(tmp_path):
    assert "1000 shots" in refusal(Memory((shot(),) * 1001).save, tmp_path / "film")


def test_more_words_than_a_header_can_hold_are_not_saved(tmp_path):
    kept = MemoryFile((shot(),), "x" * (MAX_TEXT + 1))
    assert "save an earlier state" in refusal(write_file, tmp_path / "film", kept)
    write_file(tmp_path / "film", MemoryFile((shot(),), '"' * (MAX_TEXT - 1000)))
    assert len(read_file(tmp_path / "film").session) == MAX_TEXT - 1000


def test_shots_of_different_sizes_are_refused(tmp_path):
    Memory((shot(), shot(latents=torch.randn(7, 16, 8, 6)))).save(tmp_path / "film")
    with pytest.raises(UserError, match="another size"):
        Memory.load(tmp_path / "film")


def test_damaged_files_are_refused(tmp_path):
    file = tmp_path / "film"
    with pytest.raises(UserError, match="no memory file"):
        Memory.load(file)
    with pytest.raises(UserError, match="no memory file"):
        Memory.load(tmp_path)
    Memory((shot(),)).save(file)
    whole = file.read_bytes()
    for damaged in (b"", whole[:5], whole[: len(whole) // 2], b"\xff" * 100, b"PK\x03\x04" + whole, whole + b"more"):
        file.write_bytes(damaged)
        with pytest.raises(UserError):
            Memory.load(file)


def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path):
    header = json.dumps({"shot0.latents": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    (tmp_path / "film").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError):
        Memory.load(tmp_path / "film")
