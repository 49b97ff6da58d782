"""Weights, checkpoints and run folders that are damaged, or that lie about themselves."""

from __future__ import annotations

import io
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from jepakit.errors import UserError
from jepakit.interop.encoder import PretrainedEncoder
from jepakit.interop.load import load
from jepakit.training.run_folder import RunFolder
from jepakit.verbs.pretrain import resume
from jepakit.verbs.report import report
from tests.robustness.mutations import TIMES, mutations, replaced
from tests.robustness.oracle import check_all, outcome, refusal


def copied(source: Path, folder: Path) -> Path:
    return Path(shutil.copytree(source, folder / source.name))


def damage(file: Path, number: int, flips: int) -> bytes:
    """The `number`-th damaged copy of a file."""
    return list(mutations(file.read_bytes(), seed=len(file.name), flips=flips, header=1024))[number][1]


def named(cases: dict[str, Any]) -> list[Any]:
    return [pytest.param(case, id=name) for name, case in cases.items()]


def same_weights(model: PretrainedEncoder, wanted: PretrainedEncoder) -> bool:
    ours, theirs = model.encoder.state_dict(), wanted.encoder.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


FLIPS = 9
FILES = {
    "model.safetensors": FLIPS,
    "checkpoint/__0_0.distcp": FLIPS,
    "checkpoint/.metadata": FLIPS,
    "checkpoint/state.pt": 3,
    "checkpoint/rank-0.pt": 3,
}
DAMAGED = [(name, number) for name, flips in FILES.items() for number in range(17 + 2 * TIMES * flips + 7)]


@pytest.mark.parametrize("name", FILES)
def test_damaged_weights(name: str, run: Path):
    """Damage is an error, or it hit what is not read: the weights are never others."""
    sound = load(run)
    cases = [pytest.param(*case, id=f"{name} {case[1]}") for case in DAMAGED if case[0] == name]
    check_all(cases, lambda *case: check_damaged_weights(*case, run, sound))


def check_damaged_weights(name: str, number: int, folder: Path, run: Path, sound: PretrainedEncoder):
    place = copied(run, folder)
    checkpoint = place / "checkpoints" / "step-00000000"
    source = checkpoint if name.startswith("checkpoint/") else place
    file = source / name.removeprefix("checkpoint/")
    file.write_bytes(damage(file, min(number, 17 + 2 * TIMES * FILES[name] + 6), FILES[name]))
    model = outcome(lambda: load(source), str(place))
    if isinstance(model, PretrainedEncoder):
        assert same_weights(model, sound)


DESCRIPTIONS = range(17 + 2 * TIMES * 25 + 7)


def test_damaged_description(exported: Path):
    sound = load(exported)
    cases = [pytest.param(number, id=str(number)) for number in DESCRIPTIONS]
    check_all(cases, lambda *case: check_damaged_description(*case, exported, sound))


def check_damaged_description(number: int, folder: Path, exported: Path, sound: PretrainedEncoder):
    place = copied(exported, folder)
    file = place / "config.json"
    file.write_bytes(damage(file, number, 25))
    model = outcome(lambda: load(place), str(place))
    if isinstance(model, PretrainedEncoder):
        assert same_weights(model, sound)
        said = json.loads(file.read_text())
        assert {key: said.get(key, value) for key, value in model.describe().items()} == model.describe()


def described(**changed: Any) -> Callable[[dict[str, Any]], Any]:
    """A change of the description; names with __ lie deeper."""

    def change(description: dict[str, Any]) -> Any:
        for name, value in changed.items():
            *path, last = name.split("__")
            inner = description
            for part in path:
                inner = inner[part]
            inner[last] = value
        return description

    return change


LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{
        f"{name}: {ascii(value)[:30]}": described(**{name: value})
        for name, values in {
            "format": [0, 2, None, "1", [1]],
            "architecture": ["os.system", "jepakit.nn.vit:VisionTransformer", "../x.py", [], None, {}, "vit", "video", "graph"],
            "modality": ["os", [], None, 3, "video", "texts", "__import__"],
            "encoder": [None, [], "x", {}, {"_target_": "os.system"}],
            "inputs": [None, [], {}, {"mean": []}],
            "encoder__dim": [0, -1, 1, 10**6, 10**9, 2**62, 1e3, "128", None, True],
            "encoder__width": [0, 10**9, 31],
            "encoder__blocks": [0, 2, 10**9],
            "encoder__image_size": [[0, 0], [-8, 8], [10**9, 10**9], [8], "8", [8, 8, 8], [1, 1]],
            "encoder__channels": [0, 2, 10**9],
            "encoder__extra": [1],
            "inputs__std": [[0.0], [-1.0], [float("nan")], [float("inf")], [1e400], [], [1.0, 1.0]],
            "inputs__mean": [[float("nan")], ["x"], [None]],
            "inputs__image_size": [[0, 0], [-1, 8]],
            "inputs__channels": [0, -1, 2],
        }.items()
        for value in values
    },
    "a list": lambda _: [1],
    "a word": lambda _: "x",
    "null": lambda _: None,
    "nothing": lambda _: {},
}


def test_lying_description(exported: Path):
    check_all(named(LIES), lambda *case: check_lying_description(*case, exported))


def check_lying_description(lie: Callable[[dict[str, Any]], Any], folder: Path, exported: Path):
    place = copied(exported, folder)
    file = place / "config.json"
    file.write_text(json.dumps(lie(json.loads(file.read_text()))))
    refusal(lambda: load(place), str(place))


def header(entries: dict[str, Any] | str, body: bytes = b"", length: int | None = None) -> bytes:
    text = entries.encode() if isinstance(entries, str) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
HEADERS = {
    "offsets beyond the file": header({"a": {**ENTRY, "data_offsets": [0, 160]}}, bytes(16)),
    "overlapping": header({"a": ENTRY, "b": ENTRY}, bytes(16)),
    "a hole": header({"a": ENTRY, "b": {**ENTRY, "data_offsets": [32, 48]}}, bytes(48)),
    "negative offsets": header({"a": {**ENTRY, "data_offsets": [-16, 0]}}, bytes(16)),
    "offsets turned": header({"a": {**ENTRY, "data_offsets": [16, 0]}}, bytes(16)),
    "a header of 2^63": header({"a": ENTRY}, bytes(16), 2**63),
    "of 2^40": header({"a": ENTRY}, bytes(16), 2**40),
    "too short a header": header({"a": ENTRY}, bytes(16), 5),
    "no header": struct.pack("<Q", 0),
    "shape larger": header({"a": {**ENTRY, "shape": [2, 3]}}, bytes(16)),
    "shape overflows": header({"a": {**ENTRY, "shape": [2**62, 2**62]}}, bytes(16)),
    "negative shape": header({"a": {**ENTRY, "shape": [-2, -2]}}, bytes(16)),
    "unknown type": header({"a": {**ENTRY, "dtype": "F99"}}, bytes(16)),
    "a type that is an object": header({"a": {**ENTRY, "dtype": {}}}, bytes(16)),
    "a name twice": header(
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)
    ),
    "not JSON": header("{a: 1}"),
    "a list": header("[1, 2]"),
    "deep": header("[" * 50_000),
    "bytes behind": header({"a": ENTRY}, bytes(99)),
    "nothing": b"",
    "no tensors": header({}),
    "a zip": b"PK\x03\x04" + bytes(100),
    "a pickle": b"\x80\x02}q\x00.",
    "text": b"version https://git-lfs.github.com/spec/v1\n",
    "metadata of numbers": header({"__metadata__": {"crc32": 5}, "a": ENTRY}, bytes(16)),
    "metadata that is no map": header({"__metadata__": "x", "a": ENTRY}, bytes(16)),
}


def test_lying_header(run: Path, exported: Path):
    check_all(named(HEADERS), lambda *case: check_lying_header(*case, run, exported))


def check_lying_header(content: bytes, folder: Path, run: Path, exported: Path):
    for source in (run, exported):
        place = copied(source, folder)
        (place / "model.safetensors").write_bytes(content)
        refusal(lambda place=place: load(place), "model.safetensors")


