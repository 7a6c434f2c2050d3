"""The products of every scoring program are float32, also where a device would round them."""

import re

import jax
import numpy as np
import pytest

from daad_jax import variants
from daad_jax.errors import UserError
from daad_jax.method.state import abstract_state
from daad_jax.scoring.distances import make_distances, make_network_pass
from daad_jax.scoring.precision import with_precision
from daad_jax.scoring.scorer import variables_of
from daad_jax.training.loop import describe_products
from daad_jax.validation import validate
from tests.tiny import tiny_config

# A product or a convolution in StableHLO, with the precision of its two operands.
PRODUCT = re.compile(r"stablehlo\.(dot_general|convolution|dot)\b[^\n]*")
FULL = re.compile(r"\[(#stablehlo<precision )?HIGHEST>?, (#stablehlo<precision )?HIGHEST>?\]")


def products(text: str) -> list[str]:
    return [match.group() for match in PRODUCT.finditer(text)]


def lower(function, config, images=None):
    variables = jax.eval_shape(variables_of, abstract_state(config))
    side = config.data.height
    batch = jax.ShapeDtypeStruct((2, side, side, config.data.channels), np.uint8)
    return jax.jit(function).lower(variables, batch)


def make(variant, **changes):
    config = tiny_config(**changes)
    variants.apply(config, variant)
    if config.model.features:
        config.data.height = config.data.width = 64
    validate(config)
    return config


@pytest.mark.parametrize("variant", list(variants.VARIANTS))
@pytest.mark.parametrize("implementation", ["auto", "native", "portable"])
def test_scoring_programs_ask_for_full_products(variant, implementation):
    config = make(variant)
    found = products(lower(make_distances(config, implementation), config).as_text())
    assert len(found) > 3
    assert [line for line in found if not FULL.search(line)] == []


def test_an_option_lets_the_device_round():
    config = make("daad_plus", score__precision="device")
    found = products(lower(make_network_pass(config), config).as_text())
    assert not any(FULL.search(line) for line in found if "convolution" in line)
    with pytest.raises(UserError, match="always read in float32"):
        make("patchcore", score__precision="device")
    with pytest.raises(UserError, match=r"score\.precision = 'F32_F32_F32': must be one of"):
        make("daad", score__precision="F32_F32_F32")


def test_values_on_a_processor_do_not_depend_on_the_precision():
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    full, device = (jax.jit(with_precision(lambda a: a @ a.T, p))(x) for p in ("float32", "device"))
    np.testing.assert_array_equal(full, device)


def test_training_says_how_it_rounds():
    config = make("daad_plus")
    assert describe_products(config, "cpu") == ""
    assert describe_products(config, "tpu") == (
        "products: bfloat16 in training (config.train.precision = 'float32'), float32 in scoring "
        "(config.score.precision = 'float32')"
    )
    config.score.precision = "device"
    assert "tensorfloat32 in scoring" in describe_products(config, "gpu")
    config.train.precision = "bfloat16"
    assert "bfloat16 in training" in describe_products(config, "cpu")
    assert describe_products(make("patchcore"), "tpu") == ""  # nothing is trained
