"""Opens what a stranger prepared, in a process of its own, and reports what Python was made to do: `stranger.py RUN FOLDER`.

Prints one JSON object: for each attempt how it ended ("refused", "read", or the name of an exception) and the events that must
not happen. They are told by Python's audit hooks, which also see what libraries do.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import struct
import sys
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import jepakit
from jepakit.config import read_config
from jepakit.errors import UserError
from jepakit.interop.load import load
from jepakit.modalities.images.collection import ImageDataConfig
from jepakit.modalities.images.data import open_images
from jepakit.modalities.texts.data import TextDataConfig, open_texts
from jepakit.modalities.trajectories.data import TrajectoryDataConfig, open_trajectories
from jepakit.modalities.video.collection import VideoDataConfig
from jepakit.modalities.video.data import open_videos

RUN, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
SENTINEL, OUTSIDE = FOLDER / "sentinel", FOLDER / "outside"
CHANGES = {
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.chmod",
    "os.chown",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.utime",
    "shutil.rmtree",
}
PROGRAMS = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "pty.spawn",
    "socket.connect",
    "socket.bind",
}
HARMFUL = {"os", "posix", "subprocess", "sys", "shutil", "socket", "runpy", "importlib", "__main__", "stranger", "webbrowser"}

LINKS = (
    ".report.html.writing",
    "report.html",
    ".evaluation.json.writing",
    "evaluation.json",
    "environment.json",
    "model.safetensors",
    ".model.safetensors.writing",
    "metrics.jsonl",
    "checkpoints",
    "checkpoints/step-00000000",
    "checkpoints/.x.writing",
)

watched: Path | None = None
events: list[str] = []


def hook(event: str, given: tuple[Any, ...]) -> None:
    if watched is None:
        return
    if event in PROGRAMS:
        events.append(f"{event} {given!r}"[:200])
    elif event == "open" and isinstance(given[0], str | bytes) and _writes(given[1], given[2]):
        _outside(event, given[0])
    elif event in CHANGES:
        _outside(event, given[0])
        if event in ("os.rename", "os.link"):
            _outside(event, given[1])
    elif event == "pickle.find_class" and (
        given[0] in HARMFUL or given[:2] in [("builtins", name) for name in ("eval", "exec", "open", "getattr")]
    ):
        events.append(f"{event} {given!r}")
    elif event in ("exec", "compile"):
        name = getattr(given[0], "co_filename", None) if event == "exec" else given[1]
        if isinstance(name, str) and name.startswith(str(FOLDER)):
            events.append(f"{event} {name}")


def _writes(mode: Any, flags: Any) -> bool:
    return (
        any(letter in mode for letter in "wax+")
        if isinstance(mode, str)
        else bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    )


def _outside(event: str, place: Any) -> None:
    if isinstance(place, int):
        return
    real = Path(os.path.realpath(os.fsdecode(place)))
    if event in ("os.remove", "os.rename", "os.symlink", "os.link"):  # a link itself is meant, not what it leads to
        given = Path(os.path.abspath(os.fsdecode(place)))
        real = given.parent.resolve() / given.name
    allowed = watched is not None and real.is_relative_to(watched)
    if not allowed and "matplotlib" not in str(real) and str(real) != os.devnull:
        events.append(f"{event} {real}")


class Evil:
    """Unpickled, it leaves a sentinel behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {SENTINEL}",)


