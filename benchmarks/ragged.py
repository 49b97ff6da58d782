"""Ragged contexts, forward and backward: packed against truncating to the shortest and against padding, cost per kept token."""

from __future__ import annotations

from functools import partial
from statistics import median

import numpy as np
import torch

from benchmarks.timing import Result, compare
from jepakit.masks.blocks import MultiBlockConfig, multi_block
from jepakit.nn.packing import Packing
from jepakit.nn.tokens import Ids
from jepakit.nn.vit import VisionTransformer, ViTConfig
from jepakit.randomness import Draws

DIM, DEPTH, HEADS = 384, 2, 6  # ViT-S/16 at 224 px, a sixth of its depth: every block costs the same


def run() -> list[Result]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    shape = ViTConfig(image_size=(224, 224), patch_size=16, dim=DIM, depth=DEPTH, heads=HEADS)
    encoder = VisionTransformer(shape).to(device)
    blocks = list(encoder.blocks)
    results = []
    for batch in (32, 128):
        drawn = multi_block(MultiBlockConfig(targets=4, target_scale=(0.15, 0.2), contexts=1), shape.grid)(
            Draws(0, "masks", 0, np.arange(batch))
        )
        ids, lengths = drawn.context[:, 0], drawn.context_lengths[:, 0]
        tokens = torch.randn(batch, 196, DIM, device=device)
        shortest, kept = int(lengths.min()), int(lengths.sum())

        def through(keep: Ids, padded: bool = False, tokens=tokens) -> None:
            with_packing = Packing.of
            if padded:
                Packing.of = staticmethod(lambda *_: None)  # type: ignore[method-assign]
            try:
                out = encoder.run(tokens, torch.zeros(len(tokens), 196, 2, device=device), keep)
            finally:
                Packing.of = with_packing  # type: ignore[method-assign]
            out.values.square().mean().backward()
            for block in blocks:
                block.zero_grad(set_to_none=True)

        ragged, cut = Ids(ids.to(device), lengths), Ids(ids[:, :shortest].contiguous().to(device))
        note = f"{kept / (batch * shortest):.2f} times the tokens of truncating; padding would be {1 - kept / ids.numel():.0%}"
        for name, other, tokens_of in (
            ("truncated to the shortest", partial(through, cut), batch * shortest),
            ("padded and masked", partial(through, ragged, padded=True), kept),
        ):
            timed = compare(name, partial(through, ragged), other, repeats=7, of_rounds=median)
            ours, reference = 1e6 * timed.ours / kept, 1e6 * timed.reference / tokens_of
            results.append(Result(f"ragged: batch {batch}, {name}", ours, reference, "us a token", timed.memory_ratio, note))
    return results
