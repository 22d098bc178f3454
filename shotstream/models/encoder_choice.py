"""Which of two published copies of the text encoder is used: the small one in bfloat16, if it is the same one.

Owns the comparison. The large copy is never fetched for it: of that one, the configuration is read and a few thousand
numbers of many tensors, by ranges of bytes. Where the large copy lies on the disk already, nothing is fetched at all.
The verdict is kept beside the Hub's cache, so that a start without a network need not ask again.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import constants, hf_hub_url
from huggingface_hub.utils import build_hf_headers, get_session
from safetensors import safe_open

from shotstream.errors import UserError
from shotstream.models.checkpoint import read_json
from shotstream.models.fetching import FetchProgress
from shotstream.models.hub import HubFiles, cached, fetch, tell

SAMPLES = 24  # tensors, the first and the last among them
SAMPLE_NUMBERS = 4096  # of each
MAX_HEADER = 10_000_000  # bytes
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# what a text encoder computes with; how it was saved is another matter
ARCHITECTURE = (
    *("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "vocab_size", "feed_forward_proj", "layer_norm_epsilon"),
    *("relative_attention_num_buckets", "relative_attention_max_distance"),
)
_ALIAS = {"shared.weight": "encoder.embed_tokens.weight"}  # the library saves it under either name


def choose_encoder(small: HubFiles, large: HubFiles, progress: FetchProgress | None = None) -> Path:
    """The folder with `text_encoder/` of the `small` copy, unless it is not the same as the `large` one or not to be
    had; one line says so. Raises `UserError` if neither is."""
    here = cached(small)
    if here is None and (there := cached(large)):
        return there
    try:
        folder = here or fetch([small], progress)[0]
    except UserError as error:
        print(f"The small text encoder cannot be had ({error}) The large one is taken.", file=sys.stderr)
        return fetch([large], progress)[0]
    verdict = _verdict_file(small, large)
    if verdict.is_file():
        return folder
    try:
        difference = find_difference(folder, large, progress)
    except UserError as error:
        print(f"The small text encoder could not be compared with the large one: {error}", file=sys.stderr)
        return folder
    if difference:
        print(f"The small text encoder is another one ({difference}): the large one is taken.", file=sys.stderr)
        return fetch([large], progress)[0]
    try:
        verdict.parent.mkdir(parents=True, exist_ok=True)
        verdict.write_text(json.dumps({"same": [small.source, large.source]}) + "\n")
    except OSError:  # a cache that is read only: it is compared again next time
        pass
    return folder


def _verdict_file(small: HubFiles, large: HubFiles) -> Path:
    revisions = "-".join((part.revision or "main")[:12].replace("/", "_") for part in (small, large))
    return Path(constants.HF_HUB_CACHE) / f"shotstream-text-encoder-{revisions}.json"


def find_difference(folder: Path, large: HubFiles, progress: FetchProgress | None = None) -> str:
    """What is not the same in the small copy's `folder` and the large one, rounded; "" if nothing was found.

    Raises `UserError` if the large one cannot be read.
    """
    config, index = (next(name for name in large.files if name.endswith(end)) for end in ("config.json", "index.json"))
    place = cached(large) or fetch([HubFiles(large.repo, large.revision, (config, index))], progress)[0]
    mine, other = read_json(folder / config), read_json(place / config)
    for key in ARCHITECTURE:
        if mine.get(key) != other.get(key):
            return key
    theirs = _canonical(read_json(place / index).get("weight_map"))
    ours = _canonical(read_json(folder / index).get("weight_map"))
    if theirs.keys() != ours.keys():
        return f"the tensor {min(theirs.keys() ^ ours.keys())}"
    names = sorted(theirs)
    sample = [names[place * (len(names) - 1) // max(1, SAMPLES - 1)] for place in range(SAMPLES)]
    shards: dict[str, RemoteShard] = {}
    for name in dict.fromkeys(sample):
        stored, shard = theirs[name]
        if shard not in shards:
            shards[shard] = RemoteShard(large, f"{Path(index).parent}/{shard}", place)
        expected = shards[shard].first_numbers(stored)
        with safe_open(folder / Path(index).parent / ours[name][1], framework="pt") as file:
            found = file.get_tensor(ours[name][0]).flatten()[: len(expected)]
        if not torch.equal(found.to(torch.bfloat16), expected.to(torch.bfloat16)):
            return f"the tensor {name}"
    return ""


def _canonical(weight_map: object) -> dict[str, tuple[str, str]]:
    """By the one name of every tensor: the name that it is stored under, and the file name of its shard."""
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError("The index of a text encoder has no map of its weights.")
    return {_ALIAS.get(name, name): (name, Path(str(shard)).name) for name, shard in weight_map.items()}


class RemoteShard:
    """A safetensors file of which a few numbers are read, here if it lies in `place`, else on the Hub."""

    def __init__(self, part: HubFiles, name: str, place: Path) -> None:
        self.part, self.name, self.path = part, name, place / name
        (length,) = struct.unpack("<Q", self._bytes(0, 8))
        if length > MAX_HEADER:
            raise UserError(f"{part.source}: {name} is no safetensors file.")
        try:
            self._header = json.loads(self._bytes(8, 8 + length))
        except ValueError as error:
            raise UserError(f"{part.source}: {name} is no safetensors file.") from error
        self._data = 8 + length

    def first_numbers(self, tensor: str) -> torch.Tensor:
        """The first `SAMPLE_NUMBERS` of a tensor, or all of a smaller one, in its own dtype."""
        entry = self._header.get(tensor)
        if not isinstance(entry, dict) or entry.get("dtype") not in DTYPES:
            raise UserError(f"{self.part.source} lacks the tensor {tensor}.")
        dtype = DTYPES[entry["dtype"]]
        start, stop = entry["data_offsets"]
        stop = min(stop, start + SAMPLE_NUMBERS * dtype.itemsize)
        data = self._bytes(self._data + start, self._data + stop)
        return torch.frombuffer(bytearray(data), dtype=dtype)

    def _bytes(self, start: int, stop: int) -> bytes:
        try:
            if self.path.is_file():
                with open(self.path, "rb") as file:
                    file.seek(start)
                    data = file.read(stop - start)
            else:
                data = b"".join(self._ranged(start, stop))
        except Exception as error:  # anything between a name that is not resolved and a torn connection
            raise UserError(tell(error, self.part.source)) from error
        if len(data) != stop - start:
            raise UserError(f"{self.part.source}: {self.name} is cut short.")
        return data

    def _ranged(self, start: int, stop: int) -> Iterator[bytes]:
        url = hf_hub_url(self.part.repo, self.name, revision=self.part.revision)
        headers = build_hf_headers() | {"Range": f"bytes={start}-{stop - 1}"}
        with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=20) as response:
            response.raise_for_status()
            if response.status_code != 206 and stop < int(response.headers.get("Content-Length", 0)):
                raise OSError(None, "the server does not send parts of files")
            yield from response.iter_bytes()
