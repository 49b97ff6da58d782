"""Tokens of the next observation: the released predictor's numbers, who sees whom, rollouts, and what they cost."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from jepakit.core.state import tensors_of
from jepakit.errors import UserError
from jepakit.nn.attention_layout import AttentionLayout, attend
from jepakit.nn.block_causal_predictor import BlockCausalPredictor, BlockCausalPredictorConfig
from jepakit.nn.rotary import rotate

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


def test_the_released_predictor_needs_its_own_rotation():
    """The released angles are no rotations (see nn.rotary): with right ones its weights compute something else."""
    model, tokens, actions, states, expected = released()
    ours = BlockCausalPredictor(replace(model.config, rotation="paired")).eval()
    ours.load_state_dict(model.state_dict())
    ours.output_norm = torch.nn.Identity()
    assert (ours(tokens, actions, states) - expected).abs().max() > 1e-2


def test_predictions_are_normalised_without_parameters():
    model, tokens, actions, states, expected = released()
    torch.testing.assert_close(model(tokens, actions, states), F.layer_norm(expected, (64,)), atol=2e-5, rtol=1e-5)
    assert not list(model.output_norm.parameters())


def test_the_released_rollout_is_the_whole_window_on_predictions():
    """Predictions fed back: with kept keys and values, as by the released training, which works everything out anew."""
    model, tokens, actions, states, _ = released()
    window = tokens[:, :1]
    for t in range(3):
        window = torch.cat([window, model(window, actions[:, : t + 1], states[:, : t + 1])[:, -1:]], dim=1)
    state = model.begin(tokens[:, :1], actions[:, :0])
    for t in range(3):
        state = model.advance(state, actions[:, t], states[:, t])
        torch.testing.assert_close(model.embedding(state), window[:, t + 1], atol=1e-5, rtol=1e-5)


def build(**options):
    torch.manual_seed(0)
    chosen = {"embedding": 6, "action": 2, "grid": (2, 3), "dim": 24, "depth": 2, "heads": 2, **options}
    return BlockCausalPredictor(BlockCausalPredictorConfig(**chosen)).double().eval()


def draw(time=4, batch=3):
    generator = torch.Generator().manual_seed(1)
    shapes = ((batch, time, 6, 6), (batch, time, 2))
    return tuple(torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)


def by_mask(model, embeddings, actions):
    """The same layers under `AttentionLayout`'s block-causal order: one masked attention over all tokens."""
    x = model._tokens(embeddings, actions, None)
    batch, time, step, _ = x.shape
    angles = model._angles(torch.arange(time)[None])
    layout = AttentionLayout(order="block-causal", blocks=torch.arange(time).repeat_interleave(step)[None])
    x = x.flatten(1, 2)
    for block in model.blocks:
        attention = block.attn
        q, k, v = attention.qkv(block.norm1(x)).reshape(batch, -1, 3, attention.heads, 12).permute(2, 0, 3, 1, 4)
        out = attend(rotate(q, angles), rotate(k, angles), v, layout)
        x = x + attention.proj(out.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return model._answer(x.unflatten(1, (time, step)), embeddings)


def test_steps_without_a_mask_are_block_causal_attention():
    model, (embeddings, actions) = build(), draw()
    torch.testing.assert_close(model(embeddings, actions), by_mask(model, embeddings, actions), **EXACT)


def test_each_step_depends_on_itself_and_the_past_alone():
    """By perturbation and by gradient: all tokens of a step see all of it and of the earlier ones, none sees a later one."""
    model, (embeddings, actions) = build(), draw()
    before = model(embeddings, actions)
    embeddings.requires_grad_(True)
    actions.requires_grad_(True)
    for t in range(4):
        for part in (embeddings, actions):
            moved = part.detach().clone()
            moved[:, t] += torch.linspace(-1, 1, moved.shape[-1])
            changed = model(*(moved if part is other else other for other in (embeddings, actions)))
            difference = (changed - before).abs().amax((0, 3)) > 1e-6  # [time, tokens]
            assert difference.tolist() == [[i >= t] * 6 for i in range(4)]
        found = torch.autograd.grad(model(embeddings, actions)[:, t, 0].square().sum(), [embeddings, actions])
        for gradient in found:
            per_step = gradient.abs().flatten(2).amax((0, 2))
            assert (per_step[: t + 1] > 0).all()
            assert (per_step[t + 1 :] == 0).all()


def test_kept_keys_and_values_change_nothing():
    """From any number of observations on, a rollout is the whole window on what was seen and predicted."""
    model, (embeddings, actions) = build(), draw()
    for seen in (1, 2, 3):
        state, window = model.begin(embeddings[:, :seen], actions[:, : seen - 1]), embeddings[:, :seen]
        torch.testing.assert_close(model.embedding(state), embeddings[:, seen - 1])
        for t in range(seen - 1, 4):
            window = torch.cat([window, model(window, actions[:, : t + 1])[:, -1:]], dim=1)
            state = model.advance(state, actions[:, t])
            torch.testing.assert_close(model.embedding(state), window[:, -1], **EXACT)


def test_a_window_is_the_beginning_of_a_longer_one_and_only_its_age_counts():
    """Rotary positions: a window further on in time gives the same answers, without the observations before."""
    model, (embeddings, actions) = build(), draw()
    whole = model(embeddings, actions)
    torch.testing.assert_close(model(embeddings[:, :2], actions[:, :2]), whole[:, :2], **EXACT)
    x = model._tokens(embeddings, actions, None)
    later = model._answer(model._through(x, torch.arange(4)[None] + 50)[0], embeddings)
    torch.testing.assert_close(later, whole, atol=1e-6, rtol=1e-6)  # angles are float32


def test_samples_that_have_seen_less_are_as_alone():
    model, (embeddings, actions) = build(), draw()
    lengths = torch.tensor([3, 1, 2])
    state = model.begin(embeddings[:, :3], actions[:, :2], lengths)
    for t in range(2):
        state = model.advance(state, actions[:, 2 + t])
    for sample, seen in enumerate(lengths.tolist()):
        own = slice(sample, sample + 1)
        alone = model.begin(embeddings[own, :seen], actions[own, : seen - 1])
        for t in range(2):
            alone = model.advance(alone, actions[own, 2 + t])
        torch.testing.assert_close(model.embedding(state)[own], model.embedding(alone), **EXACT)


def test_an_untrained_residual_predictor_says_that_nothing_moves():
    embeddings, actions = draw()
    embeddings = F.layer_norm(embeddings, (6,))
    model = build(residual=True)
    torch.testing.assert_close(model(embeddings, actions), embeddings, atol=1e-4, rtol=1e-4)
    model(embeddings, actions).square()[..., 0].sum().backward()
    assert model.head.weight.grad.abs().max() > 0


class Sizes(TorchDispatchMode):
    """Notes the numbers of every tensor that is made."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        parts = made if isinstance(made, tuple | list) else [made]
        self.sizes += [part.numel() for part in parts if isinstance(part, Tensor)]
        return made


def test_memory_grows_with_the_steps_used_and_not_with_their_square():
    """The largest tensor of a rollout's newest step, of what it keeps, and of a whole window: twice the steps, twice the size.

    The released code makes a mask of its longest window squared before it sees one: 66,048 x 66,048.
    """
    model = build()

    def largest(steps):
        embeddings, actions = draw(steps, batch=1)
        with torch.no_grad(), Sizes() as whole:
            model(embeddings, actions)
        state = model.begin(embeddings, actions[:, :-1])
        with torch.no_grad(), Sizes() as newest:
            state = model.advance(state, actions[:, -1])
        return max(whole.sizes), max(newest.sizes), sum(part.numel() for part in tensors_of(state))

    few, many = largest(40), largest(80)
    for before, after in zip(few, many, strict=True):
        assert after < 2.1 * before


def test_training_a_window_keeps_memory_linear_in_its_steps():
    """What autograd keeps for the backward pass, with the fused kernel (which keeps no weights)."""
    model = build()

    def kept(steps):
        found = {}

        def note(tensor):
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            result = model(*draw(steps, batch=1))
        assert result.requires_grad
        return sum(found.values())

    assert kept(64) < 2.2 * kept(32)


def test_messages():
    model, (embeddings, actions) = build(), draw()
    with pytest.raises(UserError, match="grid of 2 x 3 tokens does not fit 5 tokens a step"):
        model(embeddings[:, :, :5], actions)
    with pytest.raises(UserError, match="without a condition and was given one"):
        model(embeddings, actions, actions)
    with pytest.raises(UserError, match="needs a condition of 3 numbers a step"):
        build(condition=3)(embeddings, actions)
    with pytest.raises(UserError, match="4 observations have 3 actions between them, got 4"):
        model.begin(embeddings, actions)
    with pytest.raises(UserError, match=r"between 1 and the 4 observations given, got \[0, 4, 4\]"):
        model.begin(embeddings, actions[:, :3], torch.tensor([0, 4, 4]))
    with pytest.raises(UserError, match="multiple of heads"):
        build(heads=5)
    with pytest.raises(UserError, match="heads at least 6 wide, got 4"):
        build(heads=6)
