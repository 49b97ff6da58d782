import gc
import math
import os
import statistics

import numpy as np
import pytest
import torch
from benchmarks.timing import resident

import jepakit
from jepakit.core.dynamics import Dynamics
from jepakit.core.state import State
from jepakit.errors import UserError
from jepakit.interop.encoder import PretrainedEncoder
from jepakit.interop.load import load
from jepakit.modalities.graphs.inputs import GraphInputs
from jepakit.modalities.images.inputs import ImageInputs
from jepakit.modalities.modality import Inputs, Modality
from jepakit.modalities.texts.inputs import SPECIAL, TEXTS, TextInputs
from jepakit.modalities.trajectories.inputs import TrajectoryInputs
from jepakit.modalities.video.inputs import VIDEO, VideoInputs
from jepakit.nn.language_model import LanguageModelConfig
from jepakit.nn.tokens import Tokens
from jepakit.nn.video_transformer import VideoTransformer, VideoTransformerConfig
from jepakit.nn.vit import VisionTransformer, ViTConfig
from jepakit.streaming.stream import REMEMBERED, stream
from jepakit.systems.lewm import LeWM, LeWMConfig
from jepakit.systems.llm_jepa import TextEncoder
from jepakit.systems.v_jepa_2_ac import VJEPA2AC, VJEPA2ACConfig
from tests.tiny_systems import TINY, tiny_trainer

# What was worked out for one frame alone and what was worked out for several at once differ by the order of sums.
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
KEYS = {"images": "image", "graphs": "graph", "texts": "text"}
WORDS = tuple("abcdefghijklmnopqrst")


def images(channels=3):
    torch.manual_seed(0)
    encoder = VisionTransformer(ViTConfig(image_size=(8, 8), patch_size=4, channels=channels, dim=24, depth=2, heads=3))
    return PretrainedEncoder(
        encoder, ImageInputs(image_size=(8, 8), channels=channels, mean=(0.4,) * channels, std=(0.2,) * channels)
    )


def video(frames=6, **options):
    torch.manual_seed(0)
    config = VideoTransformerConfig(
        frames=frames, image_size=(8, 8), patch_size=4, channels=1, dim=24, depth=2, heads=2, **options
    )
    inputs = VideoInputs(frames=frames, image_size=(8, 8), channels=1, mean=(0.4,), std=(0.2,))
    return PretrainedEncoder(VideoTransformer(config), inputs, modality=VIDEO)


def texts(predictor_tokens=2, max_length=12):
    torch.manual_seed(0)
    inputs = TextInputs(vocabulary=(*SPECIAL, *WORDS), max_length=max_length)
    language = LanguageModelConfig(vocabulary=len(inputs.vocabulary) + predictor_tokens, dim=16, depth=2, heads=2)
    return PretrainedEncoder(TextEncoder(language, predictor_tokens), inputs, modality=TEXTS)


def world_inputs(shape=(3,), history=3):
    return TrajectoryInputs(
        shape=shape, mean=(0.1,) * shape[0], std=(0.7,) * shape[0], action_mean=(0.2, 0.0), action_std=(1.5, 1.0),
        history=history, horizon=1,
    )  # fmt: skip


