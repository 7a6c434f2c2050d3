"""What the generator's input loses, against numpy."""

import jax
import numpy as np
import pytest

from daad_jax.config import Config
from daad_jax.errors import UserError
from daad_jax.method import state
from daad_jax.method.restoration import for_scoring, for_training
from daad_jax.scoring.distances import DISTANCES, make_distances, reconstruction_distance
from daad_jax.scoring.scorer import variables_of
from daad_jax.validation import validate

IMAGES = np.random.default_rng(0).random((6, 8, 8, 3)).astype(np.float32)
GREY = (IMAGES @ np.array([0.299, 0.587, 0.114], np.float32))[..., None].repeat(3, -1)


def test_training_turns_by_place():
    out = for_training(IMAGES, "turns", np.arange(6) + 1)
    for i in range(6):
        np.testing.assert_array_equal(out[i], np.rot90(IMAGES[i], i + 1))


def test_scoring_asks_for_all_turns():
    out = for_scoring(IMAGES, "grey_turns")
    assert out.shape == (4, *IMAGES.shape)
    for quarters in range(4):
        np.testing.assert_allclose(out[quarters], np.rot90(GREY, quarters, (1, 2)), rtol=1e-6)


def test_colour_is_lost_where_there_is_any():
    np.testing.assert_allclose(for_training(IMAGES, "grey", np.zeros(6, int)), GREY, rtol=1e-6)
    one = IMAGES[..., :1]
    assert for_training(one, "grey", np.zeros(6, int)) is one


def test_nothing_is_lost_by_default():
    assert for_training(IMAGES, "", np.arange(6)) is IMAGES
    np.testing.assert_array_equal(for_scoring(IMAGES, "")[0], IMAGES)


def small(restore: str) -> Config:
    config = Config()
    config.model.base_width = config.model.discriminator_width = 4
    config.model.memory_items = (3,) * 4
    config.train.restore = restore
    return config


@pytest.mark.slow
def test_the_score_is_the_mean_over_turns():
    """R(x) is the mean distance between x and the image restored from each turn of x."""
    images = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    plain, turned = small(""), small("turns")
    variables = variables_of(state.create_state(plain))
    got = jax.jit(make_distances(turned))(variables, images)
    rebuilt = [make_distances(plain)(variables, np.rot90(images, k, (1, 2))) for k in range(4)]
    expected = [
        reconstruction_distance(images / 255.0 - of.reconstructed / 255.0, DISTANCES["l2"]) for of in rebuilt
    ]
    np.testing.assert_allclose(got.reconstruction, np.mean(expected, axis=0), rtol=2e-3)
    np.testing.assert_array_equal(got.reconstructed, rebuilt[0].reconstructed)
    assert got.alignment.min() > 0


def test_turns_need_squares():
    config = small("turns")
    config.data.width = 64
    with pytest.raises(UserError, match=r"config\.train\.restore = 'turns': turns need square"):
        validate(config)
