"""Every configuration loads; impossible values are one line that names the key."""

import pytest

from daad_jax import config as config_lib
from daad_jax.config import Config
from daad_jax.errors import UserError
from daad_jax.recipes import load_recipe
from daad_jax.validation import validate
from daad_jax.variants import VARIANTS
from tests.tiny import tiny_feature_config

NAMES = ["cifar10", "mnist", "solar_cells", "mvtec_ad", "folder"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("words", ["", "smoke", *VARIANTS])
def test_configs_are_valid_and_survive_json(name, words):
    config = load_recipe(f"{name}:{words}")
    validate(config)
    assert config_lib.from_json(config_lib.to_json(config)) == config
    assert config.name.startswith(name)


def test_variants_are_the_papers_columns():
    def of(variant):
        config = load_recipe(f"mnist:3,{variant}")
        return any(config.model.skips), [n > 0 for n in config.model.memory_items], config.uses_discriminator

    assert of("ae") == (False, [False] * 4, False)
    assert of("ae_skip") == (True, [False] * 4, False)
    assert of("memae") == (False, [True, False, False, False], False)
    assert of("daad") == (True, [True] * 4, False)
    assert of("daad_plus") == (True, [True] * 4, True)

    def division(variant):
        return load_recipe(f"cifar10:3,{variant}").model.division

    assert division("memae")[0] == (0, 0, 1)  # pixel-wise
    assert division("daad") == division("daad_plus") == ((1, 1, 1), (2, 2, 1), (4, 4, 1), (8, 8, 1))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("data.height", 30, "nearest is 32"),
        ("data.protocol", "oneclass", "did you mean 'one_class'"),
        ("data.channels", 2, "must be 1"),
        ("model.memory_items", (5, 5), "needs levels = 4 entries"),
        ("model.division", ((1, 1),) * 4, "must be of type"),
        ("model.temperature", 0.0, "above 0"),
        ("train.steps", 0, "at least 1"),
        ("train.steps", 1.5, "must be of type int"),
        ("train.learning_rate", float("nan"), "must be of type float"),
        ("score.gamma", 1.5, r"\[0, 1\]"),
        ("score.alignment", "layer", "did you mean .layers."),
        ("train.restore", "turn", "did you mean .turns."),
        ("train.restore", "turns_grey", "in the order grey_turns"),
        ("train.restore", "grey_grey", "name each task once"),
        ("loss.distance", "l1", "must be one of squared, l2"),
        ("loss.generator", "min_max", "did you mean 'minimax'"),
        ("score.distance", "cosin", "did you mean 'cosine'"),
        ("train.schedule", "linear", "must be one of constant, cosine"),
        ("score.false_alarm_rate", 0.0, r"\(0, 1\)"),
    ],
)
def test_impossible_values(key, value, says):
    config = Config()
    node, _, leaf = key.partition(".")
    setattr(getattr(config, node), leaf, value)
    with pytest.raises(UserError, match=rf"config\.{key} = .*{says}"):
        validate(config)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("model.items", "core_set", "did you mean 'coreset'"),
        ("model.features", "efficientnet_light0", "did you mean 'efficientnet_lite0'"),
        ("model.feature_scaling", "white", "must be one of raw, standardised, whitened"),
        ("model.neighbourhood", 2, "must be odd"),
        ("model.neighbourhood", -1, "must be odd, 1 or more"),
        ("model.blocks", (), "needs 1 to 8 entries"),
        ("model.blocks", (8,) * 9, "needs 1 to 8 entries"),
        ("model.blocks", (16, -8), "needs sides in pixels"),
        ("model.feature_layers", ((4,),), "one tuple of layers for each of the 2 model.blocks"),
        ("model.feature_layers", ((4,), ()), "one tuple of layers for each"),
        ("model.feature_layers", ((4,), (16,)), "has the layers 0 to 15"),
        ("model.memory_items", (40,), "needs one number of 1 or more for each of the 2 model.blocks"),
        ("model.memory_items", (40, 0), "needs one number of 1 or more"),
        ("model.nearest", 9, "must be between 0 .* and the smallest of model.memory_items"),
        ("model.nearest", -1, "must be between 0"),
        ("model.temperature", 0.0, "above 0"),
        ("score.weights", (1.0,), "needs one number of 0 or more for each of the 2 model.blocks"),
        ("score.weights", (0.0, 0.0), "one of them above 0"),
        ("score.heat_weights", (1.0, -1.0), "needs one number of 0 or more"),
        ("score.gamma", 0.5, "no discriminator to score with"),
        ("train.restore", "grey", "must be '' if model.features is set"),
        ("data.height", 0, "must be between 1 and 4096"),
        ("data.width", 4097, "must be between 1 and 4096"),
    ],
)
def test_impossible_values_of_a_run_on_features(key, value, says):
    config = tiny_feature_config()
    validate(config)
    node, _, leaf = key.partition(".")
    setattr(getattr(config, node), leaf, value)
    with pytest.raises(UserError, match=rf"config\.{key}\s?=.*{says}") as raised:
        validate(config)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model__features": ""}, r"config\.model\.items = 'coreset': a coreset needs features"),
        ({"model__items": "learned"}, r"config\.model\.blocks = \(16, 0\): needs one entry"),
        (
            {"model__items": "learned", "model__blocks": (8,), "data__height": 80},
            r"config\.data\.height = 80: must be a multiple of model\.blocks \* 2\^levels = 32",
        ),
        (
            {"model__items": "learned", "model__blocks": (8, 8)},
            r"config\.model\.blocks = \(8, 8\): needs one entry if the items are learned",
        ),
        (
            {"model__items": "learned", "model__blocks": (0,), "model__feature_layers": ()},
            r"config\.model\.blocks = \(0,\): needs sides in pixels; 0 is the whole image, for a",
        ),
        (
            {"model__features": "dinov2_vits14", "model__feature_layers": ()},
            r"takes sides that are multiples of 14 only, not 64 x 64; set config\.data\.height=70",
        ),
    ],
)
def test_values_that_features_do_not_allow_together(changes, says):
    with pytest.raises(UserError, match=says) as raised:
        validate(tiny_feature_config(**changes))
    assert "\n" not in str(raised.value)


def test_stored_configurations_are_not_trusted():
    with pytest.raises(UserError, match="not JSON"):
        config_lib.from_json("import os")
    with pytest.raises(UserError, match=r"config\.evil: unknown key"):
        config_lib.from_json('{"evil": 1}')


def test_a_stored_configuration_is_one_again(tmp_path):
    config, path = Config(name="x"), tmp_path / "a:b, c.json"
    config.train.steps = 7
    path.write_text(config_lib.to_json(config))
    assert load_recipe(f"stored:{path}") == config
    for missing in ("", str(tmp_path / "none.json")):
        with pytest.raises(UserError, match=r"cannot be read; give a run's config\.json"):
            load_recipe(f"stored:{missing}")


def test_nearest_key():
    assert config_lib.nearest_key("train.batchsize") == "train.batch_size"
