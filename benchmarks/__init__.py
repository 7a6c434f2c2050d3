"""Measurements of speed and memory beside PyTorch: `python -m benchmarks -h`."""
