"""One step of a stream, as a user's camera or sensor gives it, checked before it becomes a sample of its modality."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from jepakit.errors import UserError, shown


def picture(given: Any, channels: int) -> Shaped[Tensor, "channels height width"]:
    """Pixels, `uint8` or `float32` in [0, 1]; a copy, as cameras write into the same memory again.

    Errors: no array; other axes or channels; other numbers; NaN or numbers outside [0, 1].
    """
    pixels = as_tensor(given, "frame")
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


def as_tensor(given: Any, what: str) -> Tensor:
    """A copy of an array or tensor, on the CPU. Errors: anything else; numbers that torch does not have."""
    if isinstance(given, Tensor):
        return given.detach().cpu().clone()
    if isinstance(given, np.ndarray | np.generic):
        try:
            return torch.from_numpy(np.array(given))
        except TypeError as error:
            raise UserError(f"The numbers of this {what} are {given.dtype}. Convert them to float32 or uint8.") from error
    kind = type(given).__name__
    raise UserError(f"This stream takes each {what} as an array or a tensor, got {kind}. Give numpy.asarray({what}).")


def finite(numbers: Tensor, what: str) -> Float[Tensor, "..."]:
    """The numbers as floats. Errors: NaN or infinite ones."""
    floats = numbers.float()
    if not bool(floats.isfinite().all()):
        raise UserError(
            f"{what} holds NaN or infinite numbers: {shown(floats[~floats.isfinite()].tolist())}. Mend what measures it, or "
            "leave this step out."
        )
    return floats
