"""Views of pictures: crops, turns and colour changes for a whole batch at once, in torch, driven by `Draws`.

Colour changes follow SimCLR's recipe as LeJEPA uses it, with two simplifications: brightness, contrast, saturation
and hue are applied in this fixed order, and hue turns the chroma plane of YIQ instead of the angle of HSV, so that
all of them are one 3x3 matrix and one offset a view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from jepakit.errors import UserError, check_choice, check_range
from jepakit.modalities.images.crops import crop_resize
from jepakit.randomness import Draws


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How views are drawn.

    `photo`: random resized crop, horizontal flip, colour jitter, grey, blur, solarise. `glyph`: small rotation, shift
    and zoom with intensity jitter and noise, no flip, for small grey pictures of which a crop or a mirror image would
    be another thing (digits, letters, clothes). `auto`: `glyph` for grey pictures up to 64 pixels, else `photo`.
    """

    kind: Literal["auto", "photo", "glyph"] = "auto"
    views: int = 2
    """Global views a picture, all of the model's input size."""
    local_views: int = 0
    """Further, smaller crops (`draw_local_views`)."""
    local_size: tuple[int, int] | None = None
    """(height, width) of a local view; None: 3/7 of the global one (96 for 224). It has to suit the patches."""
    scale: tuple[float, float] = (0.3, 1.0)
    """photo: smallest and largest part of the picture's area in a view."""
    local_scale: tuple[float, float] = (0.05, 0.3)
    """The same of a local view (also for `glyph`, whose local views are random crops, turned a little)."""
    flip: float = 0.5
    """photo: probability of the mirror image."""
    jitter: float = 0.8
    """photo: probability of colour jitter (brightness and contrast ±40 %, saturation ±20 %, hue ±36°)."""
    grey: float = 0.2
    """photo: probability of taking the colour away."""
    blur: float = 0.5
    """photo: probability of a Gaussian blur, sigma 0.1 to 2 pixels at 224 pixels and in proportion."""
    solarise: float = 0.2
    """photo: probability of inverting the pixels above one half."""
    rotation: float = 15.0
    """glyph: largest turn, degrees."""
    zoom: tuple[float, float] = (0.8, 1.2)
    """glyph: smallest and largest magnification, height and width apart."""
    shift: float = 0.12
    """glyph: largest shift, as a part of the height and width."""
    intensity: float = 0.2
    """glyph: contrast changes by up to this factor, brightness by up to half of it."""
    noise: float = 0.05
    """glyph: largest standard deviation of the pixel noise."""

    def __post_init__(self) -> None:
        check_choice("kind of views", self.kind, ("auto", "photo", "glyph"))
        check_range("views", self.views, 1)
        check_range("local_views", self.local_views, 0)
        for name in ("flip", "jitter", "grey", "blur", "solarise", "shift", "intensity"):
            check_range(name, getattr(self, name), 0.0, 1.0)
        check_range("rotation", self.rotation, 0.0, 180.0)
        check_range("noise", self.noise, 0.0)
        for name, largest in (("scale", 1.0), ("local_scale", 1.0), ("zoom", 10.0)):
            low, high = getattr(self, name)
            if not 0.0 < low <= high <= largest:
                raise UserError(f"{name} must be two numbers, 0 < first <= second <= {largest:g}, got {low} {high}.")
        if self.local_size is not None and min(self.local_size) < 1:
            raise UserError(f"local_size must be two positive numbers (height width), got {self.local_size}.")

    def resolved(self, channels: int, image_size: tuple[int, int]) -> ViewConfig:
        """The same with `auto` and `local_size` decided for these pictures."""
        kind = self.kind
        if kind == "auto":
            kind = "glyph" if channels == 1 and min(image_size) <= 64 else "photo"
        local = self.local_size or (max(1, round(image_size[0] * 3 / 7)), max(1, round(image_size[1] * 3 / 7)))
        return replace(self, kind=kind, local_size=local)


