"""Stacks pairs of neighbouring frames, and views of still pictures, for systems that learn from motion and from content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jepakit.modalities.images.data import in_pieces, stack_images
from jepakit.modalities.images.views import ViewConfig, draw_views
from jepakit.modalities.modality import sample_draws, sample_facts, training_facts
from jepakit.modalities.video.inputs import VideoInputs
from jepakit.modalities.video.samples import pixels_of


@dataclass(frozen=True)
class PairCollator:
    """`collator(samples) -> batch`: `frames [batch, channels, 2, height, width]`, two neighbours of each clip, and with stills
    of each named stream a batch: "video" with the frames, "image" with `views [batch, views, channels, height, width]`.

    Args:
        inputs: what the encoder expects; a clip has at least 2 frames.
        augment: how views are drawn.
        seed: of which pair of a clip is taken, and of the views.
        view_size: height and width of a view; None: those of a frame.
        views: clips alone, with the frames, and that many views of the first of them, whose places are drawn apart.
    """

    inputs: VideoInputs
    augment: ViewConfig
    seed: int
    view_size: tuple[int, int] | None = None
    views: int | None = None

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        clips = [sample for sample in samples if "stream" not in sample]
        pairs = [self._pair(sample) for sample in clips]
        if self.views is not None:
            firsts = [{**sample, "clip": pair[:1]} for sample, pair in zip(clips, pairs, strict=True)]
            augment = replace(self.augment, views=self.views, local_views=0)
            return {"frames": self._stacked(pairs), "views": self._views(firsts, augment), **sample_facts(clips)}
        if not self.inputs.stills:
            return {"frames": self._stacked(pairs), **sample_facts(clips)}
        stills = [sample for sample in samples if sample.get("stream") == "image"]
        facts = training_facts(samples)
        video = {"frames": self._stacked(pairs), "id": _ids(clips)}
        return {"video": video, "image": {"views": self._views(stills, self.augment), "id": _ids(stills)}, **facts}

    def _pair(self, sample: dict[str, Any]) -> Tensor:
        """Two neighbouring frames, `[2, channels, height, width]`: which ones, (seed, epoch, id) says."""
        first = int(sample_draws([sample], self.seed, "pair").integers(self.inputs.frames - 1)[0])
        return pixels_of(sample, slice(first, first + 2))

    def _stacked(self, pairs: list[Tensor]) -> Float[Tensor, "batch channels 2 height width"]:
        if not pairs:  # a process may have no sample of a stream
            return torch.zeros(0, self.inputs.channels, 2, *self.inputs.image_size)
        return self.inputs.prepare([{"clip": pair} for pair in pairs])

    def _views(
        self, samples: Sequence[dict[str, Any]], augment: ViewConfig
    ) -> Float[Tensor, "batch views channels height width"]:
        size = self.view_size or self.inputs.image_size
        if not samples:
            return torch.zeros(0, augment.views, self.inputs.channels, *size)

        def drawn(some: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
            canvas, sizes = stack_images([{"image": pixels_of(sample)[0]} for sample in some])
            views = draw_views(canvas, sizes, augment, sample_draws(some, self.seed, "views"), size)
            return {"views": self.inputs.normalise(views)}

        return in_pieces(drawn, samples, size)["views"]


def _ids(samples: Sequence[dict[str, Any]]) -> Tensor:
    return torch.tensor([sample["id"] for sample in samples], dtype=torch.int64)
