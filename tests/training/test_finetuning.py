"""What learns by which method, at which rate; what the head reads."""

from __future__ import annotations

import copy

import pytest
import torch

from jepakit.errors import UserError
from jepakit.interop.encoder import PretrainedEncoder
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.nn.convnet import ConvNet, ConvNetConfig
from jepakit.nn.predictor import MaskedPredictor, PredictorConfig
from jepakit.nn.tokens import Ids
from jepakit.nn.vit import VisionTransformer, ViTConfig
from jepakit.training.answers import Answers
from jepakit.training.config import TrainingConfig
from jepakit.training.finetuning import FineTuned, tuned_system
from jepakit.training.finetuning_config import OF_METHODS, FineTuningConfig, FineTuningOptions, WatchConfig
from jepakit.training.optimizer import build_optimizer
from jepakit.training.schedules import set_schedule

INPUTS = ImageInputs(image_size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))
DIGITS = Answers(task="classification", outputs=3, classes=("a", "b", "c"))
DEPTH = 3


def pretrained(kind="vit"):
    torch.manual_seed(0)
    if kind == "convnet":
        return PretrainedEncoder(ConvNet(ConvNetConfig(image_size=(8, 8), channels=1, dim=16, width=8, blocks=2)), INPUTS)
    shape = ViTConfig(image_size=(8, 8), patch_size=4, channels=1, dim=16, depth=DEPTH, heads=2)
    predictor = MaskedPredictor(PredictorConfig(dim=8, depth=2, heads=2), 16, shape.grid)
    return PretrainedEncoder(VisionTransformer(shape), INPUTS, "i-jepa", "target", predictor=predictor)


def tuned(kind="vit", **options) -> FineTuned:
    system = tuned_system("images")(FineTuningConfig(**options).settled(DIGITS), INPUTS, 0, pretrained(kind))
    torch.manual_seed(1)
    system.begin_training()
    return system


def batch(count=6):
    torch.manual_seed(2)
    return {"id": torch.arange(count), "inputs": torch.randn(count, 1, 8, 8), "label": torch.arange(count) % 3}


