"""Which recipe is best, asked of normal images alone: held-out ones against corruptions of them.

A recipe that tells normal images from what was broken on purpose knows what is normal. docs/recipes.md
says how well that ranks recipes where the truth is known.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.metrics import roc_auc_score

from daad_jax.config import ALIGNMENTS, Config
from daad_jax.method.state import TrainState
from daad_jax.runtime.devices import Scoring
from daad_jax.scoring.anomaly_score import Unit
from daad_jax.scoring.distances import (
    Variables,
    alignment_distance,
    alignment_map,
    make_score_step,
    reconstruction_distance,
    residual,
)
from daad_jax.scoring.filters import smooth
from daad_jax.scoring.scorer import variables_of
from daad_jax.selection.corruptions import anomalies_of, corrupt

DISTANCES = ("squared", "cosine", "correlation")  # "l2" ranks as "squared" does
SMOOTHINGS = (0.0, 1.0, 2.0)
POOLINGS = (1, 4, 8)
GAMMAS = (0.9, 0.5, 0.0)  # beside 1, where L does not count
MOST, ENOUGH = 300, 300  # held-out images in use; corrupted ones of a kind (few images serve repeatedly)
BATCH = 32  # images a device

Setting = tuple[str, float, int]  # distance, smoothing and pooling
SETTINGS: list[Setting] = [*itertools.product(DISTANCES, SMOOTHINGS, POOLINGS)]
Distances = dict[Setting | str, np.ndarray]  # R of every setting, L of every kind of alignment: `[N]`


@dataclass(frozen=True)
class Choice:
    """A way to score with a trained run, and how well it finds corruptions.

    `separations`: AUROC of every kind of corruption against the same held-out images untouched.
    """

    distance: str
    smoothing: float
    pooling: int
    alignment: str
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
    weights = [(ALIGNMENTS[0], 1.0)]
    if state.discriminator:
        weights += [(alignment, gamma) for alignment in ALIGNMENTS for gamma in GAMMAS]
    found = []
    for setting in SETTINGS:
        for alignment, gamma in weights:
            fused = {k: _fused(normal, of, setting, alignment, gamma) for k, of in corrupted.items()}
            found.append(
                Choice(*setting, alignment, gamma, {k: separation(*pair) for k, pair in fused.items()})
            )
    return sorted(found, key=lambda choice: -choice.separation)


def separation(normal: np.ndarray, corrupted: np.ndarray) -> float:
    """AUROC of scores `[N]` against scores `[M]`: 1 finds all corruptions, 0.5 is chance."""
    truth = np.repeat([0, 1], [len(normal), len(corrupted)])
    return float(roc_auc_score(truth, np.concatenate([normal, corrupted])))


def _fused(
    normal: Distances, corrupted: Distances, setting: Setting, alignment: str, gamma: float
) -> tuple[np.ndarray, np.ndarray]:
    """A = g R + (1 - g) L of both, in units of the normal ones. `[N]` and `[M]`."""
    if gamma == 1:
        return normal[setting], corrupted[setting]
    r, a = Unit.of(normal[setting]).std, Unit.of(normal[alignment]).std
    one, other = (gamma * of[setting] / r + (1 - gamma) * of[alignment] / a for of in (normal, corrupted))
    return one, other


def _make_measure(config: Config, variables: Variables) -> Callable[[np.ndarray], Distances]:
    """The function from uint8 images `[N, H, W, C]` to all their distances, by one pass of the networks."""
    score_step = make_score_step(config)
    height, width = config.data.height, config.data.width
    sigma = config.score.heat_smoothing * min(height, width)

    def distances(variables: Variables, batch: jax.Array) -> dict[str, jax.Array]:
        images, rebuilt, real, fake = score_step(*variables, batch)
        turns = range(len(rebuilt))

        def mean(values: Iterable[jax.Array]) -> jax.Array:
            return jnp.mean(jnp.stack([*values]), axis=0)

        def r(turn: int, distance: str, smoothing: float, pooling: int) -> jax.Array:
            x, y = smooth(images, smoothing), smooth(rebuilt[turn], smoothing)
            return reconstruction_distance(residual(x, y, distance), distance, pooling, sigma)

        def layers(turn: int) -> jax.Array:
            return jnp.mean(alignment_map(real, [m[turn] for m in fake], height, width), axis=(1, 2))

        found = {str(setting): mean(r(turn, *setting) for turn in turns) for setting in SETTINGS}
        if real:
            found["l2"] = mean(alignment_distance(real[-1], fake[-1][turn]) for turn in turns)
            found["layers"] = mean(layers(turn) for turn in turns)
        return found

    scoring = Scoring(distances)
    placed, size = scoring.place(variables), BATCH * scoring.devices
    keys = {str(setting): setting for setting in SETTINGS} | {kind: kind for kind in ALIGNMENTS}

    def measure(images: np.ndarray) -> Distances:
        parts = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            fill = np.repeat(batch[-1:], size - len(batch), axis=0)
            found = scoring.fetch(scoring(placed, np.concatenate([batch, fill])))
            parts.append({key: value[: len(batch)].astype(np.float64) for key, value in found.items()})
        return {keys[key]: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    return measure
