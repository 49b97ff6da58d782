"""MC-JEPA: the loss of a plain loop, flows that are right and wrong, what learns from what, and the run from end to end."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

import jepakit
from jepakit.config import default_config
from jepakit.core.anticollapse import VICReg, VICRegConfig
from jepakit.errors import UserError
from jepakit.evaluation.flow_error import end_point_error
from jepakit.modalities.video.inputs import VideoInputs
from jepakit.nn.flow import FlowConfig, FlowPredictor, image_pyramid
from jepakit.nn.pyramid import FeatureMap
from jepakit.systems.mc_jepa import MCJEPA, MCJEPAConfig, MotionConfig

INPUTS = VideoInputs(frames=3, image_size=(16, 16), channels=1, mean=(0.4,), std=(0.3,))
STILLS = replace(INPUTS, stills=True)
EXACT = {"atol": 1e-5, "rtol": 1e-4}
ALL = {"reconstruction": 1.0, "regression": 0.3, "smoothness": 0.2, "cycle": 0.4, "variance": 0.5, "covariance": 0.6}
ONE = dict.fromkeys(ALL, 0.0)


def build(inputs=INPUTS, **options):
    torch.manual_seed(0)
    return MCJEPA(MCJEPAConfig(**{"projector": (16, 8), "finest": 1, **options}), inputs)


def samples(clips=range(3), stills=()):
    def sample(i, frames, **more):
        clip = torch.rand(frames, 1, 16, 16, generator=torch.Generator().manual_seed(100 * frames + i))
        return {"clip": clip, "id": i, "epoch": 0, "step": 4, "progress": 0.5, **more}

    return [sample(i, 3) for i in clips] + [sample(i, 1, stream="image") for i in stills]


class Given(FlowPredictor):
    """A flow predictor that says what it was told: flows of both directions, in pixels, (down, right)."""

    def __init__(self, forth, back):
        super().__init__(FlowConfig(), (), ())
        self.forth, self.back = forth, back

    def forward(self, first, second):
        def everywhere(level):
            one = torch.stack([self.forth, self.back]).repeat_interleave(len(level.values) // 2, 0)
            return FeatureMap(one[:, :, None, None].expand(-1, -1, *level.grid).to(level.values), level.stride)

        return [everywhere(level) for level in first]


def read(values, places):
    """Bilinear reading of `[dim, rows, columns]` at `[rows, columns, 2]` by scipy, the edge repeated."""
    where = np.moveaxis(places, -1, 0)
    return np.stack([map_coordinates(one, where, order=1, mode="nearest") for one in values])


def plain_terms(system, frames):
    """Every term from its formula: pair by pair, direction by direction, level by level, in numpy."""
    terms, config, sums = {}, system.config.terms, {}
    with torch.no_grad():
        pictures = INPUTS.unit(frames)
        pyramids = [system.encoder(frames[:, :, t], levels=system.levels) for t in (0, 1)]
        shown = [image_pyramid(pictures[:, :, t], system.levels[-1]) for t in (0, 1)]
        flows = [system.predictor(pyramids[t], pyramids[1 - t]) for t in (0, 1)]

    def add(name, level, values, valid):
        sums.setdefault(name, {}).setdefault(level, []).extend(values[valid].tolist())

    for number in range(len(frames)):
        for t in (0, 1):
            for level in range(len(system.levels)):
                stride = 2 ** system.levels[level]
                ours, theirs = (pyramids[k][level].values[number].numpy() for k in (t, 1 - t))
                flow, back = (flows[k][level].values[number].numpy() / stride for k in (t, 1 - t))
                cells = np.stack(np.mgrid[0 : ours.shape[1], 0 : ours.shape[2]], -1)
                last = np.array(ours.shape[1:]) - 1
                there = cells + np.moveaxis(flow, 0, -1)
                valid = ((there >= 0) & (there <= last)).all(-1)
                add("regression", level, ((ours - read(theirs, there)) ** 2).mean(0), valid)
                mine, other = (shown[k][system.levels[level]].values[number].numpy() for k in (t, 1 - t))
                add("reconstruction", level, np.abs(mine - read(other, there)).mean(0), valid)
                home = cells + np.moveaxis(back, 0, -1)
                returns = ((home >= 0) & (home <= last)).all(-1).astype(float)
                around = valid & (read(returns[None], there)[0] > 0.99)
                add("cycle", level, ((ours - read(read(ours, home), there)) ** 2).mean(0), around)
                for axis in (1, 2):
                    edge = np.exp(-config.edges * np.abs(np.diff(mine, axis=axis)).mean(0))
                    bend = edge * np.abs(np.diff(flow, axis=axis)).mean(0)
                    add(f"smoothness{axis}", level, bend, np.ones_like(bend, dtype=bool))
            fine = np.stack(np.mgrid[0:16, 0:16], -1)
            coarse = flows[t][0].values[number].numpy()
            there = fine + np.moveaxis(read(coarse, fine / 2), 0, -1)
            mine, other = (pictures[number, :, k].numpy() for k in (t, 1 - t))
            valid = ((there >= 0) & (there <= 15)).all(-1)
            add("reconstruction", "full", np.abs(mine - read(other, there)).mean(0), valid)
    for name, levels in sums.items():
        terms[name] = np.mean([np.mean(values) if values else 0.0 for values in levels.values()])
    terms["smoothness"] = (terms.pop("smoothness1") + terms.pop("smoothness2")) / 2
    variance, covariance = [], []
    for level in range(len(system.levels)):
        cells = torch.cat([pyramids[t][level].values for t in (0, 1)]).movedim(1, -1).flatten(0, 2).double()
        found = torch.cov(cells.T)
        variance.append(float(torch.relu(1 - (found.diagonal() + 1e-4).sqrt()).mean()))
        covariance.append(float((found.square().sum() - found.diagonal().square().sum()) / len(found)))
    return {**terms, "variance": np.mean(variance), "covariance": np.mean(covariance)}


def test_the_loss_is_that_of_a_plain_loop():
    system = build(terms=MotionConfig(**ALL))
    with torch.no_grad():
        system.predictor.network[-1].weight.mul_(8)  # flows of some cells, so that some leave
    batch = system.collator(0)(samples())
    terms = {name: float(term.detach()) for name, term in system.step(batch).items()}
    expected = plain_terms(system, batch["frames"])
    assert set(terms) == {"loss", *expected}
    for name, value in expected.items():
        assert terms[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert terms["loss"] == pytest.approx(sum(ALL[name] * value for name, value in expected.items()), rel=1e-4)
    assert expected["smoothness"] > 0
    assert expected["cycle"] > 0


@pytest.mark.parametrize("name", ALL)
def test_a_term_of_weight_zero_is_off(name):
    needed = {} if name in ("reconstruction", "regression") else {"reconstruction": 0.0, "regression": 1e-9}
    weights = {**ONE, **needed, name: 1.0}
    system = build(terms=MotionConfig(**weights))
    terms = system.step(system.collator(0)(samples()))
    on = {key for key, weight in weights.items() if weight > 0}
    together = {"variance", "covariance"}  # one module gives both
    assert set(terms) - {"loss"} == (on | together if on & together else on)
    torch.testing.assert_close(terms["loss"], terms[name], **EXACT)


def test_a_right_flow_costs_nothing_and_a_wrong_one_does():
    """A picture that moved by a whole number of the coarsest cells, on an encoder that sees single pixels only."""
    wide = replace(INPUTS, image_size=(32, 32))
    system = build(wide, terms=MotionConfig(**{**ONE, "reconstruction": 1.0, "regression": 1.0, "cycle": 1.0}), finest=0)
    pixels = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    flat = pixels.repeat_interleave(8, 2).repeat_interleave(8, 3)[:, :, :40, :40]
    frames = torch.stack([flat[:, :, :32, :32], flat[:, :, 8:, 8:]], dim=2)  # what was at (8, 8) is at (0, 0)

    class Pixels(torch.nn.Module):
        def forward(self, images, levels):
            return [FeatureMap(images[:, :, :: 2**level, :: 2**level], 2**level) for level in levels]

    system.encoder = Pixels()
    shift = torch.tensor([-8.0, -8.0])
    batch = {"frames": wide.normalise(frames.transpose(1, 2)).transpose(1, 2), "step": torch.tensor(0)}

    def cost(forth, back):
        system.predictor = Given(forth, back)
        return {name: float(term.detach()) for name, term in system.step(batch).items()}

    right, swapped, halved = cost(shift, -shift), cost(-shift, shift), cost(shift / 2, -shift / 2)
    assert right["regression"] < 1e-9
    assert right["cycle"] < 1e-9
    assert right["reconstruction"] < 0.05  # blurred levels see beyond the edge
    for wrong in (swapped, halved):
        assert wrong["regression"] > 0.1
        assert wrong["reconstruction"] > 2 * right["reconstruction"]
    assert cost(shift, shift)["cycle"] > 0.1  # there and back is not where it was


def test_every_parameter_learns_and_from_the_right_stream():
    system = build(STILLS, terms=MotionConfig(**ALL))
    batch = system.collator(0)(samples(stills=range(6)))
    system.step(batch)["loss"].backward()
    assert [name for name, p in system.named_parameters() if p.grad is None or not p.grad.any()] == []
    system.zero_grad()
    without = build(STILLS, motion=0.0)
    without.step(batch)["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in without.parameters())
    assert without.predictor is None
    alone = build(terms=MotionConfig(**ALL))
    alone.step(alone.collator(0)(samples()))["loss"].backward()
    assert alone.expander is None
    assert [name for name, p in alone.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_step_is_the_sum_of_its_streams():
    system = build(STILLS, motion=0.5, content=0.2).eval()
    batch = system.collator(0)(samples(stills=range(6)))
    terms = system.step(batch)
    embedded = [system.expander(system.encoder(view).mean()) for view in batch["image"]["views"].unbind(1)]
    content = VICReg(VICRegConfig())(torch.stack(embedded), 0)["loss"]
    weights = system.config.terms
    motion = sum(getattr(weights, name) * term for name, term in terms.items() if "/" not in name and name != "loss")
    torch.testing.assert_close(terms["loss"], 0.5 * motion + 0.2 * content, **EXACT)
    assert {name for name in terms if "/" in name} == {"content/variance", "content/covariance", "content/invariance"}


@torch.no_grad()
def test_a_process_without_stills_takes_part_with_all_parameters():
    system = build(STILLS)
    embedded = system.eval()._embed(system.collator(0)(samples())["image"]["views"])
    assert embedded.shape == (0, 2, 8)


def test_variance_and_covariance_are_those_of_cells_of_all_pictures():
    """Two pictures of one value each: no cell differs from its neighbours, and yet the features vary."""
    system = build(terms=MotionConfig(**{**ONE, "regression": 1e-9, "variance": 1.0}))
    even = torch.tensor([-3.0, 3.0]).reshape(2, 1, 1, 1, 1).expand(2, 1, 2, 16, 16)
    two = system.step({"frames": even, "step": torch.tensor(0)})["variance"]
    same = system.step({"frames": even[:1].expand(2, -1, -1, -1, -1), "step": torch.tensor(0)})["variance"]
    assert two < same


def test_it_finds_the_shifts_of_pairs_and_flow_has_their_signs():
    """A short training on moving textures: right is the first number of a flow, down the second."""
    wide = replace(INPUTS, image_size=(32, 32))
    system = build(wide)
    textures = torch.rand(4, 1, 14, 14, generator=torch.Generator().manual_seed(1))
    textures = torch.nn.functional.interpolate(textures, size=(48, 48), mode="bicubic").clamp(0, 1)
    shifts = torch.tensor([[-3, 2], [0, 3], [2, -1], [3, 2]])  # right, down
    places = [(slice(8 - int(down), 40 - int(down)), slice(8 - int(right), 40 - int(right))) for right, down in shifts]
    seconds = [texture[:, rows, columns] for texture, (rows, columns) in zip(textures, places, strict=True)]
    frames = wide.normalise(torch.stack([textures[:, :, 8:40, 8:40], torch.stack(seconds)], dim=1)).transpose(1, 2)
    known = shifts.float()[:, :, None, None].expand(4, 2, 32, 32)
    optimiser = torch.optim.Adam(system.parameters(), lr=2e-3)
    for _ in range(25):
        optimiser.zero_grad()
        system.step({"frames": frames, "step": torch.tensor(0)})["loss"].backward()
        optimiser.step()
    flow = system.flow(frames[:, :, 0], frames[:, :, 1]).detach()
    assert flow.shape == (4, 2, 32, 32)
    assert end_point_error(flow, known)[:, 4:-4, 4:-4].mean() < 0.25 * known.square().sum(1).sqrt().mean()


@pytest.mark.parametrize(("inputs", "options"), [(INPUTS, {}), (STILLS, {}), (STILLS, {"motion": 0.0})])
@torch.no_grad()
def test_what_health_asks_for(inputs, options):
    system = build(inputs, **options).eval()
    batch = system.collator(0, views=3)(samples(range(8)))
    assert system.views(batch).shape == (8, 3, 128)
    matching, shuffled = (system.energy(batch, torch.arange(8).roll(by)) for by in (0, 1))
    assert matching.shape == (8,)
    if inputs.stills:
        first, second = (system.expander(system.encoder(batch["views"][:, view]).mean()) for view in (0, 1))
        torch.testing.assert_close(shuffled, (first - second.roll(1, 0)).square().mean(1), **EXACT)
    else:
        assert matching.mean() < shuffled.mean()
    tokens = system.encode(INPUTS.prepare(samples(range(8))))
    assert tokens.values.shape == (8, 3 * 4 * 4, 128)


@pytest.mark.parametrize(
    ("options", "inputs", "message"),
    [
        ({"size": "nanno"}, INPUTS, "Did you mean 'nano'"),
        ({"finest": -1}, INPUTS, "finest must be at least 0"),
        ({"finest": 3}, INPUTS, "finest must be at least 0 and at most 2"),
        ({"motion": 0.0}, INPUTS, "nothing is left to learn"),
        ({"content": 0.0}, STILLS, "--stills none"),
        ({"content": -1.0}, STILLS, "content must be at least 0"),
        ({"projector": ()}, STILLS, "projector"),
        ({"still_size": (2, 8)}, STILLS, "still_size must be at least 4"),
    ],
)
def test_mistakes(options, inputs, message):
    with pytest.raises(UserError, match=message):
        build(inputs, **options)


def test_terms_that_tell_no_flow_from_another_are_refused():
    with pytest.raises(UserError, match="--motion 0"):
        MotionConfig(reconstruction=0.0, regression=0.0)
    with pytest.raises(UserError, match=r"terms.cycle must be at least 0"):
        MotionConfig(cycle=-0.1)


def test_a_rate_takes_the_place_of_the_stride_of_the_recipe():
    config = default_config("mc-jepa", "videos")
    assert (config.dataset.stride, config.dataset.fps) == (1, None)
    rated = config.override(fps=8.0).dataset
    assert (rated.stride, rated.fps) == (None, 8.0)
    with pytest.raises(UserError, match="fps or stride, not both"):
        config.override(fps=8.0, stride=2)


def test_from_data_to_flow(tmp_path):
    """Pretrain on clips beside a folder's pictures, load, find a flow; content alone has none."""
    options = {"steps": 2, "batch_size": 4, "limit": 40, "health_samples": 8, "lidar_views": 2, "threads": 1, "device": "cpu"}
    small = {"image_size": (16, 16), "projector": (16, 8), "still_size": (8, 8), "stills": "digits"}
    jepakit.pretrain("mc-jepa", data="moving-photographs", out=tmp_path / "run", **options, **small)
    model = jepakit.load(tmp_path / "run")
    clip = model.inputs.prepare([{"clip": torch.rand(2, 3, 16, 16)}])
    assert model(clip).values.shape == (1, 2 * 16, 128)
    assert model.embed(clip).shape == (1, 128)
    assert model.flow(clip[:, :, 0], clip[:, :, 1]).shape == (1, 2, 16, 16)
    exported = jepakit.load(model.save_pretrained(tmp_path / "exported"))
    torch.testing.assert_close(exported(clip).values, model(clip).values)
    jepakit.pretrain("mc-jepa", data="bouncing-digits", out=tmp_path / "content", **options, **small, motion=0.0, labels="none")
    for without in (exported, jepakit.load(tmp_path / "content")):
        with pytest.raises(UserError, match="finds no flow"):
            without.flow(clip[:, :, 0], clip[:, :, 1])
