"""Ranks trained runs, and ways to score with them, by held-out normal images and their corrupted copies.

A run that separates normal images from corrupted copies knows how normal images look. docs/recipes.md says
how well this criterion ranks runs for which the truth is known. No test image is read.
"""

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from daad_jax.config import Config, ScoreConfig
from daad_jax.data.corruptions import anomalies_of, corrupt
from daad_jax.errors import UserError
from daad_jax.method.state import TrainState
from daad_jax.scoring.anomaly_score import Unit, anomaly_score
from daad_jax.scoring.distances import (
    ALIGNMENTS,
    DISTANCES,
    Variables,
    compare_features,
    compare_images,
    make_network_pass,
)
from daad_jax.scoring.scorer import BatchedFunction, variables_of
from daad_jax.scoring.separation import separation
from daad_jax.terminal import say
from daad_jax.training import checkpoint, run_data

RANKED_DISTANCES = tuple(name for name in DISTANCES if name != "l2")  # "l2" ranks as "squared" does
SMOOTHINGS = (0.0, 1.0, 2.0)
POOLINGS = (1, 4, 8)
GAMMAS = (0.9, 0.5, 0.0)  # besides 1, which ignores L
MAX_HELD_OUT = 300  # images
MIN_CORRUPTED = 300  # images of each kind; fewer held-out images are corrupted several times
IMAGES_PER_DEVICE = 32
FURTHER_LINES = 10  # this many further ways to score are printed

Setting = tuple[str, float, int]  # distance, smoothing and pooling
SETTINGS: list[Setting] = [*itertools.product(RANKED_DISTANCES, SMOOTHINGS, POOLINGS)]
AllDistances = dict[Setting | str, np.ndarray]  # R of every setting and L of every alignment, each `[N]`


@dataclass(frozen=True)
class Choice:
    """A way to score with a trained run, and how well this way finds corruptions.

    Attributes:
        distance: the distance R, see `config.score.distance`.
        smoothing: the standard deviation of the Gaussian in pixels, see `config.score.smoothing`.
        pooling: see `config.score.pooling`.
        alignment: the distance L, see `config.score.alignment`.
        gamma: the weight of R in A(x), in [0, 1].
        separations: the AUROC of corrupted copies against held-out images, for every kind of corruption.
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


def select_recipe(runs: list[Path]) -> list[tuple[Path, Choice]]:
    """Ranks all ways to score with all runs, and prints the best ones.

    Args:
        runs: the folders of the runs.

    Returns:
        (run, choice) of every way to score, the best first.

    Raises:
        UserError: a run has no readable checkpoint, no networks, fewer than two held-out images, or another
            protocol than the first run. Protocols have different corruptions, so their numbers cannot be
            compared.
    """
    ranked: list[tuple[Path, Choice]] = []
    protocol = ""
    for run in runs:
        state, config, _ = checkpoint.load(run)
        if state.generator is None:
            raise UserError(
                f"{run}: its memories were filled from the data (config.model.items = 'coreset'), so there "
                "are no networks to rank; give runs of trained networks"
            )
        protocol = protocol or config.data.protocol
        if config.data.protocol != protocol:
            raise UserError(
                f"{run}: config.data.protocol = {config.data.protocol!r}, but {runs[0]} has {protocol!r}; "
                "their separations cannot be compared"
            )
        held_out = np.asarray(run_data.load_held_out(run, config).images[:])
        if len(held_out) < 2:
            raise UserError(
                f"{run}: only 1 image was held out, at least 2 are needed; raise data.calibration_fraction"
            )
        try:
            ranked += [(run, choice) for choice in rank_choices(state, config, held_out)]
        except UserError as error:
            raise UserError(f"{run}: {error}") from error
    # Print the best way of every run, and further ways.
    ranked.sort(key=lambda pair: -pair[1].separation)
    kinds = list(ranked[0][1].separations)
    say(f"separation of held-out normal images from corrupted copies of them ({', '.join(kinds)})")
    by_run = dict.fromkeys(run for run, _ in ranked)
    best = [next(pair for pair in ranked if pair[0] == run) for run in by_run]
    further = [pair for pair in ranked if pair not in best][:FURTHER_LINES]
    say("the best way to score of every run:", *(_line(*pair) for pair in best))
    say("further ways, the best first:", *(_line(*pair) for pair in further))
    return ranked


def rank_choices(state: TrainState, config: Config, held_out: np.ndarray) -> list[Choice]:
    """Ranks all ways to score with a state, the best first.

    Args:
        state: the state of the trained run.
        config: the configuration of the run.
        held_out: normal images that did not train, uint8 or uint16 `[N, H, W, C]`, N at least 2.

    Raises:
        UserError: a distance is not finite.
    """
    held_out = held_out[:MAX_HELD_OUT]
    kinds, radii = anomalies_of(config.data.protocol)
    function = _make_function(config)
    placed = function.place(variables_of(state))
    # Compute the distances of the held-out images, and of corrupted copies of each kind.
    normal, rounds = _all_distances(function, placed, held_out), -(-MIN_CORRUPTED // len(held_out))
    corrupted = {}
    for kind in kinds:
        copies = np.concatenate([corrupt(held_out, kind, radii, seed) for seed in range(rounds)])
        corrupted[kind] = _all_distances(function, placed, copies)
    # Measure the separation of every way to score.
    weights = [(next(iter(ALIGNMENTS)), 1.0)]  # at gamma 1 the alignment does not matter
    if state.discriminator:
        weights += [(alignment, gamma) for alignment in ALIGNMENTS for gamma in GAMMAS]
    choices = []
    for setting in SETTINGS:
        for alignment, gamma in weights:
            separations = {
                kind: separation(*_scores(normal, distances, setting, alignment, gamma))
                for kind, distances in corrupted.items()
            }
            choices.append(Choice(*setting, alignment, gamma, separations))
    return sorted(choices, key=lambda choice: -choice.separation)


def _scores(
    normal: AllDistances, corrupted: AllDistances, setting: Setting, alignment: str, gamma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns A(x) of normal images `[N]` and of corrupted images `[M]`, calibrated on the normal ones."""
    if gamma == 1:  # without a discriminator there is no L
        return normal[setting], corrupted[setting]
    units = Unit.measure(normal[setting]), Unit.measure(normal[alignment])
    a, b = (anomaly_score(x[setting], x[alignment], *units, gamma) for x in (normal, corrupted))
    return a, b


