"""What version 0.1.0 wrote opens in this one, with the same numbers.

`tests/fixtures/written_by_0_1` holds small runs, exports, stores, shards and evaluations of that version, and what it found in
them: `expected.safetensors` and `expected.json`. Weights, stores, shards, fingerprints and configs must be the same to the bit
on every machine. What is worked out (embeddings, training, probes) must be so on the kind of machine that the fixture was
written on, with as many threads and the same torch; elsewhere it may round differently.

Everything goes through `import jepakit` and the names in `jepakit.registry`: modules may move, files may not change.
`tests/fixtures/write_written_by_0_1.py` wrote the folder, with `measure_all` of this module.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

import jepakit
from jepakit import registry
from jepakit.config import read_config, write_config

FIXTURE = Path(__file__).parents[1] / "fixtures" / "written_by_0_1"
MOST_BYTES = 3_000_000

# The size "nano" while the fixture was written: with the true one a single run would be larger than the whole fixture.
SMALL = {"vit": (16, 1, 2, 2.0), "predictor": (12, 1, 2), "convnet": (8, 4, 1)}

NANO = registry.SIZES["nano"]

RUNS = (
    "i-jepa", "i-jepa-of-shards", "lejepa", "v-jepa", "v-jepa-2", "mc-jepa", "graph-jepa", "llm-jepa", "pldm", "lewm",
    "h-jepa", "v-jepa-2-ac", "tuned", "tuned-attentive",
)  # fmt: skip
WORLDS = ("pldm", "lewm", "h-jepa", "v-jepa-2-ac")
CHECKPOINTS = (
    "i-jepa-of-shards", "lejepa", "mc-jepa", "graph-jepa", "llm-jepa", "pldm", "h-jepa", "tuned",
)  # fmt: skip
# Exported folders, and the runs that they are of.
EXPORTS = {
    "images": "i-jepa", "images-of-encoder": "i-jepa-of-shards", "convnet": "lejepa", "video": "v-jepa-2",
    "graphs": "graph-jepa", "tuned": "tuned", "timm": "i-jepa", "transformers": "i-jepa",
}  # fmt: skip
# Built-in data sets and files: modality, options.
DATA: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": ("images", {}), "bouncing-digits": ("video", {}), "noisy-bouncing-digits": ("video", {}),
    "moving-photographs": ("video", {}), "regex": ("texts", {}), "motifs": ("graphs", {}), "mutag": ("graphs", {}),
    "pendulum": ("trajectories", {}), "pendulum-pixels": ("trajectories", {}), "maze-fixed": ("trajectories", {}),
    "shards/pixels": ("images", {}), "shards/files": ("images", {}), "pictures.tar": ("images", {}),
    "clips.npz": ("video", {}), "texts.jsonl": ("texts", {"label_field": "kind"}), "store": ("trajectories", {}),
    "store-of-pixels": ("trajectories", {"history": 1}),
}  # fmt: skip
# Packages of extras without which there is no such data.
NEEDS = {"mutag": "grakel", "pendulum": "gymnasium", "pendulum-pixels": "gymnasium"}
# Data that is worked out in floats: on another kind of machine a pixel may be rounded otherwise, and the fingerprint with it.
ROUNDED = ("bouncing-digits", "noisy-bouncing-digits", "moving-photographs", "pendulum", "pendulum-pixels")
# The data that a run's samples are of, where it is one of these.
READS = {"mc-jepa": "moving-photographs", "lewm": "pendulum", "v-jepa-2-ac": "pendulum-pixels"}
# The run whose data gives the samples of a run, where that is not its own: clips of a file are the same on all machines.
SAMPLED = {"v-jepa-2": "v-jepa"}
STREAMS = ("i-jepa", "v-jepa-2", "graph-jepa", "llm-jepa", "pldm", "lewm")


MODELS = (
    *(f"trained/{name}" for name in RUNS),
    *(f"trained/{name}/checkpoints/step-00000002" for name in CHECKPOINTS),
    *(f"exports/{name}" for name in EXPORTS),
)
# What was embedded and evaluated: model, options.
EMBEDDINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "images": ("trained/i-jepa-of-shards", {"data": "shards/pixels"}),
    "tokens": ("exports/images", {"data": "pictures.tar", "tokens": True}),
}
EVALUATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "images": ("exports/images", {"data": "shards/pixels", "evaluators": ("linear", "knn-3")}),
    "continuation": ("trained/v-jepa", {"evaluators": ("continuation",)}),
}


def machine() -> dict[str, Any]:
    """What decides how numbers are rounded."""
    found = {"system": platform.system(), "architecture": platform.machine()}
    about = Path("/proc/cpuinfo")
    if about.exists():
        lines = (line.partition(":") for line in about.read_text("utf-8").partition("\n\n")[0].splitlines())
        facts = {name.strip(): value.strip() for name, _, value in lines}
        found |= {name: facts.get(name, "") for name in ("vendor_id", "cpu family", "model", "model name", "stepping")}
    return {
        **found,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def digest(value: Any) -> str:
    """Changes with any bit of a tree of arrays, numbers and words."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
        text = f"{array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes()
    elif isinstance(value, dict):
        text = repr([(key, digest(value[key])) for key in sorted(value)]).encode()
    elif isinstance(value, list | tuple):
        text = repr([digest(one) for one in value]).encode()
    elif dataclasses.is_dataclass(value):
        text = digest({f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.compare}).encode()
    else:
        text = repr(value).encode()
    return hashlib.sha256(text).hexdigest()[:16]


