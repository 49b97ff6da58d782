"""I-JEPA on Fashion-MNIST without augmentation: the default, what each part is worth, and how it scales with data.

    python recipes/i_jepa_fashion_mnist.py                  # three seeds
    python recipes/i_jepa_fashion_mnist.py --part losses    # without and with each anti-collapse loss, one seed
    python recipes/i_jepa_fashion_mnist.py --part images    # with fewer unlabelled images, one seed
    python recipes/i_jepa_fashion_mnist.py --part probes    # linear against attentive probe, numbers of labels
    python recipes/i_jepa_fashion_mnist.py --part blocks    # the paper's blocks in one predictor pass or in four

Fashion-MNIST is read from an idx folder (Debian package dataset-fashion-mnist, or --data FOLDER).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from seeds import run, table

import jepakit

EVALUATORS = ["low-shot-10", "knn-20", "linear"]
# 1,000 steps of 128 images are two epochs; a run this short needs a quicker average than the default's 0.996.
SHORT: dict[str, Any] = {"steps": 1000, "ema": 0.99}
PROBES = ["low-shot-1", "low-shot-5", "low-shot-10", "low-shot-50", "low-shot-200", "linear", "attentive", "knn-20"]
# Weights that bring each loss near the size of the prediction loss.
LOSSES: dict[str, dict[str, Any]] = {
    "none": {},
    "vicreg": {"anti_collapse": "vicreg", "vicreg": {"invariance": 2.5, "variance": 1.25, "covariance": 0.1}},
    "sigreg": {"anti_collapse": "sigreg", "sigreg": {"weight": 1.0}, "invariance": 1.0},
    "barlow": {"anti_collapse": "barlow", "barlow": {"weight": 0.01}},
    "infonce": {"anti_collapse": "infonce", "infonce": {"weight": 0.1}},
}
PAPER_MASKS: dict[str, Any] = {"targets": 4, "target_scale": (0.15, 0.2), "contexts": 1}
IMAGES = (600, 6_000)  # all 60,000 are the run without anti-collapse of --part losses

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["seeds", "losses", "images", "probes", "blocks"], default="seeds")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=None)
    asked = parser.parse_args()
    common: dict[str, Any] = {"data": asked.data, "threads": asked.threads}
    seeds, first = asked.seeds, asked.seeds[:1]
    if asked.part in ("seeds", "probes"):
        folders = run("i-jepa-fashion", "i-jepa", seeds, asked.out, **SHORT, **common)
        if asked.part == "probes":
            for folder in folders:
                jepakit.evaluate(folder, evaluators=PROBES)
            EVALUATORS = PROBES
        print(f"\n{table(folders, EVALUATORS)}")
    for name, options in LOSSES.items() if asked.part == "losses" else ():
        folders = run(f"i-jepa-fashion-{name}", "i-jepa", first, asked.out, **SHORT, **common, **options)
        print(f"\n## anti-collapse {name}\n\n{table(folders, EVALUATORS, ['encoder', 'random init', 'pixels'])}")
    for predict in ("parallel", "separate") if asked.part == "blocks" else ():
        masks = {**PAPER_MASKS, "predict": predict}
        folders = run(f"i-jepa-fashion-{predict}", "i-jepa", seeds, asked.out, **SHORT, **common, masks=masks)
        print(f"\n## blocks {predict}\n\n{table(folders, EVALUATORS)}")
    for count in IMAGES if asked.part == "images" else ():
        folders = run(f"i-jepa-fashion-{count}-images", "i-jepa", first, asked.out, **SHORT, limit=count, **common)
        print(f"\n## {count} unlabelled images\n\n{table(folders, EVALUATORS, ['encoder', 'random init', 'pixels'])}")
