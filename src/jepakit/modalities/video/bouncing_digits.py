"""Bouncing digits: clips of one handwritten digit that moves along an axis and bounces off the edges, made while read.

After Moving MNIST (Srivastava et al. 2015, arXiv 1502.04681), with scikit-learn's 8 x 8 digits. Digit, direction and place
are known. A clip is a function of (seed, id) and of nothing else. Held-out clips show held-out handwriting.

With noise no pixel is the same in the next frame, and digits are of any brightness: what can be foretold is where the digit
goes and what it is, and linear functions of pixels tell neither (after Sobal et al. 2022, arXiv 2211.10831, whose dot moves
before noise).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray

from jepakit.errors import UserError, check_choice, check_range
from jepakit.modalities.images.arrays import digits
from jepakit.randomness import Draws, derive_seed

TRAIN, TEST = 4_000, 1_000
DIRECTIONS = ("right", "down", "left", "up")
SHARE = 3 / 8  # of the frame's shorter side: a digit's side
SPEED = (1 / 32, 2.5 / 32)  # of the shorter side, for each frame: 1 to 2.5 pixels of 32
AHEAD = 4  # frames from a clip's last one to the label "future"
DIGIT = 0.25  # of full brightness: where a digit, which is blurred, begins
NOISE = 0.1  # of `noisy-bouncing-digits`
GROUND, RANGE, DIMMEST = 0.25, 0.6, 0.5  # with noise: brightness of the ground, what a digit adds to it, its least share of it

Event = Literal["teleport", "vanish"]


@dataclass(frozen=True)
class Facts:
    """What is known of clips: which handwriting, what it says, where it goes (index of `DIRECTIONS`), and its top left corner
    in every frame. The direction is that of the middle of the clip, as it may turn before and after; `velocity` is that of the
    last frame, in pixels a frame (down, right); `future` the corner `AHEAD` frames after it."""

    sprite: Int[np.ndarray, "clips"]
    digit: Int[np.ndarray, "clips"]
    direction: Int[np.ndarray, "clips"]
    position: Int[np.ndarray, "clips frames 2"]
    velocity: Float[np.ndarray, "clips 2"]
    future: Int[np.ndarray, "clips 2"]


@dataclass(frozen=True)
class BouncingDigits:
    """5,000 clips by number, the last 1,000 of held-out handwriting; `read(id) -> uint8 [frames, 1, height, width]`."""

    frames: int = 8
    image_size: tuple[int, int] = (32, 32)
    seed: int = 0
    noise: float = 0.0
    """Deviation of every pixel of every frame, black to white being 1. 0: no noise, black ground and white digits."""

    channels: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_range("frames", self.frames, 1)
        check_range("noise", self.noise, 0)
        if min(self.image_size) < 16:
            raise UserError(f"image_size {self.image_size}: a bouncing digit needs frames of at least 16 x 16 pixels.")

    def __len__(self) -> int:
        return TRAIN + TEST

    @property
    def side(self) -> int:
        """Height and width of a digit in pixels."""
        return round(min(self.image_size) * SHARE)

    def read(
        self, index: int, frame: int | None = None, event: tuple[Event, int] | None = None
    ) -> UInt8[np.ndarray, "frames 1 height width"]:
        """A clip, or one frame of it; or what cannot happen: from the frame that `event` names on the digit is gone
        ("vanish"), or half the room beside its way ("teleport")."""
        facts = _all_facts(self)
        sprite, places = _sprites(self.side)[0][facts.sprite[index]], facts.position[index]
        shown = len(places)
        if event is not None:
            what, at = event
            check_choice("event", what, get_args(Event))
            if what == "vanish":
                shown = at
            else:  # along the axis on which it stands still
                room = np.asarray(self.image_size) - self.side
                moved = (np.arange(len(places)) >= at)[:, None] & (facts.velocity[index] == 0)
                places = np.where(moved, (places + room // 2) % room, places)
        clip = np.zeros((len(places), 1, *self.image_size), dtype=np.uint8)
        for picture, (top, left) in zip(clip[:shown], places, strict=False):
            picture[0, top : top + self.side, left : left + self.side] = sprite
        if self.noise > 0:
            clip = self._among_noise(clip, index)
        return clip if frame is None else clip[frame : frame + 1]

    def _among_noise(self, clip: UInt8[np.ndarray, "frames 1 height width"], index: int) -> NDArray[np.uint8]:
        rng = np.random.default_rng(derive_seed(self.seed, f"noise of bouncing digits {index}"))
        brightness = RANGE * rng.uniform(DIMMEST, 1)
        grey = GROUND * 255 + brightness * clip + self.noise * 255 * rng.standard_normal(clip.shape, dtype=np.float32)
        return np.clip(grey.round(), 0, 255).astype(np.uint8)

    def mask(self, index: int) -> UInt8[np.ndarray, "frames height width"]:
        """Which pixels of a clip are the digit's: 1, and 0 the ground's. A pixel is the digit's from `DIGIT` of its brightness
        on."""
        facts = _all_facts(self)
        sprite = _sprites(self.side)[0][facts.sprite[index]] >= DIGIT * 255
        mask = np.zeros((self.frames, *self.image_size), dtype=np.uint8)
        for picture, (top, left) in zip(mask, facts.position[index], strict=True):
            picture[top : top + self.side, left : left + self.side] = sprite
        return mask

    def facts(self, ids: Int[np.ndarray, "clips"]) -> Facts:
        """What is known of these clips."""
        _, labels, held_out = _sprites(self.side)
        draws = Draws(self.seed, "bouncing digits", 0, ids)
        pools = [np.flatnonzero(~held_out), np.flatnonzero(held_out)]
        chance = draws.uniform()
        sprite = np.where(ids < TRAIN, *(pool[(chance * len(pool)).astype(np.int64)] for pool in pools))
        direction = draws.integers(4)
        speed = draws.uniform(low=SPEED[0], high=SPEED[1]) * min(self.image_size)
        room = np.asarray(self.image_size) - self.side
        middle = draws.uniform(2) * room
        velocity = speed[:, None] * np.asarray([(0, 1), (1, 0), (0, -1), (-1, 0)])[direction]
        time = np.append(np.arange(self.frames), self.frames - 1 + AHEAD) - (self.frames - 1) / 2
        straight = middle[:, None] + velocity[:, None] * time[:, None]
        there_and_back = np.mod(straight, 2 * room)
        places = np.round(room - np.abs(there_and_back - room)).astype(np.int64)
        last = np.where(there_and_back[:, -2] < room, velocity, -velocity)
        return Facts(sprite, labels[sprite], direction, places[:, :-1], last, places[:, -1])


@lru_cache(maxsize=4)
def _all_facts(clips: BouncingDigits) -> Facts:
    """Of every clip, as one by one they take longer than the pictures."""
    return clips.facts(np.arange(len(clips)))


@lru_cache(maxsize=4)
def _sprites(side: int) -> tuple[UInt8[np.ndarray, "digits side side"], NDArray[np.int64], NDArray[np.bool_]]:
    """The digits at this size, what they say, and which are held out."""
    arrays, held_out = digits()
    assert arrays.labels is not None  # scikit-learn's digits have labels
    large = F.interpolate(torch.from_numpy(arrays.images[0])[:, None], size=(side, side), mode="bilinear")
    return (large[:, 0] * 255).round().to(torch.uint8).numpy(), arrays.labels[0].astype(np.int64), held_out
