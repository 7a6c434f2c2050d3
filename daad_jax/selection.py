"""Which recipe is best, asked of normal images alone: held-out ones against corruptions of them.

A recipe that tells normal images from what was broken on purpose knows what is normal. docs/recipes.md
says how well that ranks recipes where the truth is known.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from sklearn.metrics import roc_auc_score

from daad_jax.calibration import Unit
from daad_jax.config import Config
from daad_jax.corruptions import anomalies_of, corrupt
from daad_jax.parallel import Scoring
from daad_jax.scorer import variables_of
from daad_jax.scoring import Variables, alignment_distance, reconstruction_distance, residual, smooth
from daad_jax.state import TrainState
from daad_jax.step import make_score_step

DISTANCES = ("squared", "cosine")  # "l2" ranks as "squared" does
SMOOTHINGS = (0.0, 1.0, 2.0)
GAMMAS = (1.0, 0.9, 0.5, 0.0)
MOST, ENOUGH = 300, 300  # held-out images in use; corrupted ones of a kind (few images serve repeatedly)
BATCH = 32  # images a device

Setting = tuple[str, float]  # distance and smoothing
Distances = tuple[dict[Setting, np.ndarray], np.ndarray]  # R of every setting, and L: `[N]` each


@dataclass(frozen=True)
class Choice:
    """A way to score with a trained run, and how well it finds corruptions.

    `separations`: AUROC of every kind of corruption against the same held-out images untouched.
    """

    distance: str
    smoothing: float
    gamma: float
    separations: dict[str, float]

    @property
    def separation(self) -> float:
        return float(np.mean(list(self.separations.values())))


def choices(state: TrainState, config: Config, held_out: np.ndarray) -> list[Choice]:
    """All ways to score with this state, the best first.

    Args:
        state: trained.
        config: of the run.
        held_out: normal images that did not train, uint8 `[N, H, W, C]`, N at least 2.
    """
    held_out = held_out[:MOST]
    kinds, radii = anomalies_of(config.data.protocol)
    measure = _make_measure(config, variables_of(state))
    normal, rounds = measure(held_out), -(-ENOUGH // len(held_out))
    corrupted = {
        kind: measure(np.concatenate([corrupt(held_out, kind, radii, seed) for seed in range(rounds)]))
        for kind in kinds
    }
    found = [
        Choice(
            *setting,
            gamma,
            {kind: separation(*_fused(normal, of, setting, gamma)) for kind, of in corrupted.items()},
        )
        for setting in normal[0]
        for gamma in (GAMMAS if state.discriminator else (1.0,))
    ]
    return sorted(found, key=lambda choice: -choice.separation)


def separation(normal: np.ndarray, corrupted: np.ndarray) -> float:
    """AUROC of scores `[N]` against scores `[M]`: 1 finds all corruptions, 0.5 is chance."""
    truth = np.repeat([0, 1], [len(normal), len(corrupted)])
    return float(roc_auc_score(truth, np.concatenate([normal, corrupted])))


def _fused(
    normal: Distances, corrupted: Distances, setting: Setting, gamma: float
) -> tuple[np.ndarray, np.ndarray]:
    """A = g R + (1 - g) L of both, in units of the normal ones. `[N]` and `[M]`."""
    r, alignment = Unit.of(normal[0][setting]).std, Unit.of(normal[1]).std
    a, b = (gamma * of[0][setting] / r + (1 - gamma) * of[1] / alignment for of in (normal, corrupted))
    return a, b


def _make_measure(config: Config, variables: Variables) -> Callable[[np.ndarray], Distances]:
    """The function from uint8 images `[N, H, W, C]` to all their distances, with one pass of the networks."""
    score_step = make_score_step(config)
    settings = [(distance, smoothing) for distance in DISTANCES for smoothing in SMOOTHINGS]

    def distances(variables: Variables, batch: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        images, rebuilt, real, fake = score_step(*variables, batch)
        turns = len(rebuilt)

        def r(turn: int, distance: str, smoothing: float) -> jax.Array:
            x, y = smooth(images, smoothing), smooth(rebuilt[turn], smoothing)
            return reconstruction_distance(residual(x, y, distance), distance)

        found = [sum(r(turn, *setting) for turn in range(turns)) / turns for setting in settings]
        if not real:
            return found, found[0]
        return found, sum(alignment_distance(real[-1], fake[-1][turn]) for turn in range(turns)) / turns

    scoring = Scoring(distances)
    placed, size = scoring.place(variables), BATCH * scoring.devices

    def measure(images: np.ndarray) -> Distances:
        parts = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            fill = np.repeat(batch[-1:], size - len(batch), axis=0)
            r, alignment = scoring.fetch(scoring(placed, np.concatenate([batch, fill])))
            parts.append(np.stack([*r, alignment])[:, : len(batch)].astype(np.float64))
        rows = np.concatenate(parts, axis=1)
        return dict(zip(settings, rows)), rows[-1]

    return measure
