"""Action anticipation: what was seen of a clip, and what a masked predictor makes of the frames that come next.

The protocol of V-JEPA 2 (arXiv 2506.09985, section 6): the encoder sees a clip, the predictor is asked for the tokens of later
times by their positions, and an attentive probe reads both to name what happens then (EPIC-KITCHENS-100: 1 s ahead, class-mean
recall@5, focal loss). Nothing is trained but the probe. The same probe on the encoder's tokens alone tells what the predictor
adds.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepakit.errors import UserError, check_range
from jepakit.nn.positions import grid_positions
from jepakit.nn.predictor import MaskedPredictor
from jepakit.nn.tokens import Ids, Tokens
from jepakit.nn.video_transformer import VideoTransformer


class Anticipating(nn.Module):
    """`model(clips [batch, channels, frames, height, width]) -> Tokens`: those of the first `seen` frames, then the predicted
    ones of the `ahead` frames after them, which it does not see even where the clip has them.

    The predictor reads as many depths of the encoder as it was made for; they stand side by side, `[batch, tokens, depths *
    dim]`. A fixed table of positions ends with the clips that the predictor was made for; rotary ones go on.

    Args:
        ahead: 0: only what was seen, to compare with.
        kind: number of the mask token that asks. Default: that of futures where a run of ours has three (`masks.future`), else
            that of long-range masks, as in the released evaluation.

    Errors: frames that are no whole number of tubelets, or beyond a fixed table; parts that are not a video transformer and its
    masked predictor.
    """

    def __init__(self, encoder: Any, predictor: Any, *, seen: int, ahead: int, kind: int | None = None):
        super().__init__()
        if not isinstance(encoder, VideoTransformer) or not isinstance(predictor, MaskedPredictor):
            found = f"{type(encoder).__name__} and {type(predictor).__name__}"
            raise UserError(
                f"Anticipation needs a video transformer and the masked predictor it was trained with, got {found}. Systems "
                "that have both: v-jepa, v-jepa-2, v-jepa-2.1."
            )
        tubelet = encoder.config.tubelet
        check_range("seen", seen, tubelet)
        check_range("ahead", ahead, 0)
        for name, frames in (("seen", seen), ("ahead", ahead)):
            if frames % tubelet:
                raise UserError(f"{name} {frames} is no multiple of a token's {tubelet} frames.")
        last = predictor.grid[0] * tubelet
        if predictor.rotation is None and seen + ahead > last:
            raise UserError(
                f"seen {seen} and ahead {ahead}: this predictor's fixed positions end after {last} frames. Lower --seen or "
                "--ahead, or train with rotary positions (v-jepa-2)."
            )
        self.encoder, self.predictor, self.seen, self.ahead = encoder, predictor, seen, ahead
        kinds = len(predictor.mask_token)
        self.kind = (2 if kinds == 3 else min(1, kinds - 1)) if kind is None else kind
        check_range("kind", self.kind, 0, len(predictor.mask_token) - 1)
        self.levels = encoder.config.levels_at if encoder.config.levels > 1 else None

    def forward(self, clips: Float[Tensor, "batch channels frames height width"]) -> Tokens:
        if clips.shape[2] < self.seen:
            raise UserError(f"seen {self.seen}: these clips have only {clips.shape[2]} frames.")
        context: Tokens = self.encoder(clips[:, :, : self.seen], levels=self.levels)
        seen = Tokens(context.values.flatten(2), context.positions)
        if self.ahead == 0:
            return seen
        tubelet = self.encoder.config.tubelet
        rows, columns = (int(axis) + 1 for axis in context.positions[0, :, 1:].amax(0))
        grid = ((self.seen + self.ahead) // tubelet, rows, columns)
        positions = grid_positions(grid, clips.device)
        count = context.values.shape[1]
        asked = torch.arange(count, len(positions), device=clips.device).expand(len(clips), -1)
        further: dict[str, Any] = {} if self.predictor.rotation is None else {"grid": grid}
        if self.predictor.condition_embed is not None:  # which stream: clips are the first
            further["condition"] = F.one_hot(
                torch.zeros(len(clips), dtype=torch.int64, device=clips.device), self.predictor.condition_embed.in_features
            ).to(seen.values.dtype)
        predicted = self.predictor(context, Ids(asked), kind=self.kind, positions=positions[None], **further)
        if predicted.shape[-1] != seen.values.shape[-1]:
            raise UserError(
                f"This predictor gives tokens of {predicted.shape[-1]} numbers, its encoder of {seen.values.shape[-1]}: a "
                "probe cannot read both. Take the encoder that it was trained with."
            )
        values = torch.cat([seen.values, predicted.to(seen.values.dtype)], dim=1)
        return Tokens(values, positions.expand(len(clips), -1, -1))
