"""Paired measurements: `python -m benchmarks.train_step`."""
