"""Ranks trained runs, and the ways to score with them, by held-out normal images alone."""

from pathlib import Path

import numpy as np

from daad_jax.data import datasets
from daad_jax.errors import UserError
from daad_jax.selection.ranking import Choice, choices
from daad_jax.training import checkpoint

SHOWN = 10  # further ways to score, of whatever run


def select(runs: list[Path]) -> list[tuple[Path, Choice]]:
    """Returns the ways to score of all runs, best first, and prints the best; no test image is read.

    Raises:
        UserError: a run without a readable checkpoint, with fewer than two held-out images, or of another
            protocol than the first: they are measured against different corruptions.
    """
    found: list[tuple[Path, Choice]] = []
    protocol = ""
    for run in runs:
        state, config, _ = checkpoint.load(run)
        protocol = protocol or config.data.protocol
        if config.data.protocol != protocol:
            raise UserError(
                f"{run}: config.data.protocol = {config.data.protocol!r}, but {runs[0]} has {protocol!r}; "
                "these do not compare"
            )
        held_out = np.asarray(datasets.load(config).calibration.images[:])
        if len(held_out) < 2:
            raise UserError(f"{run}: 1 held-out image; at least 2 are needed (data.calibration_fraction)")
        found += [(run, choice) for choice in choices(state, config, held_out)]
    found.sort(key=lambda pair: -pair[1].separation)
    kinds = list(found[0][1].separations)
    print(f"separation of held-out normal images from corruptions of them ({', '.join(kinds)})")
    best = [next(pair for pair in found if pair[0] == run) for run in dict.fromkeys(run for run, _ in found)]
    further = [pair for pair in found if pair not in best][:SHOWN]
    print("\n".join(["the best way to score of every run:", *(_line(*pair) for pair in best)]))
    print("\n".join(["further ways, best first:", *(_line(*pair) for pair in further)]))
    return found


def _line(run: Path, choice: Choice) -> str:
    each = " ".join(f"{value:.3f}" for value in choice.separations.values())
    return (
        f"{choice.separation:.4f}  {run}  --config.score.distance={choice.distance} "
        f"--config.score.smoothing={choice.smoothing:g} --config.score.pooling={choice.pooling} "
        f"--config.score.alignment={choice.alignment} "
        f"--config.score.gamma={choice.gamma:g}  ({each})"
    )