def open_data(modality: str, options: dict[str, Any]) -> Any:
    """A data set by its modality's name."""
    kind = registry.load_modality(modality)
    return kind.open(kind.Config(**options), 0)


def measure_data(name: str, keys: list[str] | None = None) -> dict[str, Any]:
    """What is in a data set: of a built-in one the first samples of each part, of files all of them.

    keys: those of a sample that are looked at; None: all.
    """
    modality, options = DATA[name]
    data = open_data(modality, {"data": name, **options})
    most = None if Path(name).exists() else 4
    keys = sorted(data.train[0]) if keys is None else keys
    samples = [[[part[i][key] for key in keys] for i in range(len(part))[:most]] for part in (data.train, data.test)]
    return {
        "fingerprint": data.fingerprint, "sizes": [len(data.train), len(data.test)], "classes": data.classes,
        "task": data.task, "keys": keys, "samples": digest(samples),
        "ids": digest([data.train.ids.astype(np.int64), data.test.ids.astype(np.int64)]),
    }  # fmt: skip


@cache
def load(path: str) -> Any:
    """A model of the current folder."""
    return jepakit.load(path)


def measure_weights(path: str) -> dict[str, str]:
    """The weights that `load` gives, by the part of the model."""
    model = load(path)
    parts = {"default": digest(dict(model.encoder.state_dict()))}
    if path.startswith("trained/"):
        if not run_of(path).startswith("tuned"):
            parts["encoder"] = digest(dict(jepakit.load(path, "encoder").encoder.state_dict()))
        if model.predictor is not None:
            parts["predictor"] = digest(dict(model.predictor.state_dict()))
    parts["expects"] = digest(dataclasses.asdict(model.inputs))
    return parts


@cache
def samples_of(run: str) -> list[dict[str, Any]]:
    """Three held-out samples that a run's encoder can read."""
    data = load(f"trained/{run}").modality.open(read_config(Path("trained", SAMPLED.get(run, run))).dataset, 0)
    return [data.test[number] for number in range(3)]


def run_of(path: str) -> str:
    """The run whose data a model reads: the model's own, or the one that it was exported from."""
    place, name = path.split("/")[:2]
    return EXPORTS[name] if place == "exports" else name


def measure_model(path: str) -> dict[str, Tensor]:
    """Tokens and embeddings of some samples; of a tuned model its answers."""
    model = load(path)
    prepared = model.inputs.prepare(samples_of(run_of(path)))
    with torch.no_grad():
        tokens = model(prepared)
        found = {"tokens": tokens.values, "embeddings": model.embed(prepared)}
        if run_of(path).startswith("tuned"):
            found["answers"] = model.predict(prepared).values
        if path == "trained/mc-jepa":
            found["flow"] = model.flow(prepared[:, :, 0], prepared[:, :, 1])
    return found


def measure_stream(name: str) -> dict[str, Tensor]:
    """The states of a few frames (observations, words, graphs) of a run's data, one by one."""
    stream = jepakit.stream(Path("trained", name), device="cpu")
    sample = samples_of(name)[0]
    actions: list[Any] = []
    if name in WORLDS:
        frames, actions = list(sample["observations"]), list(sample["actions"])
    elif "clip" in sample:
        frames = list(sample["clip"])
    elif "text" in sample:
        frames = sample["text"].split()
    else:
        frames = [sample.get("image", sample.get("graph"))]
    steps = [stream.push(frame, actions[n - 1] if n and actions else None) for n, frame in enumerate(frames)]
    return {"states": torch.stack([step.embedding for step in steps if step is not None])}


