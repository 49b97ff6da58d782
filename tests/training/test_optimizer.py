"""Optimisers: their groups, their updates against the papers' formulas, and their state in checkpoints."""

from __future__ import annotations

import shutil

import pytest
import torch
import tyro

from jepakit.commands import pretrain_options
from jepakit.config import default_config, from_plain, read_config, to_plain
from jepakit.core.system import System
from jepakit.errors import UserError
from jepakit.modalities.images.data import open_images
from jepakit.training.config import TrainingConfig
from jepakit.training.guard import OutlierGuard
from jepakit.training.optimizer import OptimizerConfig, build_optimizer
from jepakit.training.schedules import set_schedule
from jepakit.verbs.pretrain import decide
from tests.training.tiny_runs import TRAINING, tiny_trainer, untimed


@pytest.mark.parametrize(("system", "options"), [("i-jepa", {}), ("lejepa", {}), ("lejepa", {"backbone": "vit"})])
def test_each_trained_parameter_is_in_one_group_and_only_matrices_decay(tmp_path, system, options):
    model = tiny_trainer(tmp_path, system, **options).system
    decayed, plain = model.parameter_groups()
    assert (decayed["decay"], plain["decay"]) == (True, False)
    grouped = [id(p) for group in (decayed, plain) for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}
    names = {id(p): name for name, p in model.named_parameters()}
    for parameter in decayed["params"]:
        name = names[id(parameter)]
        assert name.endswith("weight"), name
        assert "norm" not in name, name
        assert "token" not in name, name
    assert all(p.ndim == 1 or p.shape[0] == 1 for p in plain["params"])


def test_what_is_not_trained_is_not_optimised(tmp_path):
    trainer = tiny_trainer(tmp_path, "i-jepa")
    optimised = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in trainer.system.target.parameters()}


class Matrix(System):
    def __init__(self):
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))
        self.bias = torch.nn.Parameter(torch.tensor([3.0]))
        self.head = torch.nn.Parameter(torch.tensor([[4.0]]))

    def parameter_groups(self):
        return [
            {"params": [self.matrix], "decay": True},
            {"params": [self.bias], "decay": False},
            {"params": [self.head], "decay": True, "lr_scale": 0.1},
            {"params": [], "decay": True},
        ]


def test_updates_are_adamw_s():
    """After one step from zero moments Adam moves by lr * sign(gradient); decay shrinks by lr * decay before."""
    model = Matrix()
    config = TrainingConfig(lr=0.1, warmup=0.0, schedule="constant", weight_decay=0.5)
    optimizer = build_optimizer(model, config.optimizer, torch.device("cpu"))
    assert set_schedule(optimizer, config, 0, 10) == {"lr": 0.1, "weight_decay": 0.5}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.matrix.data, torch.tensor([[1.0, -2.0]]) * (1 - 0.1 * 0.5) - 0.1)
    torch.testing.assert_close(model.bias.data, torch.tensor([3.0 - 0.1]))
    torch.testing.assert_close(model.head.data, torch.tensor([[4.0 * (1 - 0.01 * 0.5) - 0.01]]))


def steps_of(config, gradients, **training):
    """A model after steps with these gradients (for all of its parameters), at a constant rate."""
    model = Matrix()
    schedule = TrainingConfig(warmup=0.0, schedule="constant", optimizer=config, **training)
    optimizer = build_optimizer(model, config, torch.device("cpu"))
    for step, gradient in enumerate(gradients):
        set_schedule(optimizer, schedule, step, 10)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
    return model