def shaken(model):
    """Weights away from where they start, so that every part has its say."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def lewm():
    torch.manual_seed(0)
    return shaken(LeWM(LeWMConfig(embedding=8, projector=(16,)), world_inputs()))


def block_causal(history=4):
    torch.manual_seed(0)
    inputs = world_inputs((3, 8, 8), history)
    return shaken(VJEPA2AC(VJEPA2ACConfig(rollout=0.0), inputs, encoder=images()))


def pixels(count, channels=1, side=8, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, channels, side, side), dtype=np.uint8))


def numbers(count, *shape, seed=0):
    return list(np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32))


def pushed(opened, frames, actions=None):
    """The steps after all frames, those without a state left out."""
    steps = [opened.push(f, *([] if actions is None or n == 0 else [actions[n - 1]])) for n, f in enumerate(frames)]
    return [step for step in steps if step is not None]


def same(found, expected, **tolerance):
    assert len(found) == len(expected) > 0
    for step, offline in zip(found, expected, strict=True):
        if tolerance:
            torch.testing.assert_close(step.embedding, offline, **tolerance)
        else:
            assert torch.equal(step.embedding, offline)


def steps_of(system, dataset, count=7):
    """What one would push of a system's data, and the actions between."""
    name = system.modality.name
    if name in KEYS:
        return [dataset[n][KEYS[name]] for n in range(count)], None
    if name == "video":
        return [frame for n in range(2) for frame in dataset[n]["clip"]], None
    samples = [dataset[n] for n in range(count)]
    return [sample["observations"][-1] for sample in samples], [sample["actions"][0] for sample in samples[1:]]


@pytest.mark.parametrize("name", TINY)
def test_a_stream_of_any_system_says_what_its_run_says_offline(name, tmp_path):
    """Of the encoder, and of a world model too, as a path and loaded; nothing is changed by looking at it offline."""
    trainer = tiny_trainer(name, tmp_path / "run", precision="float32")
    trainer.folder.save_model(trainer.system)
    frames, actions = steps_of(trainer.system, trainer.dataset)
    opened = jepakit.stream(load(tmp_path / "run"))
    found = pushed(opened, frames)
    same(found, opened.offline(frames), **(CLOSE if opened.kind == "incremental" else {}))
    assert opened.latency.states == len(found)
    if isinstance(trainer.system, Dynamics):
        opened = jepakit.stream(tmp_path / "run")
        found = pushed(opened, frames, actions)
        same(found, opened.offline(frames, actions), **CLOSE)
        assert isinstance(opened.model.predict(found[-1].state, torch.zeros(1, opened.model.inputs.action)), State)


@pytest.mark.parametrize("pooled", [True, False])
def test_images_are_encoded_each_by_itself(pooled):
    model, opened = images(), stream(images(), pooled=pooled)
    assert opened.kind == "each"
    for number, frame in enumerate([*pixels(2, 3), *pixels(1, 3, side=11)]):
        step = opened.push(frame)
        tokens = model(model.inputs.prepare([{"image": torch.from_numpy(frame)}]))
        assert torch.equal(step.embedding, tokens.mean()[0] if pooled else tokens.values[0])
        assert (step.frame, step.state) == (number, None)
    assert opened.held == 0


@pytest.mark.parametrize("options", [{}, {"positions": "tiled"}], ids=["fixed", "rotary"])
@pytest.mark.parametrize("side", [8, 13], ids=["of its size", "resized"])
def test_clips_are_encoded_in_windows(options, side, capsys):
    model, frames = video(**options), pixels(15, side=side)
    opened = stream(model)
    assert opened.kind == "window"
    assert "a window of 6 frames is encoded anew" in capsys.readouterr().err
    answers = [opened.push(frame) for frame in frames]
    assert [n for n, step in enumerate(answers) if step is not None] == [1, 3, 5, 7, 9, 11, 13]
    found = [step for step in answers if step is not None]
    same(found, opened.offline(frames))
    for step in found:
        last = min(step.frame + 1, 6)
        clip = torch.from_numpy(np.stack(frames[step.frame + 1 - last : step.frame + 1]))
        assert torch.equal(step.embedding, model.embed(model.inputs.prepare([{"clip": clip}]))[0])
    assert not capsys.readouterr().err  # it is said once


def test_a_clips_window_and_how_often_it_is_read_are_chosen():
    frames = pixels(9)
    opened = stream(video(positions="paired"), window=8, every=3)
    answers = [opened.push(frame) for frame in frames]
    assert [step is not None for step in answers] == [False, False, True] * 3
    same([step for step in answers if step is not None], opened.offline(frames))
    every_frame = stream(video(), every=1)
    answers = [every_frame.push(frame) for frame in frames]
    assert answers[0] is None  # no whole tubelet
    assert all(step is not None for step in answers[1:])
    for window, message in ((5, "tubelets of 2. Use 4"), (8, "at most 6 frames"), (0, "at least 1")):
        with pytest.raises(UserError, match=message):
            stream(video(), window=window)
    with pytest.raises(UserError, match="every must be at least 1"):
        stream(video(), every=0)
    with pytest.raises(UserError, match="one by one"):
        stream(images(), window=4)