def measure_rollout(name: str) -> dict[str, Tensor]:
    """What a world model imagines after the observations of three windows, by their actions and by their reverse."""
    system = load_system(name)
    samples = samples_of(name)
    prepared = system.inputs.prepare(samples)
    actions = torch.stack([sample["actions"] for sample in samples])
    with torch.no_grad():
        first = {key: value[:, :1] for key, value in prepared.items()} if isinstance(prepared, dict) else prepared[:, :1]
        history = {"inputs": first, "actions": actions[:, :0]}
        return {
            "imagined": system.rollout(system.observe(history), actions).embeddings,
            "reversed": system.rollout(system.observe(history), actions.flip(1)).embeddings,
        }


def load_system(name: str) -> Any:
    """A run's world model: what its stream holds."""
    return jepakit.stream(Path("trained", name), device="cpu").model


def measure_all() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All numbers, of the folder that is the current one; for the script that writes the fixture."""
    tensors = {f"{path} {key}": value for path in MODELS for key, value in measure_model(path).items()}
    tensors |= {f"stream {name} {key}": value for name in STREAMS for key, value in measure_stream(name).items()}
    tensors |= {f"rollout {name} {key}": value for name in WORLDS for key, value in measure_rollout(name).items()}
    facts = {
        "data": {name: measure_data(name) for name in DATA},
        "weights": {path: measure_weights(path) for path in MODELS},
    }
    return tensors, facts


@pytest.fixture(scope="module", autouse=True)
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the fixture as the current folder, at its size of "nano"."""
    folder = tmp_path_factory.mktemp("written") / FIXTURE.name
    shutil.copytree(FIXTURE, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(registry.SIZES, "nano", SMALL)
        yield folder


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return json.loads((FIXTURE / "expected.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return load_file(FIXTURE / "expected.safetensors")


@pytest.fixture(scope="module")
def exact(facts: dict[str, Any]) -> bool:
    """Whether numbers must be the same to the bit."""
    return bool(machine() == facts["machine"])


def skip_unreadable(run: str, facts: dict[str, Any], exact: bool) -> None:
    """Skip a run whose data needs an extra that is not installed, or is generated with other numbers on this machine."""
    data = READS.get(run, "")
    if data in NEEDS:
        pytest.importorskip(NEEDS[data])
    if data and not exact and measure_data(data)["fingerprint"] != facts["data"][data]["fingerprint"]:
        pytest.skip(f"{data} is rounded otherwise on this machine")


def check_tensors(prefix: str, found: dict[str, Tensor], tensors: dict[str, Tensor], exact: bool) -> None:
    expected = {key.removeprefix(f"{prefix} "): value for key, value in tensors.items() if key.startswith(f"{prefix} ")}
    assert expected
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert (found[key].dtype, found[key].shape) == (value.dtype, value.shape), key
        if exact:
            assert torch.equal(found[key], value), f"{key} differs by {(found[key] - value).abs().max()}"
        else:
            torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5)


def check_plain(found: Any, expected: Any, tolerance: float, where: str = "") -> None:
    """Everything that was written is there still; there may be more of it. Numbers agree within the tolerance (0: exactly)."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), where
        assert set(expected) <= set(found), where
        for key, value in expected.items():
            check_plain(found[key], value, tolerance, f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            check_plain(one, other, tolerance, f"{where}/{number}")
    elif isinstance(expected, float) and tolerance:
        assert math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance), f"{where}: {found}, was {expected}"
    else:
        assert type(found) is type(expected), where
        assert found == expected or (found != found and expected != expected), f"{where}: {found}, was {expected}"


def untimed(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith("time/")} for line in lines]


def check_same_run(found: Path, expected: Path, exact: bool) -> None:
    """Two runs that were trained alike: metrics, weights, and what their evaluation says."""
    double = read_config(expected).training.precision == "float64"
    tolerance = 0.0 if exact else 1e-5 if double else 1e-3
    check_plain(untimed(found), untimed(expected), tolerance)
    weights, others = load_file(found / "model.safetensors"), load_file(expected / "model.safetensors")
    assert weights.keys() == others.keys()
    for name, tensor in others.items():
        if exact:
            assert torch.equal(weights[name], tensor), name
        else:  # an optimiser's first steps are as large for a gradient that is all rounding
            assert weights[name].shape == tensor.shape, name
            assert (weights[name] - tensor).abs().max() <= 4 * read_config(expected).training.lr + 1e-5, name
    check_evaluation(found / "evaluation.json", expected / "evaluation.json", exact)


def check_evaluation(found: Path, expected: Path, exact: bool) -> None:
    """Of two documents the newest answers. Elsewhere a few of the samples may be answered otherwise."""
    kept = ("step", "data", "plain", "which", "pooling", "rows", "world_model")
    one, other = ({k: v for k, v in json.loads(path.read_text("utf-8")).items() if k in kept} for path in (found, expected))
    for document in (one, other):
        document.get("world_model", {}).pop("planning", None)
    assert len(other["rows"]) > 1
    assert other.keys() <= one.keys()
    if exact:
        check_plain(one, other, 0.0)
    else:
        assert [(r["features"], r["evaluator"], r["metric"]) for r in one["rows"]] == [
            (r["features"], r["evaluator"], r["metric"]) for r in other["rows"]
        ]
        for row, was in zip(one["rows"], other["rows"], strict=True):
            assert row["value"] == pytest.approx(was["value"], rel=0.1, abs=0.15), (row, was)


def test_the_fixture_is_small_and_says_nothing_of_where_it_was_written():
    files = [path for path in FIXTURE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    for path in files:
        if path.suffix in (".yaml", ".json", ".csv", ".jsonl"):
            assert not [word for word in path.read_text("utf-8").split() if word.strip("\"',").startswith(("/", "~"))], path


def test_the_named_sizes_are_what_they_were(facts: dict[str, Any]) -> None:
    check_plain(json.loads(json.dumps({**registry.SIZES, "nano": NANO})), facts["sizes"], 0.0)


@pytest.mark.parametrize("name", DATA)
def test_data_is_the_same(name: str, facts: dict[str, Any], exact: bool) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    expected = facts["data"][name]
    found = measure_data(name, expected["keys"])
    if name in ROUNDED and not exact:
        kept = ("sizes", "classes", "task", "ids")
        found, expected = ({key: one[key] for key in kept} for one in (found, expected))
    assert found == expected


@pytest.mark.parametrize("path", MODELS)
def test_weights_are_loaded_as_they_were(path: str, facts: dict[str, Any]) -> None:
    assert measure_weights(path) == facts["weights"][path]


@pytest.mark.parametrize("path", MODELS)
def test_models_answer_as_they_did(path: str, facts: dict[str, Any], tensors: dict[str, Tensor], exact: bool) -> None:
    skip_unreadable(run_of(path), facts, exact)
    check_tensors(path, measure_model(path), tensors, exact)


@pytest.mark.parametrize("name", STREAMS)
def test_streams_answer_as_they_did(name: str, facts: dict[str, Any], tensors: dict[str, Tensor], exact: bool) -> None:
    skip_unreadable(name, facts, exact)
    check_tensors(f"stream {name}", measure_stream(name), tensors, exact)


@pytest.mark.parametrize("name", WORLDS)
def test_world_models_imagine_as_they_did(name: str, facts: dict[str, Any], tensors: dict[str, Tensor], exact: bool) -> None:
    skip_unreadable(name, facts, exact)
    check_tensors(f"rollout {name}", measure_rollout(name), tensors, exact)


@pytest.mark.parametrize("name", RUNS)
def test_configs_say_the_same_when_they_are_written_again(name: str, tmp_path: Path) -> None:
    write_config(tmp_path / "config.yaml", read_config(Path("trained", name)))
    found, expected = (yaml.safe_load((run / "config.yaml").read_text("utf-8")) for run in (tmp_path, Path("trained", name)))
    del expected["jepakit"]  # the version that wrote it
    kind = registry.load_system(expected["system"]).Config
    if hasattr(kind, "upgraded"):  # options that have another form today
        expected["model"] = kind.upgraded(expected["model"])
    check_plain(found, expected, 0.0)


# The evaluation at the end of mc-jepa takes seconds.
@pytest.mark.parametrize("name", [pytest.param(one, marks=[pytest.mark.slow] * (one == "mc-jepa")) for one in CHECKPOINTS])
def test_a_run_goes_on_from_its_checkpoint_to_the_same_end(
    name: str, facts: dict[str, Any], tmp_path: Path, exact: bool
) -> None:
    skip_unreadable(name, facts, exact)
    run = Path(shutil.copytree(Path("trained", name), tmp_path / name))
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000002"]
    (run / "evaluation.json").unlink()
    for path in run.glob("*.safetensors"):
        path.unlink()
    done = jepakit.resume(run)
    assert (done.outcome.ended, done.outcome.step) == ("finished", 4)
    check_same_run(run, Path("trained", name), exact)
    if name == "pldm":
        check_probe(run, Path("trained", name), exact)
    assert (run / "report.html").stat().st_size > 10_000


def check_probe(found: Path, expected: Path, exact: bool) -> None:
    """Of a world model what its evaluation measured, and the probe of the states that it left."""
    assert "world_model" in json.loads((expected / "evaluation.json").read_text("utf-8"))
    for name in ("state_probe", "state_reader"):
        one, other = (load_file(folder / f"{name}.safetensors") for folder in (found, expected))
        assert {key: value.shape for key, value in one.items()} == {key: value.shape for key, value in other.items()}
        assert not exact or all(torch.equal(one[key], value) for key, value in other.items())


@pytest.mark.parametrize("name", ["h-jepa", "tuned"])
def test_a_config_reproduces_its_run(name: str, tmp_path: Path, exact: bool) -> None:
    again = jepakit.finetune if name == "tuned" else jepakit.pretrain
    again(config=Path("trained", name, "config.yaml"), out=tmp_path / name)
    check_same_run(tmp_path / name, Path("trained", name), exact)


@pytest.mark.parametrize(("name", "asked"), EVALUATIONS.items())
def test_evaluations_find_the_same_and_keep_what_was_found(name: str, asked: tuple, tmp_path: Path, exact: bool) -> None:
    model, options = asked
    expected = Path("evaluations", f"{name}.json")
    jepakit.evaluate(model, out=tmp_path / "anew.json", **options)
    check_evaluation(tmp_path / "anew.json", expected, exact)
    shutil.copy(expected, tmp_path / "old.json")
    jepakit.evaluate("exports/convnet", data="shards/pixels", evaluators=("knn-2",), out=tmp_path / "old.json")
    document = json.loads((tmp_path / "old.json").read_text("utf-8"))
    before = json.loads(expected.read_text("utf-8"))
    assert before["earlier"] == []
    held = [document, *document["earlier"]]
    assert any(all(row in one["rows"] for row in before["rows"]) for one in held)


@pytest.mark.parametrize(("name", "asked"), EMBEDDINGS.items())
def test_embeddings_of_data_are_the_same(name: str, asked: tuple, tmp_path: Path, exact: bool) -> None:
    model, options = asked
    found = torch.from_numpy(np.array(jepakit.embed(model, out=tmp_path / f"{name}.npy", **options)))
    expected = torch.from_numpy(np.load(f"embeddings/{name}.npy"))
    check_tensors("", {"embeddings": found}, {" embeddings": expected}, exact)
    assert (tmp_path / f"{name}.csv").read_text("utf-8") == Path(f"embeddings/{name}.csv").read_text("utf-8")


@pytest.mark.parametrize("name", ["i-jepa-of-shards", "pldm"])
def test_a_report_is_made_of_an_old_run(name: str, tmp_path: Path) -> None:
    run = Path(shutil.copytree(Path("trained", name), tmp_path / name))
    page = jepakit.report(run).read_text("utf-8")
    rows = json.loads((run / "evaluation.json").read_text("utf-8"))["rows"]
    assert f"{rows[0]['value']:.3f}" in page


def test_stores_and_shards_are_inspected(tmp_path: Path) -> None:
    store: Any = jepakit.inspect("store", picture=tmp_path / "store.png")
    assert (store.episodes, store.steps, store.longest, store.checked) == (20, 500, 25, True)
    assert store.about["environment"] == "two-rooms-stochastic"
    shards: Any = jepakit.inspect("shards/files", picture=tmp_path / "shards.png")
    assert (shards.train, shards.test, shards.image_size, shards.channels) == (38, 10, (8, 8), 1)
    assert list(shards.classes) == ["a", "b", "c", "d"]


def test_an_interrupted_collection_goes_on(tmp_path: Path) -> None:
    """Episodes are functions of seed and number: the store that is collected anew is the old one."""
    pytest.importorskip("gymnasium")
    store = Path(shutil.copytree("store", tmp_path / "store"))
    jepakit.collect(env="two-rooms-stochastic", episodes=21, steps=24, out=store)
    for path in Path("store").glob("*.bin"):
        content = path.read_bytes()
        assert (store / path.name).read_bytes()[: len(content)] == content
        assert (store / path.name).stat().st_size > len(content)


def test_tensors_that_differ_are_refused() -> None:
    """The comparisons above can fail, on this kind of machine and on others."""
    value = torch.ones(3)
    for exact, change in ((True, 1e-7), (False, 1e-4)):
        with pytest.raises(AssertionError):
            check_tensors("a", {"b": value + change}, {"a b": value}, exact)
        with pytest.raises(AssertionError):
            check_plain({"a": [1.0 + change]}, {"a": [1.0]}, 0.0 if exact else 1e-5)