def test_updates_of_sgd():
    """v = 0.9 v + gradient + decay w; w = w - lr v."""
    model = steps_of(OptimizerConfig(name="sgd"), [1.0, -2.0], lr=0.1, weight_decay=0.5)
    w, v = torch.tensor([[1.0, -2.0]]), 0.0
    for gradient in (1.0, -2.0):
        v = 0.9 * v + gradient + 0.5 * w
        w = w - 0.1 * v
    torch.testing.assert_close(model.matrix.data, w)
    torch.testing.assert_close(model.bias.data, torch.tensor([3.0 - 0.1 * 1.0 - 0.1 * (0.9 - 2.0)]))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_updates_of_lars(momentum):
    """v = m v + trust |w| / (|gradient| + decay |w|) (gradient + decay w); biases take SGD's steps."""
    config = OptimizerConfig(name="lars", momentum=momentum, trust=0.02)
    model = steps_of(config, [1.0, -2.0], lr=0.1, weight_decay=0.5)
    for parameter, start, rate in ((model.matrix, [[1.0, -2.0]], 0.1), (model.head, [[4.0]], 0.01)):
        w, v = torch.tensor(start), 0.0
        for gradient in (1.0, -2.0):
            slope = torch.full_like(w, gradient)
            share = 0.02 * w.norm() / (slope.norm() + 0.5 * w.norm())
            v = momentum * v + share * (slope + 0.5 * w)
            w = w - rate * v
        torch.testing.assert_close(parameter.data, w)
    torch.testing.assert_close(model.bias.data, torch.tensor([3.0 - 0.1 * 1.0 - 0.1 * (momentum - 2.0)]))


def test_a_step_of_lars_is_a_share_of_the_weights_whatever_the_gradient():
    config = OptimizerConfig(name="lars", trust=0.02)
    models = [steps_of(config, [gradient], lr=1.0, weight_decay=0.0) for gradient in (1e-6, 1.0, 1e6)]
    for model in models:
        moved = (model.matrix.data - torch.tensor([[1.0, -2.0]])).norm()
        torch.testing.assert_close(moved, 0.02 * torch.tensor([[1.0, -2.0]]).norm())
    torch.testing.assert_close(models[0].matrix.data, models[2].matrix.data)


def test_lars_is_sgd_where_there_is_no_share():
    """Weights of zeros, gradients of zeros, and groups without decay."""

    class Zeros(Matrix):
        def __init__(self):
            super().__init__()
            self.matrix.data.zero_()

        def parameter_groups(self):
            return [{"params": [self.matrix], "decay": True}, {"params": [self.bias, self.head], "decay": False}]

    pair = []
    for name in ("lars", "sgd"):
        model, config = Zeros(), OptimizerConfig(name=name)
        optimizer = build_optimizer(model, config, torch.device("cpu"))
        for gradients in ((0.0, 0.5, 1.0), (2.0, 0.0, 3.0)):
            set_schedule(optimizer, TrainingConfig(lr=0.1, warmup=0.0, weight_decay=0.0), 0, 10)
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = torch.full_like(parameter, gradient)
            optimizer.step()
        pair.append(model)
    for ours, theirs in zip(*(model.parameters() for model in pair), strict=True):
        assert torch.equal(ours, theirs)


OTHERS = [{"name": "sgd"}, {"name": "sgd", "momentum": 0.0}, {"name": "sgd", "nesterov": True}, {"name": "lars"}]


@pytest.mark.parametrize("optimizer", [*OTHERS, {"betas": [0.8, 0.95]}], ids=str)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, optimizer):
    options = {"optimizer": optimizer, "lr": 0.05}
    whole = tiny_trainer(tmp_path / "whole", **options)
    whole.train()
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    newest = whole.folder.list_checkpoints()
    assert [path.name for path in newest] == ["step-00000010", "step-00000012"]
    shutil.rmtree(tmp_path / "broken" / "checkpoints" / newest[-1].name)
    resumed = tiny_trainer(tmp_path / "broken", **options)
    resumed.restore()
    assert resumed.step == 10
    resumed.train()
    assert untimed(resumed.folder.read_metrics()) == untimed(whole.folder.read_metrics())
    for name, tensor in whole.system.state_dict().items():
        assert torch.equal(resumed.system.state_dict()[name], tensor), name
    for ours, theirs in zip(resumed.system.parameters(), whole.system.parameters(), strict=True):
        states = [trainer.optimizer.state[p] for trainer, p in ((resumed, ours), (whole, theirs))]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_state_of_another_optimizer_is_refused(tmp_path):
    trainer = tiny_trainer(tmp_path, optimizer={"name": "lars"}, lr=0.1)
    trainer.train()
    for name in ("sgd", "adamw"):
        with pytest.raises(UserError, match=f"holds the state of 'lars', and .* asks for '{name}'.*Put optimizer.name back"):
            tiny_trainer(tmp_path, optimizer={"name": name}, lr=0.1).restore()