def test_a_window_of_one_frame_is_a_still_where_the_encoder_reads_those():
    model, frames = video(stills=True), pixels(3)
    opened = stream(model, window=1)
    same(pushed(opened, frames), [model.embed(model.inputs.prepare([{"clip": torch.from_numpy(f)[None]}]))[0] for f in frames])
    with pytest.raises(UserError, match="tubelets of 2"):
        stream(video(), window=1)


class WholeClips(torch.nn.Module):
    """An encoder of clips of which nothing else is known."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(6 * 64, 5)

    def forward(self, clips):
        return Tokens(self.layer(clips.flatten(1))[:, None], torch.zeros(len(clips), 1, 1))


def test_an_unknown_encoder_of_clips_waits_until_its_window_is_full():
    opened, frames = stream(PretrainedEncoder(WholeClips(), video().inputs, modality=VIDEO)), pixels(8)
    answers = [opened.push(frame) for frame in frames]
    assert [step is not None for step in answers] == [False] * 5 + [True] * 3
    same(answers[5:], opened.offline(frames))
    with pytest.raises(UserError, match="clips of 6 frames"):
        stream(opened.model, window=4)


@pytest.mark.parametrize("predictor_tokens", [0, 1, 3])
def test_words_are_read_once(predictor_tokens, monkeypatch, capsys):
    """The embedding after each piece is that of the text so far; no word before the new one is worked out again."""
    model = texts(predictor_tokens)
    opened, pieces = stream(model), ["a", "b c", "d", "unheard of", "e"]
    sizes, original = [], model.encoder.model.extend
    monkeypatch.setattr(model.encoder.model, "extend", lambda new, past: (sizes.append(new.shape[1]), original(new, past))[1])
    found = pushed(opened, pieces)
    assert sizes == [count + predictor_tokens for count in (1, 2, 1, 2, 1)]
    same(found, opened.offline(pieces), **CLOSE)
    for number, step in enumerate(found):
        whole = model.inputs.prepare([{"text": " ".join(pieces[: number + 1])}])
        torch.testing.assert_close(step.embedding, model.embed(whole)[0], **CLOSE)
    assert opened.kind == "incremental"
    assert not capsys.readouterr().err


def test_a_text_beyond_the_window_slides(capsys):
    model, pieces = texts(max_length=5), list(WORDS[:9])
    opened = stream(model)
    found = pushed(opened, pieces)
    same(found, opened.offline(pieces), **CLOSE)
    last = model.embed(model.inputs.prepare([{"text": " ".join(pieces[-5:])}]))[0]
    assert torch.equal(found[-1].embedding, last)
    assert opened.kind == "window"
    assert "the last 5 are read anew" in capsys.readouterr().err
    opened.reset()
    assert opened.kind == "incremental"
    same(pushed(opened, pieces[:3]), [step.embedding for step in found[:3]])
    many = stream(model, every=4)
    same(pushed(many, pieces), many.offline(pieces), **CLOSE)


def test_a_causal_language_model_goes_on_where_it_stopped():
    language = shaken(texts().encoder.model)
    ids = torch.randint(0, 20, (3, 9), generator=torch.Generator().manual_seed(0))
    whole = language(ids, torch.zeros_like(ids))
    past, parts = (), []
    for part in ids.split([4, 1, 3, 1], dim=1):
        hidden, past = language.extend(part, past)
        parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, **CLOSE)
    torch.testing.assert_close(language.double().extend(ids)[0], language(ids, torch.zeros_like(ids)), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("length", [2, 8])
def test_a_world_model_encodes_each_observation_once(length, monkeypatch):
    """Its state is the one it has after observing everything, however long ago it began, and it can be planned from."""
    model, seen, done = lewm(), numbers(length, 3), numbers(length - 1, 2, seed=1)
    opened = stream(model)
    assert (opened.kind, opened.window) == ("incremental", 3)
    sizes = []
    handle = model.encoder.encoder.register_forward_hook(lambda module, inputs, out: sizes.append(len(inputs[0])))
    found = pushed(opened, seen, done)
    assert sizes == [1] * length
    handle.remove()
    same(found, opened.offline(seen, done), **CLOSE)
    history = model.inputs.windows([{"observations": torch.tensor(np.stack(seen)), "actions": torch.tensor(np.stack(done))}])
    whole = model.observe(history)
    ahead = torch.randn(1, 2, 2)
    torch.testing.assert_close(
        model.rollout(found[-1].state, ahead).embeddings, model.rollout(whole, ahead).embeddings, **CLOSE
    )
    assert opened.kind == "incremental"


@pytest.mark.parametrize("window", [1, 2, None, 6])
def test_keys_and_values_of_a_world_model_are_kept_until_its_window_slides(window, capsys):
    model, seen, done = block_causal(), pixels(9, 3), numbers(8, 2)
    opened = stream(model, window=window, pooled=False)
    assert opened.window == (4 if window is None else window)
    filled = pushed(opened, seen[: opened.window], done)
    assert opened.kind == "incremental"
    assert not capsys.readouterr().err
    rest = [opened.push(seen[n], done[n - 1]) for n in range(opened.window, 9)]
    same([*filled, *rest], opened.offline(seen, done), **CLOSE)
    window, between = np.stack(seen[-opened.window :]), np.reshape(done[9 - opened.window :], (-1, 2))
    last = model.inputs.windows([{"observations": torch.tensor(window), "actions": torch.tensor(between)}])
    for state in (rest[-1].state, filled[-1].state):
        assert torch.equal(model.embedding(state)[0], (rest if state is rest[-1].state else filled)[-1].embedding)
    ahead = torch.randn(1, 2, 2)
    expected = model.rollout(model.observe(last), ahead).embeddings
    torch.testing.assert_close(model.rollout(rest[-1].state, ahead).embeddings, expected, **CLOSE)
    alone = opened.window == 1
    assert opened.kind == ("incremental" if alone else "window")
    assert ("reads the embeddings" in capsys.readouterr().err) != alone


class Two(torch.nn.Module):
    """A predictor that sees two observations and that nobody knows."""

    def begin(self, embeddings, actions, lengths=None):
        return embeddings[:, -2:].mean(1) + actions.sum((1, 2))[:, None]

    def embedding(self, state):
        return state


class SeesBack(torch.nn.Module):
    """An encoder of windows whose embeddings depend on what came before."""

    def forward(self, inputs):
        return Tokens(inputs.cumsum(1), torch.zeros(*inputs.shape[:2], 1))


@pytest.mark.parametrize("part", ["predictor", "encoder"])
def test_what_nobody_knows_is_worked_out_anew(part):
    model = lewm()
    setattr(model, part, Two() if part == "predictor" else SeesBack())
    if part == "encoder":
        model.predictor = Two()
    model.register_parameter("somewhere", torch.nn.Parameter(torch.zeros(1)))
    seen, done = numbers(6, 3), numbers(5, 2)
    opened = stream(model)
    assert (opened.kind, opened.window) == ("window", 3)
    same(pushed(opened, seen, done), opened.offline(seen, done), **CLOSE)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((8, 8), np.uint8), r"got \[8, 8\]. Give one frame at a time"),
        (np.zeros((8, 8, 3), np.uint8), r"\(2, 0, 1\)"),
        (np.zeros((1, 8, 8), np.uint8), "Convert it to 3 channels first"),
        (np.zeros((1, 3, 8, 8), np.uint8), "one frame at a time"),
        (np.zeros((3, 0, 8), np.uint8), r"\[3, 0, 8\]"),
        (np.zeros((3, 8, 8), np.int64), "uint8, or floats"),
        (np.full((3, 8, 8), np.nan, np.float32), "NaN"),
        (np.full((3, 8, 8), 255.0, np.float32), "Divide by 255"),
        (np.full((3, 8, 8), -0.5), r"lie in \[0, 1\]"),
        (np.array(["a"]), "Convert them"),
        ([[0.0]], "numpy.asarray"),
        ("photo.png", "numpy.asarray"),
    ],
)
def test_a_frame_that_does_not_fit_is_named_and_left_out(frame, message):
    opened, (good,) = stream(images()), pixels(1, 3)
    before = opened.push(good).embedding
    with pytest.raises(UserError, match=message):
        opened.push(frame)
    assert opened.frames == 1
    step = opened.push(good)
    assert torch.equal(step.embedding, before)
    assert step.frame == 1


def test_float64_frames_and_camera_buffers_are_read():
    opened = stream(video())
    buffer, frames = np.zeros((1, 8, 8)), np.random.default_rng(0).random((6, 1, 8, 8))
    answers = []
    for frame in frames:
        buffer[:] = frame
        answers.append(opened.push(buffer))
    same([step for step in answers if step is not None], opened.offline(list(frames)))
    grey = r"Add the axis of the channel: frame\[None\]"
    with pytest.raises(UserError, match=grey):
        opened.push(np.zeros((8, 8)))


def test_the_frames_of_a_clip_are_alike():
    opened = stream(video())
    opened.push(pixels(1)[0])
    for other in (pixels(1, side=9)[0], np.zeros((1, 8, 8), np.float32)):
        with pytest.raises(UserError, match=r"alike.*reset\(\)"):
            opened.push(other)
    opened.reset()
    assert opened.push(np.zeros((1, 8, 8), np.float32)) is None
    assert opened.frames == 1


def test_what_was_done_is_told_of_every_step_but_the_first():
    opened, seen, (done,) = stream(lewm()), numbers(2, 3), numbers(1, 2)
    with pytest.raises(UserError, match="before the first observation"):
        opened.push(seen[0], done)
    opened.push(seen[0])
    for action, message in (
        (None, "what was done"), (done[:1], "2 numbers"), (done * np.nan, "NaN"), ("left", "numpy.asarray"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            opened.push(seen[1], action)
    for observation, message in ((seen[1][:2], r"shape \[3\]"), (seen[1] * np.inf, "infinite"), ([0.0], "numpy.asarray")):
        with pytest.raises(UserError, match=message):
            opened.push(observation, done)
    assert opened.frames == 1
    opened.push(seen[1], done)
    with pytest.raises(UserError, match="sees no actions"):
        stream(images()).push(pixels(1, 3)[0], done)
    with pytest.raises(UserError, match="2 frames of this stream have 1 actions"):
        opened.offline(seen, [done, done])
    with pytest.raises(UserError, match="have 0 actions"):
        stream(images()).offline(pixels(2, 3), [done])


@pytest.mark.parametrize("piece", ["", " ", 3, ["a"]])
def test_a_piece_of_text_has_words(piece):
    with pytest.raises(UserError, match="at least one word"):
        stream(texts()).push(piece)


@pytest.mark.parametrize("model", [torch.nn.Linear(1, 1), None, 3])
def test_what_cannot_be_streamed_is_named(model):
    with pytest.raises(UserError, match="stream takes a run folder"):
        stream(model)


def test_a_model_in_training_is_refused(tmp_path):
    for model in (images(), lewm()):
        with pytest.raises(UserError, match="training mode"):
            stream(model.train())
    with pytest.raises(UserError, match="nothing"):
        stream(tmp_path / "nothing")


def test_a_modality_of_elsewhere_takes_its_own_samples():
    class Sums(Inputs):
        def prepare(self, samples):
            return torch.stack([sample["numbers"] for sample in samples])

    class Sum(WholeClips):
        def forward(self, numbers):
            return Tokens(numbers.sum(1)[:, None, None], torch.zeros(len(numbers), 1, 1))

    opened = stream(PretrainedEncoder(Sum(), Sums(), modality=Modality("sums", dict, Sums, open, Sums)))
    assert opened.push({"numbers": torch.arange(4.0)}).embedding.item() == 6
    with pytest.raises(UserError, match="a sample, a dict, got Tensor"):
        opened.push(torch.arange(4.0))


def test_graphs_are_asked_for():
    model = images()
    model.inputs = GraphInputs(
        node_labels=(0,), edge_labels=(0,), attribute_mean=(), attribute_std=(), parts=2, partition="greedy", walk=2
    )
    with pytest.raises(UserError, match="Graph, got ndarray"):
        stream(model).push(pixels(1)[0])


def test_embeddings_are_ordinary_tensors():
    step = stream(images()).push(pixels(1, 3)[0])
    probe = torch.nn.Linear(24, 2)
    probe(step.embedding).sum().backward()  # an inference tensor would refuse
    state = stream(lewm()).push(numbers(1, 3)[0]).state
    action = torch.zeros(1, 2, requires_grad=True)
    model = lewm()
    model.embedding(model.predict(state, action)).sum().backward()
    assert action.grad is not None


def test_latencies_are_those_of_the_states(monkeypatch):
    opened = stream(video(), every=4)
    with pytest.raises(UserError, match="no state yet"):
        opened.latency.p50  # noqa: B018
    milliseconds = [step.milliseconds for step in pushed(opened, pixels(40))]
    found = opened.latency
    assert found.states == len(milliseconds) == 10
    assert found.p50 == pytest.approx(statistics.median(milliseconds))
    assert found.longest == max(milliseconds)
    assert 0 < found.p50 <= found.p99 <= found.longest
    assert "p50" in str(found)
    assert "p99" in str(found)
    opened.reset()
    with pytest.raises(UserError, match="no state yet"):
        opened.latency.p50  # noqa: B018
    assert "a state every 4 frames; 0 frames so far" in repr(opened)


def test_the_latencies_of_long_ago_are_forgotten(monkeypatch):
    monkeypatch.setattr("jepakit.streaming.stream.REMEMBERED", 5)
    opened = stream(images())
    milliseconds = [step.milliseconds for step in pushed(opened, pixels(8, 3))]
    assert opened.latency.states == 5
    assert opened.latency.longest == max(milliseconds[-5:])


FRAMES = int(os.environ.get("JEPAKIT_FRAMES", "500"))
STREAMS = {
    "images": lambda: (stream(images()), pixels(1, 3)[0], None),
    "video": lambda: (stream(video()), pixels(1)[0], None),
    "world": lambda: (stream(lewm()), numbers(1, 3)[0], numbers(1, 2)[0]),
    "sliding world": lambda: (stream(block_causal()), pixels(1, 3)[0], numbers(1, 2)[0]),
    "sliding text": lambda: (stream(texts()), "a b", None),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_memory_does_not_grow(kind):
    """Neither what is held, nor Python's objects, nor what the process has of the machine's memory."""
    frames = FRAMES
    opened, frame, action = STREAMS[kind]()
    held, objects, memory = set(), [], []
    for number in range(frames):
        opened.push(frame, action if number else None)
        if number >= frames // 4:
            held.add(opened.held)
        if number in (frames // 4, frames - 1):
            gc.collect()
            objects.append(len(gc.get_objects()))
            memory.append(resident())
    assert opened.frames == frames
    assert opened.latency.states == min(frames // opened.every, REMEMBERED)
    assert len(held) == 1
    assert abs(objects[1] - objects[0]) < 200
    assert memory[1] - memory[0] < 2**22  # the least leak there could be, of a frame of 64 floats, is 2 MB over 10,000
    assert math.isfinite(opened.latency.p99)