def _make_function(config: Config) -> BatchedFunction:
    """Makes a function that returns R of all settings and L of all alignments from one pass, by text keys."""
    network_pass = make_network_pass(config)

    def scored(**changes: Any) -> ScoreConfig:
        return dataclasses.replace(config.score, **changes)

    def all_distances(variables: Variables, batch: jax.Array) -> dict[str, jax.Array]:
        outputs = network_pass(variables, batch)
        distances = {}
        for distance, smoothing, pooling in SETTINGS:
            score = scored(distance=distance, smoothing=smoothing, pooling=pooling)
            distances[str((distance, smoothing, pooling))], _ = compare_images(outputs, score)
        if outputs.real_maps:
            for alignment in ALIGNMENTS:
                distances[alignment], _ = compare_features(outputs, scored(alignment=alignment))
        return distances

    return BatchedFunction(all_distances, IMAGES_PER_DEVICE)


def _all_distances(function: BatchedFunction, placed: Any, images: np.ndarray) -> AllDistances:
    """Returns all distances of images `[N, H, W, C]`. Raises UserError if a distance is not finite."""
    parts = [outputs for _, outputs in function.run(placed, function.split(images))]
    settings = {str(setting): setting for setting in SETTINGS}
    found: AllDistances = {
        settings.get(key, key): np.concatenate([part[key] for part in parts]).astype(np.float64)
        for key in parts[0]
    }
    for key, distances in found.items():
        if not np.isfinite(distances).all():
            raise UserError(
                f"a distance of a held-out image, or of a corrupted copy of one, is not finite ({key}); "
                "train another run"
            )
    return found


def _line(run: Path, choice: Choice) -> str:
    each = " ".join(f"{value:.3f}" for value in choice.separations.values())
    return (
        f"{choice.separation:.4f}  {run}  --config.score.distance={choice.distance} "
        f"--config.score.smoothing={choice.smoothing:g} --config.score.pooling={choice.pooling} "
        f"--config.score.alignment={choice.alignment} "
        f"--config.score.gamma={choice.gamma:g}  ({each})"
    )