@pytest.mark.parametrize("optimizer", [*OTHERS, {}], ids=str)
def test_a_left_out_first_update_leaves_no_trace(optimizer):
    guard, config, pair = OutlierGuard(None, torch.device("cpu")), OptimizerConfig(**optimizer), []
    for skipped in (True, False):
        model = Matrix()
        built = build_optimizer(model, config, torch.device("cpu"))
        set_schedule(built, TrainingConfig(lr=0.1, warmup=0.0, schedule="constant"), 0, 10)
        for gradient in (torch.inf, 1.0)[0 if skipped else 1 :]:
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, gradient)
            guard.apply(built, guard.judge(0, torch.tensor(0.0), torch.tensor(gradient)))
        pair.append(model)
    for ours, theirs in zip(*(model.parameters() for model in pair), strict=True):
        assert torch.equal(ours, theirs)


def test_a_config_without_an_optimizer_is_adamw_and_options_are_nested(tmp_path):
    plain = to_plain(TrainingConfig())
    del plain["optimizer"]
    assert from_plain(TrainingConfig, plain, "training") == TrainingConfig()
    assert TrainingConfig().optimizer == OptimizerConfig(name="adamw", betas=(0.9, 0.999), eps=1e-8)
    trainer = tiny_trainer(tmp_path, optimizer={"name": "lars", "trust": 0.01}, lr=0.1)
    assert read_config(trainer.folder.config).training.optimizer == OptimizerConfig(name="lars", trust=0.01)
    assert [group["adapt"] for group in trainer.optimizer.param_groups] == [True, False]


def test_the_command_line_gives_it_as_a_part():
    words = ["--data", "digits", "--out", "run", "--optimizer.name", "sgd", "--optimizer.momentum", "0.8", "--lr", "0.1"]
    options = tyro.cli(pretrain_options("lejepa"), args=words)
    assert options.training.optimizer == OptimizerConfig(name="sgd", momentum=0.8)
    assert options.training.lr == 0.1


def test_another_optimizer_needs_its_own_rate():
    config = default_config("lejepa", "digits").override(**TRAINING, optimizer={"name": "lars"})
    with pytest.raises(UserError, match=r"the default of lejepa is for adamw, and optimizer\.name is 'lars'\. Give --lr"):
        decide(config, open_images(config.dataset, 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "adam"}, "Did you mean 'adamw'"),
        ({"betas": (0.9, 1.0)}, r"optimizer\.betas must be at least 0 and below 1, got 1\.0"),
        ({"name": "sgd", "momentum": -0.1}, r"optimizer\.momentum must be"),
        ({"name": "lars", "trust": 0.0}, r"optimizer\.trust must be above 0"),
        ({"eps": -1.0}, r"optimizer\.eps"),
        ({"name": "sgd", "betas": (0.5, 0.9)}, "optimizer.betas belongs to adamw and does nothing for 'sgd'"),
        ({"momentum": 0.5}, "optimizer.momentum belongs to sgd and lars and does nothing for 'adamw'"),
        ({"name": "sgd", "momentum": 0.0, "nesterov": True}, "nesterov looks ahead"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        OptimizerConfig(**options)
