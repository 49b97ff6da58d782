"""Speed and memory, each against a named reference in the same process: `python -m benchmarks [NAME ...] [--json]`."""
