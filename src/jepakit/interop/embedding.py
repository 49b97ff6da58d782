"""Embeddings of a data set by any encoder, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from jepakit.core.system import Prepares
from jepakit.device import to_device
from jepakit.errors import UserError
from jepakit.evaluation.pooling import Pooling, pool
from jepakit.nn.tokens import Tokens
from jepakit.nn.transformer import TokenTransformer
from jepakit.training.signals import outlive_signals, start_workers


def at_levels(encoder: nn.Module, levels: Sequence[int] | None) -> Callable[[Any], Tokens]:
    """The encoder with its tokens of these blocks (1-based, each normalised) side by side, `[batch, tokens, levels * dim]`;
    None: as it is, those of its last block.

    Errors: not a transformer; blocks that it does not have, or has no norm for.
    """
    if levels is None:
        return encoder
    if not isinstance(encoder, TokenTransformer):
        raise UserError(f"levels are of transformers; this encoder is a {type(encoder).__name__}. Leave them out.")

    def encode(inputs: Any) -> Tokens:
        tokens = encoder(inputs, levels=tuple(levels))
        return replace(tokens, values=tokens.values.flatten(2))

    return encode


def embed_samples(
    model: Callable[[Any], Tokens],
    inputs: Prepares,
    dataset: Any,
    indices: Sequence[int] | np.ndarray | None = None,
    batch_size: int = 256,
    device: torch.device | None = None,
    pooling: Pooling | None = "mean",
) -> Tensor:
    """Embeddings of a data set, `[n, dim]` pooled or (pooling None) `[n, tokens, dim]`, float32 on the CPU.

    `model(inputs) -> Tokens` is an encoder or a system's `encode`; the samples are prepared by `inputs`.
    """
    return torch.cat(list(embed_batches(model, inputs, dataset, indices, batch_size, device, pooling)))


def embed_batches(
    model: Callable[[Any], Tokens],
    inputs: Prepares,
    dataset: Any,
    indices: Sequence[int] | np.ndarray | None = None,
    batch_size: int = 256,
    device: torch.device | None = None,
    pooling: Pooling | None = "mean",
    workers: int = 0,
) -> Iterator[Tensor]:
    """`embed_samples` a batch at a time. Worker processes, where asked for, prepare one batch each ahead."""
    order = np.arange(len(dataset)) if indices is None else np.asarray(indices)
    device = device or torch.device("cpu")
    loader = DataLoader(
        dataset,
        batch_sampler=[order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)],
        collate_fn=inputs.prepare,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=outlive_signals if workers else None,
        prefetch_factor=1 if workers else None,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # its own: this must not draw from the global one
    )
    for prepared in start_workers(loader):
        with torch.no_grad():
            out = model(to_device(prepared, device))
        yield (out.values if pooling is None else pool(out, pooling)).float().cpu()