TENSORS: dict[str, Callable[[torch.Tensor], torch.Tensor | None]] = {
    "missing": lambda _: None,
    "NaN": lambda t: torch.full_like(t, torch.nan),
    "infinity": lambda t: torch.full_like(t, torch.inf),
    "whole numbers": lambda t: t.long(),
    "booleans": lambda t: t > 0,
    "complex": lambda t: t.to(torch.complex64),
    "transposed shape": lambda t: t.reshape(-1),
    "empty": lambda t: t[:0],
    "one axis more": lambda t: t[None],
}


def test_other_tensors(exported: Path):
    check_all(named(TENSORS), lambda *case: check_other_tensors(*case, exported))


def check_other_tensors(change: Callable[[torch.Tensor], torch.Tensor | None], folder: Path, exported: Path):
    place = copied(exported, folder)
    weights = load_file(place / "model.safetensors")
    name = next(name for name, tensor in weights.items() if tensor.ndim == 4)
    changed = change(weights.pop(name))
    save_file(weights | ({} if changed is None else {name: changed.contiguous()}), place / "model.safetensors")
    refusal(lambda: load(place), "model.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precision_is_read(dtype: torch.dtype, exported: Path, folder: Path):
    place = copied(exported, folder)
    weights = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(place / "model.safetensors").items()
    }
    save_file(weights, place / "model.safetensors")
    model = outcome(lambda: load(place), str(place))
    assert isinstance(model, PretrainedEncoder)
    for name, tensor in model.encoder.state_dict().items():
        torch.testing.assert_close(tensor, weights[name].to(tensor.dtype), rtol=0, atol=0)


def released() -> dict[str, Any]:
    weights = {
        "patch_embed.proj.weight": torch.zeros(192, 3, 2, 2),
        "pos_embed": torch.zeros(1, 4, 192),
        "blocks.0.mlp.fc1.weight": torch.zeros(768, 192),
    }
    return {"encoder": dict(weights), "target_encoder": dict(weights)}


def _with(**changed: Any) -> dict[str, Any]:
    content = released()
    content["target_encoder"] |= changed
    return content


