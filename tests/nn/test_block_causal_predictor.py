"""Tokens of the next observation: the released predictor's numbers, who sees whom, rollouts, and what they cost."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from jepakit.errors import UserError
from jepakit.nn.attention_layout import AttentionLayout, attend
from jepakit.nn.block_causal_predictor import BlockCausalPredictor, BlockCausalPredictorConfig

# Computed by facebookresearch/vjepa2 (MIT), commit c2963a4, at random weights: 2 clips of 3 steps, a grid of 4 x 4.
RELEASED = Path(__file__).parents[1] / "fixtures" / "vjepa2_ac.safetensors"
NAMES = {
    "predictor_blocks": "blocks", "predictor_embed": "embed", "predictor_norm": "norm", "predictor_proj": "head",
    "action_encoder": "embed_action", "state_encoder": "embed_condition",
}  # fmt: skip
EXACT = {"atol": 1e-10, "rtol": 1e-9}  # in float64


def released():
    """The predictor with the released code's weights, and what that was given and gave."""
    tensors = load_file(RELEASED)
    weights = {}
    for name, tensor in tensors.items():
        if name.startswith("predictor.module.") and "extrinsics" not in name:  # there, and unused without cameras
            part, rest = name.removeprefix("predictor.module.").split(".", 1)
            weights[f"{NAMES[part]}.{rest}"] = tensor
    config = BlockCausalPredictorConfig(
        embedding=64, action=7, condition=7, grid=(4, 4), dim=64, depth=2, heads=2, rotation="tiled"
    )
    model = BlockCausalPredictor(config).eval()
    model.load_state_dict(weights)
    tokens, expected = (tensors[name].unflatten(1, (3, 16)) for name in ("input.tokens", "output.tokens"))
    return model, tokens, tensors["input.actions"], tensors["input.states"], expected


def test_agrees_with_the_released_predictor():
    model, tokens, actions, states, expected = released()
    model.output_norm = torch.nn.Identity()  # which the released training applies outside
    torch.testing.assert_close(model(tokens, actions, states), expected, atol=1e-5, rtol=1e-5)