def trained(system, steps=3):
    """The system after some steps of AdamW, as the loop takes them."""
    system.train()
    config = TrainingConfig(steps=steps, lr=1e-2)
    optimizer = build_optimizer(system, config.optimizer, torch.device("cpu"))
    for step in range(steps):
        set_schedule(optimizer, config, step, steps)
        system.step(batch())["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    return system


def changed(before, after):
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


def test_the_rate_of_a_layer_falls_by_the_decay_for_each_layer_below_the_head():
    system = tuned(layer_decay=0.5)
    names = {id(parameter): name for name, parameter in system.named_parameters()}
    scales = {names[id(p)]: group["lr_scale"] for group in system.parameter_groups() for p in group["params"]}
    assert scales.keys() == {name for name, p in system.named_parameters() if p.requires_grad}
    assert scales["head.linear.weight"] == scales["encoder.norm.weight"] == 1
    for block in range(DEPTH):
        assert scales[f"encoder.blocks.{block}.attn.qkv.weight"] == 0.5 ** (DEPTH - block)
        assert scales[f"encoder.blocks.{block}.norm1.bias"] == 0.5 ** (DEPTH - block)
    assert scales["encoder.patch_embed.proj.weight"] == 0.5 ** (DEPTH + 1)


def test_a_kept_predictor_lies_between_the_encoder_and_the_head():
    system = tuned(predictor="kept")
    layers = [
        system.layer_of(name)
        for name in (
            "encoder.patch_embed.proj.weight", "encoder.blocks.0.mlp.fc1.weight", "encoder.blocks.2.mlp.fc1.weight",
            "encoder.norm.weight", "predictor.predictor_embed.weight", "predictor.mask_token",
            "predictor.predictor_blocks.0.attn.qkv.weight", "predictor.predictor_blocks.1.attn.qkv.weight",
            "predictor.predictor_norm.weight", "predictor.predictor_proj.bias", "head.linear.weight",
        )
    ]  # fmt: skip
    assert layers == [0, 1, 3, 4, 4, 4, 5, 6, 7, 7, 7]


def test_full_trains_everything_but_the_table_of_positions():
    system = tuned()
    before = copy.deepcopy(system.state_dict())
    after = trained(system).state_dict()
    assert before.keys() - changed(before, after) == {"encoder.pos_embed", "head.mean", "head.scale"}


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_last_blocks_leaves_all_others_as_they_were_to_the_bit(blocks):
    system = tuned(method="last-blocks", blocks=blocks)
    before = copy.deepcopy(system.state_dict())
    after = trained(system).state_dict()
    learn = {f"encoder.blocks.{number}." for number in range(DEPTH - blocks, DEPTH)} | {"head.linear."}
    learn |= {"encoder.norm."} if blocks else set()
    assert changed(before, after) == {name for name in before if name.startswith(tuple(learn))}
    frozen = [module for name, module in system.named_modules() if name.startswith("encoder.blocks.0")]
    assert not any(module.training for module in frozen)
    assert system.encoder.blocks[DEPTH - 1].training == bool(blocks)
    assert system.head.training


@pytest.mark.parametrize(("method", "options"), [("last-blocks", {"blocks": 0}), ("full", {})])
def test_a_kept_predictor_learns_with_the_encoder_frozen_or_tuned(method, options):
    system = tuned(method=method, predictor="kept", **options)
    before = copy.deepcopy(system.state_dict())
    names = changed(before, trained(system).state_dict())
    assert {"predictor.mask_token", "predictor.predictor_blocks.0.attn.qkv.weight"} <= names
    assert any(name.startswith("encoder.") for name in names) == (method == "full")
    assert "predictor.predictor_pos_embed" not in names


def test_a_kept_predictor_is_asked_for_all_positions_and_the_head_reads_its_answers():
    system = tuned(predictor="kept").eval()
    images = batch()["inputs"]
    context = system.encoder(images)
    asked = system.predictor(context, Ids(torch.arange(4).expand(6, -1)))
    assert torch.equal(system.read(images).values, asked)
    assert torch.equal(system.scores(images), system.head(system.read(images)))
    assert torch.equal(system.encode(images).values, context.values)


def test_without_the_predictor_the_head_reads_the_encoders_tokens():
    system = tuned().eval()
    images = batch()["inputs"]
    assert torch.equal(system.read(images).values, system.encoder(images).values)


def test_pieces_of_a_batch_add_up_to_its_loss():
    system, whole = tuned(), batch()
    system.head.linear.weight.data.normal_()
    counts = system.counts(whole)
    parts = [
        {"inputs": whole["inputs"][piece], "label": whole["label"][piece], "counts": counts}
        for piece in (slice(0, 4), slice(4, 6))
    ]
    total = sum(system.step(part)["loss"] for part in parts)
    assert torch.allclose(total, system.step(whole)["loss"])


def test_the_encoder_that_was_given_is_left_alone():
    given = pretrained()
    before = copy.deepcopy(given.encoder.state_dict())
    trained(tuned_system("images")(FineTuningConfig().settled(DIGITS), INPUTS, 0, given))
    assert not changed(before, given.encoder.state_dict())
    assert not any(parameter.requires_grad for parameter in given.parameters())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "half"}, "method: 'half' is not known"),
        ({"blocks": 2}, "blocks is of method last-blocks, this is full"),
        ({"method": "lora", "layer_decay": 0.5}, "layer_decay is of method full and last-blocks, this is lora"),
        ({"rank": 4}, "rank is of method lora, this is full"),
        ({"layer_decay": 1.5}, "layer_decay must be above 0 and at most 1, got 1.5"),
        ({"method": "lora", "alpha": 0.0}, "alpha must be above 0"),
        ({"method": "lora", "rank": 0}, "rank must be at least 1"),
        ({"method": "last-blocks", "blocks": -1}, "blocks must be at least 0"),
    ],
)
def test_options_that_do_nothing_or_make_no_sense_are_refused(options, told):
    with pytest.raises(UserError, match=told):
        FineTuningOptions(**options)


def test_a_settled_config_says_every_option_of_its_method_and_no_other():
    for method in ("full", "last-blocks", "lora"):
        found = FineTuningConfig(method=method).settled(DIGITS)
        assert {name for name in OF_METHODS if getattr(found, name) is not None} == {
            name for name, methods in OF_METHODS.items() if method in methods
        }
        assert found.answers == DIGITS
    assert FineTuningConfig(method="lora", rank=3).settled(DIGITS).rank == 3
    with pytest.raises(UserError, match="watch_every"):
        WatchConfig(watch_every=0)


def test_what_cannot_be_tuned_so_is_told():
    with pytest.raises(UserError, match="blocks 9: the encoder has 3"):
        tuned(method="last-blocks", blocks=9)
    with pytest.raises(UserError, match=r"this encoder has none. Use --predictor dropped"):
        tuned("convnet", predictor="kept")
    with pytest.raises(UserError, match="what it was tuned from"):
        tuned_system("images")(FineTuningConfig(), INPUTS, 0, pretrained())
