"""The label-free choice: what it measures, and that it tells a good model from one that copies."""

from contextlib import closing

import jax
import numpy as np
import pytest

from daad_jax.config import Config
from daad_jax.data.corruptions import anomalies_of, corrupt
from daad_jax.errors import UserError
from daad_jax.method import state
from daad_jax.method.step import make_train_step
from daad_jax.scoring.anomaly_score import Unit
from daad_jax.scoring.distances import make_distances
from daad_jax.scoring.scorer import Scorer, variables_of
from daad_jax.scoring.separation import separation
from daad_jax.selection import ranking
from daad_jax.training.checkpoint import Checkpoints
from tests.tiny import filled_state, tiny_config, tiny_feature_config

RNG = np.random.default_rng(0)


def small(adversarial: float = 1.0) -> Config:
    return tiny_config(
        data__channels=1,
        model__skips=(False,),
        model__memory_items=(4, 4),
        model__division=((1, 1, 1),) * 2,
        loss__adversarial=adversarial,
        loss__alignment=adversarial,
        score__gamma=1.0 if adversarial == 0 else 0.5,
    )


def bars(count: int) -> np.ndarray:
    """Normal images: one upright bar each."""
    images = np.zeros((count, 16, 16, 1), np.uint8)
    for image, column in zip(images, RNG.integers(2, 13, count)):
        image[2:14, column : column + 2] = 200
    return images


def test_a_run_without_networks_is_refused(tmp_path):
    config = tiny_feature_config()
    run_state = filled_state(config)
    images = RNG.integers(0, 256, (6, 64, 64, 3), np.uint8)
    calibration = Scorer(config).calibrate(variables_of(run_state), images)
    with closing(Checkpoints(tmp_path, create=True)) as checkpoints:
        checkpoints.save(run_state, config, calibration)
    with pytest.raises(UserError, match="no networks to rank"):
        ranking.select_recipe([tmp_path])


def test_separation_is_the_auroc():
    assert separation(np.array([1.0, 2.0]), np.array([3.0, 4.0, 5.0])) == 1
    assert separation(np.array([1.0, 3.0]), np.array([2.0, 4.0])) == 0.75


@pytest.mark.parametrize(
    ("alignment", "pooling"), [pytest.param("l2", 1, marks=pytest.mark.slow), ("layers", 4)]
)
def test_a_choice_is_what_scoring_with_it_gives(alignment, pooling):
    config, held_out = small(), bars(20)
    trained = state.create_state(config)
    found = ranking.rank_choices(trained, config, held_out)
    separations = [choice.separation for choice in found]
    assert separations == sorted(separations, reverse=True)
    ways = {(c.distance, c.smoothing, c.pooling, c.alignment, c.gamma): c for c in found}
    assert len(ways) == len(found) == len(ranking.SETTINGS) * (1 + 2 * len(ranking.GAMMAS))

    choice = ways["cosine", 1.0, pooling, alignment, 0.5]
    config.score.pooling = pooling
    config.score.distance, config.score.smoothing, config.score.alignment = "cosine", 1.0, alignment
    kinds, radii = anomalies_of(config.data.protocol)
    rounds = ranking.MIN_CORRUPTED // 20
    broken = np.concatenate([corrupt(held_out, "erase", radii, seed) for seed in range(rounds)])
    normal, corrupted = (
        jax.device_get(jax.jit(make_distances(config))(variables_of(trained), x)) for x in (held_out, broken)
    )
    units = Unit.measure(normal.reconstruction).std, Unit.measure(normal.alignment).std
    a, b = (0.5 * m.reconstruction / units[0] + 0.5 * m.alignment / units[1] for m in (normal, corrupted))
    assert choice.separations["erase"] == pytest.approx(separation(a, b), abs=2e-3)
    assert set(choice.separations) == set(kinds)


@pytest.mark.slow
def test_training_is_seen():
    config, images = small(adversarial=0.0), bars(160)
    config.train.learning_rate = 3e-3
    step, current = jax.jit(make_train_step(config)), state.create_state(config)
    before = ranking.rank_choices(current, config, images[:40])[0]
    for _ in range(200):
        current, _ = step(current, images[40:])
    after = ranking.rank_choices(current, config, images[:40])[0]
    assert after.separation > before.separation + 0.1
    assert after.gamma == 1


def test_distances_that_are_not_finite_rank_nothing():
    config = small()
    broken = state.create_state(config)
    broken.generator.params["stem"]["kernel"] = np.full_like(
        broken.generator.params["stem"]["kernel"], np.nan
    )
    with pytest.raises(UserError, match="of a corrupted copy of one, is not finite"):
        ranking.rank_choices(broken, config, bars(4))
