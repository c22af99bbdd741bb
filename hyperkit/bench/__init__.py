"""``python -m hyperkit.bench``: speed and memory as ratios to a plain implementation in the same run."""
