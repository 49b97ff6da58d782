"""What tuning gains on scikit-learn's digits with 100 labels: LeJEPA tuned by each method, beside a linear probe of the frozen
encoder and the same encoder trained from random weights. Labels, steps and batch are the same for all methods.

    python recipes/finetuning_digits.py --threads 1
"""

from __future__ import annotations

import json

from seeds import arguments, run, spread

import jepakit

METHODS = {"full": {}, "last-blocks": {"method": "last-blocks"}, "lora": {"method": "lora"}}

if __name__ == "__main__":
    asked = arguments(__doc__ or "")
    sources = run("finetuning-source", "lejepa", asked.seeds, asked.out, data="digits", steps=500, threads=asked.threads)
    found: dict[str, dict[int, float]] = {}
    for method, options in METHODS.items():
        for seed, source in zip(asked.seeds, sources, strict=True):
            out = asked.out / f"finetuning-{method}-seed{seed}"
            if (out / "config.yaml").exists():
                jepakit.resume(out)
            else:
                budget = {"limit": 100, "steps": 200, "threads": asked.threads}
                jepakit.finetune(source, data="digits", out=out, seed=seed, **budget, **options)
            for row in json.loads((out / "evaluation.json").read_text("utf-8"))["rows"]:
                name = method if row["features"] == "tuned" else row["features"]  # the others are the same for all methods
                found.setdefault(name, {})[seed] = row["value"]
    print("| answers of | accuracy |\n|---|---|")
    for name, values in found.items():
        print(f"| {name} | {spread(list(values.values()))} |")
