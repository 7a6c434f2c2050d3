"""A distance, an alignment, a restoration task, a loss, a variant: each is one entry of one table.

An entry that is added here is checked, trained and scored with, and no other line of code changes.
(A data set: tests/reproduction/test_cells.py.)
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daad_jax import variants
from daad_jax.errors import UserError
from daad_jax.method import losses, restoration, state
from daad_jax.method.step import make_train_step
from daad_jax.scoring import distances
from daad_jax.scoring.distances import Distance, difference, make_distances
from daad_jax.scoring.scorer import variables_of
from daad_jax.validation import validate
from tests.tiny import tiny_config

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)


def score(config):
    validate(config)
    return jax.jit(make_distances(config))(variables_of(state.create_state(config)), IMAGES)


def test_a_distance(monkeypatch):
    config = tiny_config(score__distance="tripled")
    with pytest.raises(UserError, match=r"score\.distance = 'tripled': must be one of l2, squared"):
        validate(config)
    entry = Distance(difference, lambda square, size: 3 * square)
    monkeypatch.setitem(distances.DISTANCES, "tripled", entry)
    plain = score(tiny_config(score__distance="squared"))
    np.testing.assert_allclose(score(config).reconstruction, 3 * plain.reconstruction, rtol=1e-6)


def test_an_alignment(monkeypatch):
    config = tiny_config(score__alignment="worst")
    with pytest.raises(UserError, match=r"score\.alignment = 'worst'"):
        validate(config)
    monkeypatch.setitem(
        distances.ALIGNMENTS, "worst", lambda real, fakes, square: jnp.max(square, axis=(1, 2))
    )
    assert (score(config).alignment > score(tiny_config(score__alignment="layers")).alignment).all()


def test_a_restoration_task(monkeypatch):
    config = tiny_config(train__restore="grey_dark")
    with pytest.raises(UserError, match="no task 'dark'; known: grey, turns"):
        validate(config)
    task = restoration.Task(lambda images: [0.5 * images, 0 * images], copies=2)
    monkeypatch.setitem(restoration.TASKS, "dark", task)
    assert restoration.copy_count(config.train.restore) == 2
    assert restoration.for_scoring(jnp.asarray(IMAGES), "grey_dark").shape == (2, *IMAGES.shape)
    assert np.isfinite(score(config).reconstruction).all()
    _, metrics = jax.jit(make_train_step(config))(state.create_state(config), IMAGES)
    assert np.isfinite(metrics["loss"])


def test_a_loss(monkeypatch):
    config = tiny_config(loss__distance="absolute", loss__generator="least_squares")
    with pytest.raises(UserError, match=r"loss\.distance = 'absolute'"):
        validate(config)
    monkeypatch.setitem(losses.DISTANCES, "absolute", lambda difference: jnp.mean(jnp.abs(difference)))
    monkeypatch.setitem(losses.GENERATOR_LOSSES, "least_squares", lambda logits: jnp.mean((logits - 1) ** 2))
    validate(config)
    _, metrics = jax.jit(make_train_step(config))(state.create_state(config), IMAGES)
    assert 0 < metrics["reconstruction"] < 1


def test_a_variant(monkeypatch):
    def change(config):
        config.model.temperature = 0.5

    with pytest.raises(UserError, match="'warm': no such variant"):
        variants.apply(tiny_config(), "warm")
    monkeypatch.setitem(variants.VARIANTS, "warm", variants.Variant("DAAD+, warm", change))
    value, variant, smoke = variants.parse("8,warm", "")
    config = variants.finish(tiny_config(), "mnist", value, variant, smoke)
    assert (config.name, config.model.temperature) == ("mnist-8-warm", 0.5)
