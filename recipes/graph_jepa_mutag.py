"""Graph-JEPA on MUTAG by the benchmark's protocol: ten stratified folds of 188 molecules, logistic regression.

    pip install 'jepakit[graphs]'
    python recipes/graph_jepa_mutag.py --threads 1

Pre-training sees all graphs and no label; the probe is fitted on nine folds and asked about the tenth. A fold is 19 graphs,
so besides the means the differences are taken fold by fold.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from seeds import arguments, run
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jepakit.config import read_config
from jepakit.interop.embedding import embed_samples
from jepakit.interop.load import load
from jepakit.interop.runs import build_system
from jepakit.verbs.pretrain import open_data

# The paper's 32 parts, 3 targets and 50 epochs: two batches of 128 each.
MUTAG: dict[str, Any] = {"data": "mutag", "test_fraction": 0.0, "parts": 32, "targets": 3, "steps": 100}


def folds_of(folder: Path) -> dict[str, np.ndarray]:
    """Accuracy in each of ten folds of what was learned, of the same network untrained, and of the plain features."""
    config = read_config(folder)
    graphs, inputs = open_data(config).train, config.inputs
    torch.manual_seed(config.training.seed + 1000)
    features = {
        "Graph-JEPA": embed_samples(load(folder), inputs, graphs),
        "random init": embed_samples(build_system(config).eval().encode, inputs, graphs),
        inputs.plain_name: inputs.plain([graphs[i] for i in range(len(graphs))]),
    }
    folds = StratifiedKFold(10, shuffle=True, random_state=config.training.seed)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return {name: cross_val_score(probe, z.numpy(), graphs.labels, cv=folds) for name, z in features.items()}


if __name__ == "__main__":
    asked = arguments(__doc__ or "")
    folders = run("graph-jepa-mutag", "graph-jepa", asked.seeds, asked.out, threads=asked.threads, **MUTAG)
    found = [folds_of(folder) for folder in folders]
    print("\n| features | accuracy, mean ± sd over seeds | minus Graph-JEPA, fold by fold |\n|---|---|---|")
    for name in found[0]:
        means = [float(scores[name].mean()) for scores in found]
        apart = np.concatenate([scores[name] - scores["Graph-JEPA"] for scores in found])
        print(f"| {name} | {np.mean(means):.3f} ± {np.std(means):.3f} | {apart.mean():+.3f} ± {apart.std():.3f} |")
    walls = [json.loads((folder / "environment.json").read_text("utf-8"))["wall_s"] for folder in folders]
    print(f"\n{len(folders)} seeds of ten folds, training {np.mean(walls):.0f} s each.")
