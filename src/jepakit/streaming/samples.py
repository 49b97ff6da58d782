"""One step of a stream, checked, as a sample of its modality: a picture, a frame, an observation, a graph, a piece of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from jepakit.errors import UserError, shown
from jepakit.modalities.graphs.collection import Graph
from jepakit.modalities.texts.words import words
from jepakit.modalities.trajectories.inputs import TrajectoryInputs


def as_sample(modality: str, inputs: Any, given: Any) -> dict[str, Any]:
    """What was given, as `inputs.prepare` takes it: a sample of one moment.

    Of a modality that is not the library's own (an installed package's) samples are given as its data sets give them.
    """
    if modality == "images":
        return {"image": picture(given, inputs.channels)}
    if modality == "video":
        return {"clip": picture(given, inputs.channels)[None]}
    if modality == "trajectories":
        return {"observations": observation(given, inputs)[None]}
    if modality == "graphs":
        if not isinstance(given, Graph):
            raise UserError(f"A step of this stream is a Graph, got {_kind(given)}. Give graphs as a data set holds them.")
        return {"graph": given}
    if modality == "texts":
        return {"text": piece_of_text(given)}
    if not isinstance(given, Mapping):
        raise UserError(f"A step of this stream is a sample of {modality}, a dict, got {_kind(given)}. Give those of its data.")
    return dict(given)


def picture(given: Any, channels: int) -> Shaped[Tensor, "channels height width"]:
    """Pixels, `uint8` or `float32` in [0, 1]; a copy, as cameras write into the same memory again.

    Errors: no array; other axes or channels; other numbers; NaN or numbers outside [0, 1].
    """
    pixels = _tensor(given, "frame")
    shape = list(pixels.shape)
    if pixels.ndim != 3 or shape[0] != channels or 0 in shape:
        remedy = "Give one frame at a time."
        if pixels.ndim == 2 and channels == 1:
            remedy = "Add the axis of the channel: frame[None]."
        elif pixels.ndim == 3 and shape[2] == channels:
            remedy = "Channels come first: numpy.transpose(frame, (2, 0, 1))."
        elif pixels.ndim == 3 and {shape[0], shape[2]} & {1, 3}:
            remedy = f"Convert it to {channels} channel{'s' if channels > 1 else ''} first."
        raise UserError(f"A frame of this stream is [{channels}, height, width], got {shape}. {remedy}")
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.is_floating_point():
        raise UserError(f"The numbers of a frame are uint8, or floats in [0, 1], got {pixels.dtype}. Convert them first.")
    low, high = (float(number) for number in pixels.aminmax())
    if not (low >= 0 and high <= 1):  # written so that NaN fails
        raise UserError(
            f"The numbers of a frame of floats lie in [0, 1], these from {low:.4g} to {high:.4g}. Divide by 255 what counts up "
            "to that, and leave out frames with NaN."
        )
    return pixels.float()


def observation(given: Any, inputs: TrajectoryInputs) -> Shaped[Tensor, "..."]:
    """An observation of a world, as episodes hold it. Errors: another shape; NaN or infinite numbers."""
    seen = _tensor(given, "observation")
    if tuple(seen.shape) != inputs.shape:
        raise UserError(
            f"The model was trained on observations of shape {list(inputs.shape)}, got {list(seen.shape)}. Give one "
            "observation at a time, as its episodes hold them."
        )
    return seen if seen.dtype == torch.uint8 else _finite(seen, "An observation")


def block_of_actions(given: Any, inputs: TrajectoryInputs) -> Float[Tensor, "block"]:
    """What was done between two observations, `frame_skip` actions in a row. Errors: another number; NaN or infinite ones."""
    done = _tensor(given, "action").flatten()
    if len(done) != inputs.action:
        raise UserError(
            f"What is done between two observations of this model is {inputs.action} numbers (the actions of frame_skip steps "
            f"in a row), got {len(done)}. Give them all."
        )
    return _finite(done, "An action")


def piece_of_text(given: Any) -> str:
    """A piece of text with at least one word."""
    if not isinstance(given, str) or not words(given):
        raise UserError(f"A step of this stream is a piece of text with at least one word, got {_kind(given)}: {shown(given)}.")
    return given


def _tensor(given: Any, what: str) -> Tensor:
    if isinstance(given, Tensor):
        return given.detach().cpu().clone()
    if isinstance(given, np.ndarray | np.generic):
        try:
            return torch.from_numpy(np.array(given))
        except TypeError as error:
            raise UserError(f"The numbers of this {what} are {given.dtype}. Convert them to float32 or uint8.") from error
    raise UserError(f"This stream takes each {what} as an array or a tensor, got {_kind(given)}. Give numpy.asarray({what}).")


def _finite(numbers: Tensor, what: str) -> Float[Tensor, "..."]:
    found = numbers.float()
    if not bool(found.isfinite().all()):
        raise UserError(
            f"{what} holds NaN or infinite numbers: {shown(found[~found.isfinite()].tolist())}. Mend what measures it, or "
            "leave this step out."
        )
    return found


def _kind(given: Any) -> str:
    return type(given).__name__