RELEASES: dict[str, Any] = {
    "a list": [1],
    "a number": 3,
    "a tensor": torch.zeros(3),
    "nothing": {},
    "no target": {"encoder": {}},
    "a target of None": {"target_encoder": None},
    "an empty target": {"target_encoder": {}},
    "names of numbers": {"target_encoder": {1: torch.zeros(1)}},
    "numbers for tensors": _with(pos_embed=3),
    "lacks most": released(),
    "a patch embedding of video": _with(**{"patch_embed.proj.weight": torch.zeros(192, 3, 2, 2, 2)}),
    "one axis": _with(**{"patch_embed.proj.weight": torch.zeros(192)}),
    "four channels": _with(**{"patch_embed.proj.weight": torch.zeros(192, 4, 2, 2)}),
    "positions of one axis": _with(pos_embed=torch.zeros(4)),
    "no square": _with(pos_embed=torch.zeros(1, 5, 192)),
    "no positions": _with(pos_embed=torch.zeros(1, 0, 192)),
    "another width": _with(**{"patch_embed.proj.weight": torch.zeros(7, 3, 2, 2)}),
    "no width": _with(**{"patch_embed.proj.weight": torch.zeros(0, 3, 2, 2)}),
    "patches of nothing": _with(**{"patch_embed.proj.weight": torch.zeros(192, 3, 0, 0)}),
    "no mlp": _with(**{"blocks.0.mlp.fc1.weight": torch.zeros(0, 192)}),
    "mlp of no axis": _with(**{"blocks.0.mlp.fc1.weight": torch.tensor(3.0)}),
    "a billion blocks": _with(**{"blocks.999999999.norm1.weight": torch.zeros(192)}),
    "a block of 5,000 digits": _with(**{f"blocks.{'9' * 5000}.norm1.weight": torch.zeros(192)}),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_no_release(legacy: bool):
    check_all(named(RELEASES), lambda *case: check_no_release(*case, legacy))


def check_no_release(content: Any, folder: Path, legacy: bool):
    torch.save(content, folder / "x.pth.tar", _use_new_zipfile_serialization=not legacy)
    refusal(lambda: load(folder / "x.pth.tar"), "x.pth.tar", "image_size", "depth", "dim", "patch_size")


def release_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save(released(), buffer)
    return buffer.getvalue()


DAMAGED_RELEASES = [
    pytest.param(content, id=damage) for damage, content in mutations(release_bytes(), seed=9, flips=20, header=2000)
]


def test_damaged_release():
    check_all(DAMAGED_RELEASES, check_damaged_release)


def check_damaged_release(content: bytes, folder: Path):
    (folder / "x.pt").write_bytes(content)
    refusal(lambda: load(folder / "x.pt"), "x.pt")


RESUMES = [
    "config.yaml",
    "metrics.jsonl",
    "checkpoint/state.pt",
    "checkpoint/.metadata",
    "checkpoint/__0_0.distcp",
    "checkpoint/rank-0.pt",
]


@pytest.mark.parametrize("how", ["empty", "half", "noise", "missing"])
@pytest.mark.parametrize("name", RESUMES)
def test_damaged_runs_are_not_resumed(name: str, how: str, run: Path, folder: Path):
    """... but for metrics that are gone or cut in their last line, which the run does not go by."""
    place = copied(run, folder)
    (place / "metrics.jsonl").write_text('{"kind": "train", "step": 0, "loss": 1.0}\n' * 3)
    file = place / name.replace("checkpoint/", "checkpoints/step-00000000/")
    if how == "missing":
        file.unlink()
    else:
        content = file.read_bytes()
        noise = np.random.default_rng(0).integers(0, 256, 300, dtype=np.uint8).tobytes()
        file.write_bytes(
            {"empty": b"", "half": content[: len(content) // 2], "noise": replaced(content, len(content) // 3, noise)}[how]
        )
    if name == "metrics.jsonl" and how != "noise":
        return
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file() and path.name != ".lock"}
    refusal(lambda: resume(place), str(place))
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file() and path.name != ".lock"} == before


EVALUATIONS = [
    "",
    "{",
    "[1]",
    "null",
    '"x"',
    "3",
    '{"rows": 3}',
    '{"rows": [{"x": 1}]}',
    '{"rows": []}',
    "[" * 50_000,
    '{"rows": [], "x": 1, "x": 2}',
    "\0",
    '{"rows": [null]}',
    '{"rows": [{"features": 3}]}',
]


@pytest.mark.parametrize("name", ["evaluation.json", "environment.json"])
def test_report_of_damaged_json(name: str, run: Path):
    cases = [pytest.param(content, id=ascii(content)[:20]) for content in EVALUATIONS]
    check_all(cases, lambda *case: check_report_of_damaged_json(*case, name, run))


def check_report_of_damaged_json(content: str, folder: Path, name: str, run: Path):
    place = copied(run, folder)
    (place / "model.safetensors").unlink()  # no pictures: what is read is the same
    (place / name).write_text(content)
    page = outcome(lambda: report(place), name, "report")
    if not isinstance(page, UserError):
        assert page.read_text("utf-8").startswith("<!")


PLACES = ["", "/", "/nowhere", "/dev/null", "/dev/zero", "\0", "~", ".", "..", "hf:x", "http://127.0.0.1:9/x", "😀"]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ascii(place)[:20])
def test_no_weights_there(place: str, folder: Path, monkeypatch):
    monkeypatch.chdir(folder)
    refusal(lambda: load(place), "config.json", place[:50])


def test_folder_is_a_run(run: Path):
    assert isinstance(load(run), PretrainedEncoder)
    assert RunFolder(run).list_checkpoints()


CASES = [
    *DAMAGED,
    *DESCRIPTIONS,
    *LIES,
    *HEADERS,
    *TENSORS,
    *RELEASES,
    *RELEASES,
    *DAMAGED_RELEASES,
    *EVALUATIONS,
    *EVALUATIONS,
    *PLACES,
    *(RESUMES * 4),
]