def attempts() -> dict[str, Callable[[Path], object]]:
    """What to open, by name; each is given an empty folder of its own."""
    found: dict[str, Callable[[Path], object]] = {}

    def attempt(name: str) -> Callable[[Callable[[Path], object]], None]:
        return lambda function: found.__setitem__(name, function)

    for ending in (".pt", ".pth", ".pth.tar"):
        for kind in ("pickle", "torch", "legacy"):

            def weights(folder: Path, ending: str = ending, kind: str = kind) -> object:
                place = folder / f"x{ending}"
                if kind == "pickle":
                    place.write_bytes(pickle.dumps({"target_encoder": Evil()}))
                else:
                    torch.save({"target_encoder": {"a": Evil()}}, place, _use_new_zipfile_serialization=kind == "torch")
                return load(place)

            attempt(f"weights {ending} of {kind}")(weights)

    for name in ("state.pt", "rank-0.pt", ".metadata", "__0_0.distcp"):
        for verb in ("load", "resume"):

            def checkpoint(folder: Path, name: str = name, verb: str = verb) -> object:
                place = shutil.copytree(RUN, folder / "run")
                target = place / "checkpoints" / "step-00000000" / name
                torch.save({"format": 2, "x": Evil()}, target) if name.endswith("pt") else target.write_bytes(
                    pickle.dumps(Evil())
                )
                return load(target.parent) if verb == "load" else jepakit.resume(place)

            attempt(f"{verb} of a checkpoint whose {name} is a pickle")(checkpoint)

    for verb in ("load", "resume"):

        def forged(folder: Path, verb: str = verb) -> object:
            return _forged_description(folder, verb)

        attempt(f"{verb} of a checkpoint that calls its tensors bytes")(forged)

    def elsewhere(folder: Path) -> object:
        place = shutil.copytree(RUN, folder / "run") / "checkpoints" / "step-00000000"
        return load(_described(place, lambda data: data.replace(b"__0_0.distcp", b"../../../x.d")))

    attempt("load of a checkpoint that refers to a file elsewhere")(elsewhere)

    for name in ("x.npy", "x.npz"):
        for reader in ("images", "clips", "episodes", "labels"):

            def arrays(folder: Path, name: str = name, reader: str = reader) -> object:
                content = np.array([Evil()] * 20, dtype=object)
                np.save(folder / name, content) if name.endswith("npy") else np.savez(
                    folder / name, images=content, observations=content, actions=content
                )
                place = str(folder / name)
                if reader == "images":
                    return open_images(ImageDataConfig(data=place), 0)
                if reader == "clips":
                    return open_videos(VideoDataConfig(data=place), 0)
                if reader == "episodes":
                    return open_trajectories(TrajectoryDataConfig(data=place), 0)
                np.save(folder / "good.npy", np.zeros((20, 4, 4), np.uint8))
                return open_images(ImageDataConfig(data=str(folder / "good.npy"), labels=place), 0)

            attempt(f"{reader} of pickled objects in {name}")(arrays)

    tags = [
        "!!python/object/apply:os.system ['touch %s']",
        "!!python/object/new:os.system ['touch %s']",
        "!!python/name:os.system",
        "!!python/module:os",
    ]
    for tag in tags:

        def config(folder: Path, tag: str = tag) -> object:
            place = shutil.copytree(RUN, folder / "run")
            text = (place / "config.yaml").read_text()
            (place / "config.yaml").write_text(text.replace("  seed: 0", "  seed: " + (tag % SENTINEL if "%s" in tag else tag)))
            return read_config(place)

        attempt(f"a config with {tag}")(config)

    for system in (
        "os:system",
        "evil",
        "evil:Evil",
        "../evil.py",
        "jepakit.systems.i_jepa:IJEPA",
        "subprocess:Popen",
        "__import__('os').system('x')",
    ):

        def named(folder: Path, system: str = system) -> object:
            place = shutil.copytree(RUN, folder / "run")
            (place / "evil.py").write_text(f"open({str(SENTINEL)!r}, 'w')\nclass Evil: pass\n")
            text = (place / "config.yaml").read_text()
            (place / "config.yaml").write_text(text.replace("system: lejepa", f"system: {json.dumps(system)}"))
            return load(place)

        attempt(f"a run of the system {system}")(named)

    for name, value in (
        ("architecture", "os.system"),
        ("architecture", "evil:Evil"),
        ("modality", "evil:Evil"),
        ("modality", "os:system"),
        ("auto_map", {"AutoModel": "evil.Evil"}),
    ):

        def description(folder: Path, name: str = name, value: Any = value) -> object:
            place = load(RUN).save_pretrained(folder / "export")
            (place / "evil.py").write_text(f"open({str(SENTINEL)!r}, 'w')\nclass Evil: pass\n")
            said = json.loads((place / "config.json").read_text())
            (place / "config.json").write_text(json.dumps({**said, name: value}))
            return load(place)

        attempt(f"an export with {name} {value}")(description)

    @attempt("PostScript named .tif")
    def _(folder: Path) -> object:
        (folder / "x.tif").write_bytes(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(" + str(SENTINEL).encode() + b") (w) file\n"
        )
        return open_images(ImageDataConfig(data=str(folder)), 0)

    @attempt("a data set with code beside it")
    def _(folder: Path) -> object:
        for name in ("dataset.py", "data.py", "__init__.py", "conftest.py", "sitecustomize.py"):
            (folder / name).write_text(f"open({str(SENTINEL)!r}, 'w')\n")
        (folder / "dataset_infos.json").write_text("{}")
        (folder / "state.json").write_text("{}")
        return open_images(ImageDataConfig(data=f"hf:{folder}"), 0)

    for what in ("../../outside/x.png", "/absolute.png", "a link", "a hard link", "a device"):

        def shard(folder: Path, what: str = what) -> object:
            with tarfile.open(folder / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
                for name in ("good", "evil"):
                    member = tarfile.TarInfo(what if name == "evil" and "/" in what else f"{name}.png")
                    picture = io.BytesIO()
                    Image.new("L", (8, 8)).save(picture, "PNG")
                    member.size = len(picture.getvalue())
                    if name == "evil" and "/" not in what:
                        member.size, member.linkname = 0, str(OUTSIDE / "file")
                        member.type = {"a link": tarfile.SYMTYPE, "a hard link": tarfile.LNKTYPE, "a device": tarfile.CHRTYPE}[
                            what
                        ]
                    archive.addfile(member, io.BytesIO(picture.getvalue()[: member.size]))
            return open_images(ImageDataConfig(data=str(folder), test_fraction=0.0), 0)

        attempt(f"a tar shard with {what}")(shard)

    @attempt("a table with formulas")
    def _(folder: Path) -> object:
        (folder / "x.csv").write_text("text,code\n" + "=cmd|'/c x'!A1,b\n" * 20)
        return open_texts(TextDataConfig(data=str(folder / "x.csv")), 0)

    for verb, links in (("report", LINKS), ("resume", LINKS[-4:-1])):
        for link in links:

            def linked(folder: Path, verb: str = verb, link: str = link) -> object:
                return _linked(folder, verb, link)

            attempt(f"{verb} of a run whose {link} leads elsewhere")(linked)
    return found


def _described(checkpoint: Path, change: Callable[[bytes], bytes]) -> Path:
    """The checkpoint with another `.metadata`, and no checksums to betray it."""
    (checkpoint / ".metadata").write_bytes(change((checkpoint / ".metadata").read_bytes()))
    state = torch.load(checkpoint / "rank-0.pt", weights_only=True)
    torch.save({name: value for name, value in state.items() if name != "checksums"}, checkpoint / "rank-0.pt")
    return checkpoint


def _forged_description(folder: Path, verb: str) -> object:
    """torch reads what a description calls bytes by unpickling it, with all code in it: here each tensor is called so."""
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata

    place = shutil.copytree(RUN, folder / "run")
    checkpoint = place / "checkpoints" / "step-00000000"
    payload = io.BytesIO()
    torch.save(Evil(), payload)

    def forge(data: bytes) -> bytes:
        metadata = pickle.loads(data)
        for name, entry in metadata.state_dict_metadata.items():
            forged = BytesStorageMetadata()
            forged.__dict__.update(size=entry.size, properties=entry.properties, chunks=entry.chunks)
            metadata.state_dict_metadata[name] = forged
        for info in metadata.storage_data.values():
            info.offset, info.length = 0, len(payload.getvalue())
        return pickle.dumps(metadata)

    _described(checkpoint, forge)
    (checkpoint / "__0_0.distcp").write_bytes(payload.getvalue() + struct.pack("<Q", 0) * 100)
    return load(checkpoint) if verb == "load" else jepakit.resume(place)


def _linked(folder: Path, verb: str, link: str) -> object:
    """Something of the user's stands outside; in the run a link leads to it. `_changed` looks at it afterwards."""
    global watched
    watched = None  # what is prepared here is the stranger's work
    place = shutil.copytree(RUN, folder / "run")
    target = place / link
    if link.startswith("checkpoints"):
        goal = OUTSIDE / "folder"
        if target.is_dir():
            shutil.copytree(target, goal, dirs_exist_ok=True)
            shutil.rmtree(target)
    else:
        goal = OUTSIDE / "file"
        if target.exists():
            shutil.copy(target, goal)
            target.unlink()
    target.symlink_to(goal)
    kept = _contents()
    result: object = None
    watched = folder
    try:
        result = jepakit.report(place) if verb == "report" else jepakit.resume(place)
    finally:
        watched = None
        if _contents() != kept:
            events.append("what a link leads to was changed")
    return result


def _contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(OUTSIDE.rglob("*")) if path.is_file()}


def main() -> None:
    global watched
    sys.addaudithook(hook)
    warnings.simplefilter("ignore")
    found = {}
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        jepakit.report(shutil.copytree(RUN, FOLDER / "warm"))  # what is imported late is imported now
        for number, (name, function) in enumerate(attempts().items()):
            shutil.rmtree(OUTSIDE, ignore_errors=True)
            (OUTSIDE / "folder").mkdir(parents=True)
            (OUTSIDE / "file").write_text("the user's own\n")
            (OUTSIDE / "folder" / "file").write_text("the user's own\n")
            folder = FOLDER / f"attempt-{number}"
            folder.mkdir()
            events.clear()
            watched = folder
            try:
                function(folder)
                ended, message = "read", ""
            except UserError as error:
                ended, message = "refused", str(error)
            except Exception as error:
                ended, message = type(error).__name__, str(error)
            watched = None
            if SENTINEL.exists():
                events.append("the payload ran")
                SENTINEL.unlink()
            found[name] = {"ended": ended, "message": message, "events": list(events)}
            shutil.rmtree(folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
