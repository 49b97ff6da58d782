"""V-JEPA 2.1 on bouncing digits: digit and direction from frozen embeddings, with and without the loss on visible tokens.

    python recipes/v_jepa_bouncing_digits.py --threads 1

Patches of 8 pixels (64 tokens a clip), so that a run takes minutes on one core; the default of 4 takes four times as long.
"""

from __future__ import annotations

from typing import Any

from seeds import arguments, run, spread

from jepakit.modalities.video import VideoDataConfig, open_videos
from jepakit.verbs.evaluate import evaluate

EVALUATORS = ["linear", "knn-20"]
SHORT: dict[str, Any] = {"data": "bouncing-digits", "labels": "none", "steps": 300, "patch_size": 8, "stills_ratio": 0.5}
VARIANTS: dict[str, dict[str, Any]] = {
    "v-jepa-bouncing": {},
    "v-jepa-bouncing-hidden-only": {"visible": {"weight": 0.0}, "image_visible": 0.0},
}

if __name__ == "__main__":
    asked = arguments(__doc__ or "")
    for name, options in VARIANTS.items():
        folders = run(name, "v-jepa-2.1", asked.seeds, asked.out, threads=asked.threads, **SHORT, **options)
        for labels in ("digit", "direction"):
            data = open_videos(VideoDataConfig(data="bouncing-digits", labels=labels), 0)
            values: dict[tuple[str, str], list[float]] = {}
            for folder in folders:
                for row in evaluate(folder, evaluators=EVALUATORS, opened=data):
                    if row.metric == "accuracy":
                        values.setdefault((row.features, row.evaluator), []).append(row.value)
            print(f"\n## {name}, {labels}\n")
            for (features, evaluator), found in values.items():
                print(f"{features:12} {evaluator:8} {spread(found)}")
