"""Moving photographs: clips of windows into two photographs that slide and turn, made while read, with their motion known.

The photographs are scikit-learn's two samples (`load_sample_images`; needs Pillow). A clip's motion is the same from each
frame to the next: a turn about the middle of the window and a shift, of any direction and of no whole number of pixels.
Training clips lie in the left 0.7 of a photograph, held-out ones in the rest, with all that they will see. A clip is a function
of (seed, id) and of nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8

from jepakit.errors import UserError, check_range
from jepakit.randomness import Draws

TRAIN, TEST = 4_000, 1_000
SHIFT = 5.0  # pixels a frame, at most, in each axis
TURN = 0.08  # radians a frame, at most
SHARE = 0.7  # of a photograph's width: where training clips lie


@dataclass(frozen=True)
class Facts:
    """What is known of clips: which photograph, where the window's middle lies in it (down, right), and what moves from each
    frame to the next: the shift (right, down) in pixels and the turn in radians, clockwise as it is seen."""

    photograph: Int[np.ndarray, "clips"]
    middle: Float[np.ndarray, "clips 2"]
    shift: Float[np.ndarray, "clips 2"]
    turn: Float[np.ndarray, "clips"]


@dataclass(frozen=True)
class MovingPhotographs:
    """5,000 clips by number, the last 1,000 held out; `read(id) -> uint8 [frames, 3, height, width]`."""

    frames: int = 2
    image_size: tuple[int, int] = (64, 64)
    seed: int = 0

    channels: ClassVar[int] = 3

    def __post_init__(self) -> None:
        check_range("frames", self.frames, 2)
        if min(self.image_size) < 16:
            raise UserError(f"image_size {self.image_size}: a moving photograph needs frames of at least 16 x 16 pixels.")
        height, width = (int(side) for side in _photographs().shape[2:])
        narrowest = min(height, (1 - SHARE) * width)
        if 2 * self.reach > narrowest:
            raise UserError(
                f"{self.frames} frames of {self.image_size[0]} x {self.image_size[1]} pixels would see up to "
                f"{2 * self.reach:.0f} pixels of a photograph, and only {narrowest:.0f} are held out. Lower --frames or "
                "--image-size."
            )

    def __len__(self) -> int:
        return TRAIN + TEST

    @property
    def reach(self) -> float:
        """How far from a window's middle its clip may see, in pixels: to its corner, and where it goes."""
        corner = float(np.hypot(*self.image_size)) / 2
        return corner + (self.frames - 1) * SHIFT * 2**0.5 + 1

    def read(self, index: int, frame: int | None = None) -> UInt8[np.ndarray, "frames 3 height width"]:
        """A clip, or one frame of it."""
        facts = self.facts(np.asarray([index]))
        points = np.stack([self._seen(facts, time) for time in (range(self.frames) if frame is None else (frame,))])
        photograph = _photographs()[int(facts.photograph[0])]
        sides = np.asarray(photograph.shape[1:])
        unit = torch.from_numpy(((2 * points + 1) / sides - 1)[..., ::-1].astype(np.float32))
        clip = F.grid_sample(photograph.expand(len(points), -1, -1, -1), unit, align_corners=False)
        return clip.round().to(torch.uint8).numpy()

    def _seen(self, facts: Facts, time: int) -> Float[np.ndarray, "height width 2"]:
        """Where in its photograph each pixel of the frame at this time looks (down, right): the motion, undone."""
        places = self._places()
        turn = facts.turn[0]
        for _ in range(time):
            places = _turned(places - facts.shift[0], -turn)
        return facts.middle[0] + places[..., ::-1]

    def _places(self) -> Float[np.ndarray, "height width 2"]:
        """Each pixel (right, down) from the window's middle."""
        height, width = self.image_size
        down, right = np.mgrid[0:height, 0:width].astype(np.float64)
        return np.stack([right - (width - 1) / 2, down - (height - 1) / 2], axis=-1)

    def flow(self, index: int) -> Float[np.ndarray, "2 height width"]:
        """Where each pixel of a frame goes until the next, in pixels: to the right, down."""
        facts, places = self.facts(np.asarray([index])), self._places()
        moved = _turned(places, facts.turn[0]) + facts.shift[0]
        return np.moveaxis(moved - places, -1, 0).astype(np.float32)

    def facts(self, ids: Int[np.ndarray, "clips"]) -> Facts:
        """What is known of these clips."""
        draws = Draws(self.seed, "moving photographs", 0, ids)
        photograph = draws.integers(len(_photographs()))
        height, width = _photographs().shape[2:]
        held_out, chance = np.asarray(ids) >= TRAIN, draws.uniform(2)
        left, right = np.where(held_out, SHARE * width, 0.0), np.where(held_out, width, SHARE * width) - 1.0
        down = self.reach + chance[:, 0] * (height - 1 - 2 * self.reach)
        across = left + self.reach + chance[:, 1] * (right - left - 2 * self.reach)
        shift = draws.uniform(2, low=-SHIFT, high=SHIFT)
        return Facts(photograph, np.stack([down, across], axis=1), shift, draws.uniform(low=-TURN, high=TURN))


def _turned(places: Float[np.ndarray, "height width 2"], turn: float) -> Float[np.ndarray, "height width 2"]:
    """Places (right, down), turned clockwise as it is seen: rows count downwards."""
    cos, sin = np.cos(turn), np.sin(turn)
    return places @ np.asarray([[cos, sin], [-sin, cos]])


@lru_cache(maxsize=1)
def _photographs() -> Float[torch.Tensor, "photographs 3 height width"]:
    from sklearn.datasets import load_sample_images  # here: it takes a second

    pictures = np.stack(load_sample_images().images)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
