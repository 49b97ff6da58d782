import copy
import pickle

import pytest
import torch

from jepakit.core.anticollapse import VICRegConfig
from jepakit.errors import UserError
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.modalities.images.views import ViewConfig
from jepakit.nn.convnet import ConvNet
from jepakit.nn.vit import VisionTransformer
from jepakit.systems.lejepa import LeJEPA, LeJEPAConfig

INPUTS = ImageInputs(image_size=(14, 14), channels=3, mean=(0.5, 0.5, 0.5), std=(0.2, 0.3, 0.4))
EXACT = {"atol": 1e-5, "rtol": 1e-5}


def build(seed=0, **options):
    torch.manual_seed(seed)
    return LeJEPA(LeJEPAConfig(projector=(32, 16), **options), INPUTS, seed)


def samples(ids=range(6), epoch=0):
    def image(i):
        return torch.rand(3, 20, 16, generator=torch.Generator().manual_seed(i))

    return [{"image": image(i), "id": i, "epoch": epoch, "step": 0} for i in ids]


def test_the_batch_it_draws():
    batch = build(augment=ViewConfig(views=4, local_views=2)).collator(0)(samples())
    assert batch["views"].shape == (6, 4, 3, 14, 14)
    assert batch["local_views"].shape == (6, 2, 3, 6, 6)
    assert "label" not in batch
    measured = build(augment=ViewConfig(views=4, local_views=2)).collator(0, views=8)(samples())
    assert measured["views"].shape == (6, 8, 3, 14, 14)
    assert "local_views" not in measured


def test_a_samples_views_are_a_function_of_seed_epoch_and_id_and_survive_pickling():
    collate = pickle.loads(pickle.dumps(build().collator(0)))
    views = collate(samples())["views"]
    torch.testing.assert_close(collate(samples([4, 1]))["views"], views[[4, 1]], **EXACT)
    for other in (collate(samples(epoch=1)), build().collator(1)(samples())):
        assert (other["views"] - views).abs().mean() > 0.1
    assert (views[:, 0] - views[:, 1]).abs().mean() > 0.1


@pytest.mark.parametrize("backbone", ["convnet", "vit"])
def test_step_with_local_views(backbone):
    system = build(backbone=backbone, augment=ViewConfig(views=2, local_views=1))
    assert isinstance(system.network.encoder, ConvNet if backbone == "convnet" else VisionTransformer)
    terms = system.step(system.collator(0)(samples()))
    torch.testing.assert_close(terms["loss"], terms["prediction"] + 5.0 * terms["sigreg"] / 6, **EXACT)  # per sample
    terms["loss"].backward()
    assert {name for name, p in system.named_parameters() if p.grad is None and "pos_embed" not in name} == set()


@pytest.mark.parametrize("anti_collapse", ["none", "vicreg", "barlow", "infonce"])
def test_methods_that_align_views_themselves_come_without_the_prediction(anti_collapse):
    system = build(anti_collapse=anti_collapse)
    terms = system.step(system.collator(0)(samples()))
    assert system.invariance == (1.0 if anti_collapse == "none" else 0.0)
    if anti_collapse == "none":
        torch.testing.assert_close(terms["loss"], terms["prediction"])
    assert torch.isfinite(terms["loss"])


def test_a_copy_learns_without_touching_the_original():
    """Batch statistics too: what the estimate of a run's cost relies on."""
    system = build()
    before = {name: value.clone() for name, value in system.state_dict().items()}
    twin = copy.deepcopy(system)
    optimizer = torch.optim.SGD([p for g in twin.parameter_groups() for p in g["params"]], lr=0.1)
    twin.step(twin.collator(0)(samples()))["loss"].backward()
    optimizer.step()
    assert all(p.grad is None for p in system.parameters())
    for name, value in system.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    changed = [name for name, value in twin.state_dict().items() if not torch.equal(value, before[name])]
    assert any("running_mean" in name for name in changed)
    assert any("conv1.weight" in name for name in changed)


def test_it_learns_on_a_fixed_batch():
    system = build().train()
    batch = system.collator(0)(samples())
    optimizer = torch.optim.AdamW([p for g in system.parameter_groups() for p in g["params"]], lr=1e-3)
    losses = []
    for _ in range(25):
        loss = system.step(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_the_seed_decides_the_initialisation():
    first, again, other = (build(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["network.encoder.stem.weight"], other["network.encoder.stem.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": ViewConfig(views=1)}, "augment.views must be at least 2"),
        ({"vicreg": VICRegConfig(variance=1.0)}, "would do nothing"),
        ({"invariance": -1.0}, "invariance must be at least 0"),
        ({"size": "big"}, "size"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)