def draw_views(
    canvas: Float[Tensor, "batch channels canvas_height canvas_width"],
    sizes: Int[Tensor, "batch 2"],
    config: ViewConfig,
    draws: Draws,
    out_size: tuple[int, int],
) -> Float[Tensor, "batch views channels height width"]:
    """`config.views` random views of each picture, in [0, 1].

    Args:
        canvas: pictures in [0, 1] in the top left corner of a common canvas.
        sizes: true (height, width) of each.
        draws: one stream a picture; equal draws give equal views, whatever the rest of the batch.
        out_size: (height, width) of the views.
    """
    config = config.resolved(canvas.shape[1], out_size)
    if config.kind == "glyph":
        boxes = _shifted_boxes(sizes, config, draws)
    else:
        boxes = random_resized_boxes(sizes, config.scale, draws, config.views, out_size)
    return _finish(canvas, sizes, boxes, config, draws, out_size)


def draw_local_views(
    canvas: Float[Tensor, "batch channels canvas_height canvas_width"],
    sizes: Int[Tensor, "batch 2"],
    config: ViewConfig,
    draws: Draws,
    out_size: tuple[int, int],
) -> Float[Tensor, "batch local_views channels local_height local_width"]:
    """`config.local_views` small crops; `out_size` is the size of the *global* views. Call it after `draw_views`."""
    config = config.resolved(canvas.shape[1], out_size)
    assert config.local_size is not None  # resolved
    boxes = random_resized_boxes(sizes, config.local_scale, draws, config.local_views, config.local_size)
    return _finish(canvas, sizes, boxes, config, draws, config.local_size)


def random_resized_boxes(
    sizes: Tensor, scale: tuple[float, float], draws: Draws, views: int, out_size: tuple[int, int]
) -> Float[Tensor, "batch views 4"]:
    """Boxes of a random part of the area, 3/4 to 4/3 of the output's proportions (Szegedy et al. 2015).

    The first of ten tries that fits into the picture; if none does, the largest box of the last try's proportions.
    """
    size = sizes.cpu().numpy().astype(np.float64)[:, None, None, :]
    area = draws.uniform(views, 10, low=scale[0], high=scale[1]) * size[..., 0] * size[..., 1]
    ratio = np.exp(draws.uniform(views, 10, low=math.log(3 / 4), high=math.log(4 / 3))) * out_size[1] / out_size[0]
    extent = np.stack([np.sqrt(area / ratio), np.sqrt(area * ratio)], axis=-1)
    fits = (extent <= size).all(axis=-1)
    chosen = np.where(fits.any(axis=-1), fits.argmax(axis=-1), 9)[..., None, None]
    extent = np.take_along_axis(extent, chosen, axis=2)[:, :, 0]
    size = size[:, :, 0]
    extent *= np.minimum(1.0, (size / extent).min(axis=-1, keepdims=True))
    corner = draws.uniform(views, 2) * (size - extent)
    return _tensor(np.concatenate([corner, extent], axis=-1), sizes.device)


def _shifted_boxes(sizes: Tensor, config: ViewConfig, draws: Draws) -> Float[Tensor, "batch views 4"]:
    """The whole picture, magnified and shifted a little."""
    size = sizes.cpu().numpy().astype(np.float64)[:, None, :]
    low, high = np.log(config.zoom)
    extent = size / np.exp(draws.uniform(config.views, 2, low=low, high=high))
    shift = draws.uniform(config.views, 2, low=-config.shift, high=config.shift) * size
    return _tensor(np.concatenate([(size - extent) / 2 + shift, extent], axis=-1), sizes.device)


def _finish(
    canvas: Tensor, sizes: Tensor, boxes: Tensor, config: ViewConfig, draws: Draws, out_size: tuple[int, int]
) -> Float[Tensor, "batch views channels height width"]:
    """Read the boxes and change their colours."""
    views, device = boxes.shape[1], canvas.device
    if config.kind == "glyph":
        largest = math.radians(config.rotation)
        angle = _tensor(draws.uniform(views, low=-largest, high=largest), device)
        read = crop_resize(canvas, sizes, boxes, out_size, angle=angle, outside="background")
        return _intensity(read, config, draws)
    flip = _tensor(draws.uniform(views), device) < config.flip
    return _colour(crop_resize(canvas, sizes, boxes, out_size, flip=flip), config, draws)


