"""MC-JEPA: motion on moving photographs and content of digits, by one encoder, beside each of them learned alone.

    python recipes/mc_jepa_motion_and_content.py --threads 1

Each variant has the same encoder and takes the same 400 steps: of 8 pairs of frames, of 128 digits (drawn 16 x 16, in colour),
or of both. Motion: mean end-point error in pixels on held-out clips, of parts of the photographs that no training clip sees,
without the pixels that leave the frame; beside it what needs no learning (`evaluation.flow_error`) and the same net at random
weights. Content: linear probe with 5 labels a class, and with all, on 597 held-out digits; beside it the encoder at random
weights and the pixels. `--change "motion without cycle"`, for one: that variant alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from seeds import arguments, run, spread

from jepakit.evaluation.evaluate import evaluate_features
from jepakit.evaluation.features import Features
from jepakit.evaluation.flow_error import flow_errors
from jepakit.files import read_json
from jepakit.interop.runs import Run, build_system
from jepakit.modalities.images.arrays import digits
from jepakit.modalities.video.collection import VideoDataConfig
from jepakit.modalities.video.data import open_videos
from jepakit.randomness import derive_seed

SHORT: dict[str, Any] = {
    "data": "moving-photographs", "steps": 400, "health_every": 400, "health_samples": 64, "lidar_views": 4,
}  # fmt: skip
CONTENT: dict[str, Any] = {"stills": "digits", "stills_ratio": 16.0, "still_size": (16, 16), "augment": {"kind": "glyph"}}
MOTION: dict[str, Any] = {"stills": "none"}
ABLATIONS: dict[str, dict[str, float]] = {
    "without variance and covariance": {"variance": 0.0, "covariance": 0.0},
    "without cycle": {"cycle": 0.0},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "both": CONTENT,
    "motion": MOTION,
    "content": {**CONTENT, "motion": 0.0},
    **{f"both {name}": {**CONTENT, "terms": terms} for name, terms in ABLATIONS.items()},
    **{f"motion {name}": {**MOTION, "terms": terms} for name, terms in ABLATIONS.items()},
}
EVALUATORS = ["low-shot-5", "linear"]
HELD_OUT = 500  # clips that errors are measured on


def motion(systems: dict[str, Any]) -> dict[str, float]:
    """End-point errors on held-out clips of each system that learned motion, and of what needs no learning."""
    flows = {name: system.flow for name, system in systems.items() if system.predictor is not None}
    if not flows:
        return {}
    data = open_videos(VideoDataConfig(data="moving-photographs", stills="none"), 0)
    errors = flow_errors(flows, systems["trained"].inputs, data.test, clips=HELD_OUT)
    return {f"{name}, end-point error": float(found.mean()) for name, found in errors.items()}


@torch.no_grad()
def content(systems: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Accuracy on digits, by features and evaluator, of each encoder and of the pixels."""
    arrays, held_out = digits()
    assert arrays.labels is not None  # scikit-learn's digits have labels
    pixels, labels = torch.from_numpy(arrays.images[0])[:, None], arrays.labels[0]
    features = []
    for name, system in systems.items():
        large = F.interpolate(pixels, size=CONTENT["still_size"], mode="bilinear").expand(-1, system.inputs.channels, -1, -1)
        clips = system.inputs.normalise(large)[:, :, None]
        found = torch.cat([system.encode(part).mean() for part in clips.split(256)])
        features.append(Features(name, found[~held_out], found[held_out]))
    flat = pixels.flatten(1)
    features.append(Features("pixels", flat[~held_out], flat[held_out]))
    rows = evaluate_features(features, labels[~held_out], labels[held_out], evaluators=EVALUATORS)
    return {(row.features, row.evaluator): row.value for row in rows if row.metric == "accuracy"}


def measured(folder: Path) -> dict[str, float]:
    """All figures of a run, and those of the same system at random weights."""
    run = Run(folder)
    system, config = run.system, run.config
    torch.manual_seed(derive_seed(config.training.seed, "random baseline"))
    untrained = build_system(config).eval()
    systems = {"trained": system, "random": untrained}
    found = {f"{name}, {evaluator}": value for (name, evaluator), value in content(systems).items()}
    return {**found, **motion(systems), "training, seconds": read_json(folder / "environment.json")["wall_s"]}


if __name__ == "__main__":
    asked = arguments(__doc__ or "", ["each and both", *VARIANTS])
    for name in ("both", "motion", "content") if asked.change == "each and both" else (asked.change,):
        options = {**SHORT, **VARIANTS[name], "threads": asked.threads}
        folders = run(f"mc-jepa-{name.replace(' ', '-')}", "mc-jepa", asked.seeds, asked.out, **options)
        figures = [measured(folder) for folder in folders]
        print(f"\n## {name}\n")
        for figure in figures[0]:
            print(f"{figure:28} {spread([found[figure] for found in figures])}", flush=True)
