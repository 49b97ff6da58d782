"""LeJEPA on scikit-learn's digits, and the same run without anti-collapse as the negative control.

    python recipes/lejepa_digits.py
"""

from seeds import arguments, run, table

EVALUATORS = ["low-shot-5", "low-shot-10", "linear", "knn-20"]

if __name__ == "__main__":
    asked = arguments(__doc__ or "")
    for name, options in {"lejepa-digits": {}, "lejepa-digits-control": {"anti_collapse": "none"}}.items():
        folders = run(name, "lejepa", asked.seeds, asked.out, data="digits", threads=asked.threads, **options)
        print(f"\n## {name}\n\n{table(folders, EVALUATORS)}")