def _intensity(views: Tensor, config: ViewConfig, draws: Draws) -> Tensor:
    """Contrast, brightness and uniform pixel noise of a random strength, one set a view."""
    count, size = views.shape[1], views.shape[-2:]
    gain, offset, noise = _tensor(draws.uniform(3, count), views.device).unbind(dim=1)
    gain, offset, noise = (value[:, :, None, None, None] for value in (gain, offset, noise))
    changed = views * (1 + config.intensity * (2 * gain - 1)) + config.intensity / 2 * (2 * offset - 1)
    if config.noise > 0:
        unit = _tensor(draws.uniform(count, 1, *size, low=-math.sqrt(3), high=math.sqrt(3)), views.device)
        changed = changed + config.noise * noise * unit
    return changed.clamp(0.0, 1.0)


_LUMA = (0.299, 0.587, 0.114)
_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def _colour(views: Tensor, config: ViewConfig, draws: Draws) -> Tensor:
    """Jitter, grey, blur and solarise, each switched on for some views."""
    count, device = views.shape[1], views.device
    on = draws.uniform(4, count)
    strength = np.where(on[:, 0, None] < config.jitter, draws.uniform(4, count, low=-1.0, high=1.0), 0.0)
    sigma = draws.uniform(count, low=0.1, high=2.0) * views.shape[-2] / 224
    views = _jitter(views, _tensor(strength, device))
    if views.shape[2] == 3:
        luma = torch.einsum("bvchw,c->bvhw", views, views.new_tensor(_LUMA))[:, :, None]
        views = torch.where(_switch(on[:, 1] < config.grey, device), luma, views)
    blurred = torch.from_numpy(on[:, 2] < config.blur).to(device)
    if blurred.any():
        views[blurred] = gaussian_blur(views[blurred], _tensor(sigma, device)[blurred])
    solarised = _switch(on[:, 3] < config.solarise, device) & (views >= 0.5)
    return torch.where(solarised, 1 - views, views)


def _jitter(
    views: Float[Tensor, "batch views channels height width"], strength: Float[Tensor, "batch 4 views"]
) -> Float[Tensor, "batch views channels height width"]:
    """Brightness, contrast, saturation, hue by `strength` in [-1, 1], 0 for no change. In YIQ, where saturation scales
    the chroma plane and hue turns it, the four are one matrix; contrast is about the mean luma."""
    brightness, contrast, saturation = (1 + part * strength[:, i] for i, part in enumerate((0.4, 0.4, 0.2)))
    linear = (brightness * contrast)[:, :, None, None, None]
    if views.shape[2] == 1:
        changed, luma = views * linear, views
    else:
        hue = 0.1 * 2 * math.pi * strength[:, 3]
        cos, sin = saturation * hue.cos(), saturation * hue.sin()
        one, zero = torch.ones_like(cos), torch.zeros_like(cos)
        chroma = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=-1).unflatten(-1, (3, 3))
        yiq = views.new_tensor(_TO_YIQ)
        matrix = torch.linalg.inv(yiq) @ chroma @ yiq
        changed = torch.einsum("bvij,bvjhw->bvihw", matrix, views) * linear
        luma = torch.einsum("bvchw,c->bvhw", views, views.new_tensor(_LUMA))[:, :, None]
    mean = luma.mean(dim=(2, 3, 4), keepdim=True)
    return (changed + (brightness * (1 - contrast))[:, :, None, None, None] * mean).clamp(0.0, 1.0)


def gaussian_blur(
    images: Float[Tensor, "batch channels height width"], sigma: Float[Tensor, "batch"]
) -> Float[Tensor, "batch channels height width"]:
    """Gaussian blur, one `sigma` (pixels) a picture, as two matrix products; weights are normalised at the edges."""

    def weights(size: int) -> Tensor:
        place = torch.arange(size, device=images.device, dtype=images.dtype)
        exponent = -((place[:, None] - place[None, :]) ** 2) / (2 * sigma[:, None, None] ** 2)
        return exponent.softmax(dim=-1)[:, None]

    return weights(images.shape[2]) @ images @ weights(images.shape[3]).transpose(-1, -2)


def _tensor(values: NDArray, device: torch.device) -> Tensor:
    return torch.from_numpy(values).to(device=device, dtype=torch.float32)


def _switch(on: NDArray[np.bool_], device: torch.device) -> Bool[Tensor, "batch views 1 1 1"]:
    return torch.from_numpy(on).to(device)[:, :, None, None, None]
