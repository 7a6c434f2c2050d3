"""How many images are scored at once, and what of them calibrates."""

import numpy as np
import pytest

from daad_jax.method import state
from daad_jax.scoring import scorer
from daad_jax.scoring.anomaly_score import calibrate
from daad_jax.scoring.scorer import Scorer, choose_batch_size, images_at_once, variables_of
from tests.method.test_step import small


@pytest.mark.parametrize(
    ("size", "backend", "count"),
    [
        (32, "cpu", 64), (64, "cpu", 16), (256, "cpu", 8),
        (8, "gpu", 1024), (32, "tpu", 256), (128, "gpu", 16), (1024, "gpu", 8),
    ],
)  # fmt: skip
def test_more_where_images_are_small(size, backend, count):
    assert images_at_once(size * size, backend) == count


def test_a_cpu_with_few_cores_reads_features_image_by_image():
    config = small()
    config.model.features = "efficientnet_lite0"
    config.data.height = config.data.width = 224
    chosen = {cores: choose_batch_size(config, "cpu", cores) for cores in (0, 1, 2, 4, 16, 64)}
    assert chosen == {0: 1, 1: 1, 2: 1, 4: 2, 16: 8, 64: 8}
    assert choose_batch_size(config, "gpu", 2) == 8
    config.score.batch_size = 3
    assert choose_batch_size(config, "cpu", 2) == 3


def test_maps_of_some_held_out_images_are_kept(monkeypatch):
    """Of every `every`-th over all batches, and only those: they calibrate as the whole list cut would."""
    config = small()
    held_out = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), np.uint8)
    variables, measuring = variables_of(state.create_state(config)), Scorer(config, 1)
    monkeypatch.setattr(scorer, "MIN_CALIBRATION_MAPS", 4)
    monkeypatch.setattr(scorer, "CALIBRATION_MAP_PIXELS", 20 * 16 * 16)  # every third
    seen = [m for _, m in measuring.distances(measuring.place(variables), measuring.split(held_out))]
    r, alignment, r_maps, l_maps = (np.concatenate(part) for part in list(zip(*seen))[:4])
    assert len(held_out) % measuring.batch_size
    assert measuring.batch_size % 3
    expected = calibrate(
        r.astype(float), alignment.astype(float), r_maps[::3], l_maps[::3],
        config.score.gamma, config.score.false_alarm_rate,
    )  # fmt: skip
    assert measuring.calibrate(variables, held_out) == expected
