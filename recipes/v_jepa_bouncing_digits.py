"""V-JEPA, 2 and 2.1 on noisy bouncing digits: velocity, where the digit will be, where it is token by token, what comes next.

    python recipes/v_jepa_bouncing_digits.py --threads 1
    python recipes/v_jepa_bouncing_digits.py --threads 1 --seeds 0 --change masks

Patches of 8 pixels, so that a run takes minutes on one core. A frame then has 4 x 4 places, of which the released masks, made
for 14 x 14, leave one or two; these leave half. Ridge regressions read all tokens side by side, pixels as they are; labels of
1,500 and of 400 clips, 1,000 held-out clips of held-out handwriting. `--change` measures what the parts are worth, at one seed;
`--change plain` what single tokens tell of digits before black ground, where no noise is left to be foretold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from seeds import arguments, run, spread, verdict
from sklearn.metrics import roc_auc_score

from jepakit.core.terms import VisibleTerm
from jepakit.evaluation.continuation import continuation_rows
from jepakit.evaluation.ridge import fit_ridges
from jepakit.interop.load import teacher_of
from jepakit.interop.runs import Run, build_system
from jepakit.masks.blocks import MultiBlockConfig
from jepakit.masks.tubes import TubeConfig
from jepakit.modalities.video.bouncing_digits import NOISE, SHARE, BouncingDigits
from jepakit.modalities.video.collection import VideoDataConfig
from jepakit.modalities.video.data import open_videos
from jepakit.training.run_folder import RunFolder

DATA, PLAIN = "noisy-bouncing-digits", "bouncing-digits"
HALF: dict[str, Any] = {"short_blocks": 3, "short_scale": (0.15, 0.2), "long_blocks": 1, "long_scale": (0.5, 0.5)}
MASKS = TubeConfig(**HALF, future=(0.25, 0.5))
PLACES = TubeConfig(short_blocks=9, short_scale=(1 / 16, 1 / 16), long_blocks=0)
CLIPS: dict[str, Any] = {"data": DATA, "labels": "none", "stills": "none", "steps": 1000, "lr": 2e-3, "patch_size": 8}
SHORTER: dict[str, Any] = {"data": PLAIN, "steps": 600, "masks": TubeConfig(**HALF)}
FRAMES: dict[str, Any] = {"steps": 1000, "batch_size": 128, "lr": 2e-3, "patch_size": 8}
EASY = MultiBlockConfig(targets=4, target_scale=(0.1, 0.2))  # of 4 x 4 places
HEADLINE: dict[str, tuple[str, dict[str, Any]]] = {
    "v-jepa": ("v-jepa", {**CLIPS, "masks": MASKS}),
    "v-jepa-2": ("v-jepa-2", {**CLIPS, "masks": MASKS}),
    "v-jepa-2.1": ("v-jepa-2.1", {**CLIPS, "masks": MASKS}),
    "i-jepa-frames": ("i-jepa", {**FRAMES, "masks": EASY}),
}
CHANGES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "nothing": HEADLINE,
    "masks": {
        "v-jepa-no-future": ("v-jepa", {**CLIPS, "masks": TubeConfig(**HALF)}),
        "v-jepa-short": ("v-jepa", {**CLIPS, "masks": TubeConfig(**{**HALF, "long_blocks": 0})}),
        "v-jepa-long": ("v-jepa", {**CLIPS, "masks": TubeConfig(**{**HALF, "short_blocks": 0})}),
        "v-jepa-random-tubes": ("v-jepa", {**CLIPS, "masks": PLACES}),
        "v-jepa-released": ("v-jepa", {**CLIPS, "masks": TubeConfig()}),
    },
    "schedule": {
        "v-jepa-constant": ("v-jepa", {**CLIPS, "masks": MASKS, "ema": 0.99, "ema_end": 0.99, "schedule": "constant"}),
    },
    "longer": {
        "v-jepa-longer": ("v-jepa", {**CLIPS, "masks": MASKS, "steps": 2000}),
        "i-jepa-frames-longer": ("i-jepa", {**FRAMES, "masks": EASY, "steps": 2000}),
    },
    "average": {"v-jepa-no-average": ("v-jepa", {**CLIPS, "masks": MASKS, "ema": 0.0, "ema_end": 0.0})},
    "dense": {
        "v-jepa-2.1-hidden-only": ("v-jepa-2.1", {**CLIPS, "masks": MASKS, "visible": VisibleTerm(weight=0.0)}),
        "v-jepa-2.1-one-level": ("v-jepa-2.1", {**CLIPS, "masks": MASKS, "levels": 1}),
    },
    "plain": {system: (system, {**CLIPS, **SHORTER}) for system in ("v-jepa-2", "v-jepa-2.1")},
}
HELD_OUT = 4000  # the first clip that is
Encoder = Callable[[np.ndarray], torch.Tensor]


def clip_encoder(encoder: torch.nn.Module, inputs: Any) -> Encoder:
    """Tokens of clips `[clips, frames, 1, height, width]`."""

    def encode(clips: np.ndarray) -> torch.Tensor:
        return encoder(inputs.prepare([{"clip": torch.from_numpy(clip)} for clip in clips])).values

    return encode


def frame_encoder(encoder: torch.nn.Module, inputs: Any) -> Encoder:
    """Tokens of every frame by itself, one frame after the other."""

    def encode(clips: np.ndarray) -> torch.Tensor:
        frames = [{"image": torch.from_numpy(frame)} for clip in clips for frame in clip]
        return encoder(inputs.prepare(frames)).values.reshape(len(clips), -1, encoder.config.dim)

    return encode


@torch.no_grad()
def tokens_of(encode: Encoder, clips: np.ndarray) -> torch.Tensor:
    return torch.cat([encode(clips[start : start + 200]).float() for start in range(0, len(clips), 200)])


def explained(features: torch.Tensor, wanted: torch.Tensor, train: int) -> list[float]:
    """R2, over both axes, of ridge regressions of each pair of columns on the held-out samples, those from `HELD_OUT` on."""
    found = fit_ridges(features[:train], wanted[:train])(features[HELD_OUT:]).double()
    truth = wanted[HELD_OUT:].double()
    error, spread = (found - truth).square().sum(0), (truth - truth.mean(0)).square().sum(0)
    return (1 - error.view(-1, 2).sum(1) / spread.view(-1, 2).sum(1)).tolist()


def located(tokens: torch.Tensor, facts: Any, steps: int, side: int, size: int) -> dict[str, float]:
    """What single tokens tell, read by one ridge regression for all: whether they hold the digit's middle (area under the ROC
    curve), and how far from theirs it is (R2 of both axes). A digit of a token is where it is on average over its frames."""
    middle = facts.position.reshape(len(tokens), steps, -1, 2).mean(2) + side / 2
    places = int((tokens.shape[1] / steps) ** 0.5)
    patch = size / places
    centres = (np.stack(np.meshgrid(*[np.arange(places)] * 2, indexing="ij"), -1).reshape(-1, 2) + 0.5) * patch
    away = torch.from_numpy(middle[:, :, None] - centres)  # [clips, steps, places, 2]
    inside = (away.abs() <= patch / 2).all(-1).double()
    wanted = torch.cat([away, inside[..., None]], -1).flatten(1, 2)
    few = 1000  # clips, of 64 tokens each
    read = fit_ridges(tokens[:few].flatten(0, 1), wanted[:few].flatten(0, 1))
    found, truth = read(tokens[HELD_OUT:].flatten(0, 1)).double(), wanted[HELD_OUT:].flatten(0, 1)
    error = (found - truth)[:, :2].square().sum() / (truth - truth.mean(0))[:, :2].square().sum()
    area = roc_auc_score(truth[:, 2].numpy() > 0.5, found[:, 2].numpy())
    return {"token: holds it": float(area), "token: how far": 1 - float(error)}


def measure(folder: Path, data: Any) -> dict[str, dict[str, float]]:
    """Every number of a run, of its encoder and of the same one untrained."""
    run = Run(folder, torch.device("cpu"))
    system, config = run.system, run.config
    torch.manual_seed(config.training.seed)
    untrained = build_system(config, teacher_of(config, RunFolder(folder)))
    encoder_of = frame_encoder if config.system == "i-jepa" else clip_encoder
    clips, facts = data
    found = {}
    for name, one in (("encoder", system.eval()), ("random init", untrained.eval())):
        encoder = one.encoders()["target"]
        encode = encoder_of(encoder, config.inputs)
        tokens = tokens_of(encode, clips)
        found[name] = probes(tokens.flatten(1), facts)
        if config.system != "i-jepa":
            grid = encoder.config.grid
            found[name] |= located(tokens, facts, grid[0], SHARE * clips.shape[-1], clips.shape[-1])
            orders = np.random.default_rng(0).permuted(np.tile(np.arange(clips.shape[1]), (len(clips), 1)), axis=1)
            shuffled = tokens_of(encode, clips[np.arange(len(clips))[:, None], orders])
            found[name]["velocity, frames shuffled"] = probes(shuffled.flatten(1), facts)["velocity, 1500 labels"]
            opened = open_videos(VideoDataConfig(data=config.dataset.data, labels="none", stills="none"), 0)
            for row in continuation_rows(one, opened.test):
                found[name][row.evaluator] = row.value
    return found


def probes(features: torch.Tensor, facts: Any) -> dict[str, float]:
    """R2 of velocity and of the place four frames after the clip."""
    wanted = torch.from_numpy(np.concatenate([facts.velocity, facts.future], axis=1))
    found = {}
    for labels in (1500, 400):
        for name, value in zip(("velocity", "future"), explained(features, wanted, labels), strict=True):
            found[f"{name}, {labels} labels"] = value
    return found


def main() -> None:
    asked = arguments(__doc__ or "", list(CHANGES))
    name_of_data, noise = (PLAIN, 0.0) if asked.change == "plain" else (DATA, NOISE)
    source, ids = BouncingDigits(noise=noise), np.arange(5000)
    clips, facts = np.stack([source.read(int(i)) for i in ids]), source.facts(ids)
    asked.out.mkdir(parents=True, exist_ok=True)
    frames = asked.out / "frames.npy"
    if not frames.exists():
        np.save(frames, clips[:HELD_OUT, :, 0].reshape(-1, *clips.shape[-2:]))
    pixels = torch.from_numpy(clips).float().flatten(1) / 255
    print_rows("pixels", {"pixels": [probes(pixels, facts)]})
    for name, (system, options) in CHANGES[asked.change].items():
        data = {"data": str(frames), "labels": "none"} if system == "i-jepa" else {}
        folders = run(f"{name_of_data}-{name}", system, asked.seeds, asked.out, threads=asked.threads, **options, **data)
        found: dict[str, list[dict[str, float]]] = {}
        for folder in folders:
            kept = folder / "bouncing_digits.json"
            if not kept.exists():
                kept.write_text(json.dumps(measure(folder, (clips, facts)), indent=1), encoding="utf-8")
            for features, values in json.loads(kept.read_text("utf-8")).items():
                found.setdefault(features, []).append(values)
        print_rows(f"{name}, {len(folders)} seeds, health {', '.join(map(verdict, folders))}", found)


def print_rows(title: str, found: Mapping[str, list[dict[str, float]]]) -> None:
    print(f"\n## {title}\n")
    print("| | " + " | ".join(found) + " |\n|---" * 1 + "|---" * len(found) + "|")
    for name in next(iter(found.values()))[0]:
        print(f"| {name} | " + " | ".join(spread([one[name] for one in ones]) for ones in found.values()) + " |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
