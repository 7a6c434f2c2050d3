"""What all extractors have in common."""

import jax
import numpy as np
import pytest
from jax import export

from daad_jax.errors import UserError
from daad_jax.export import exporter
from daad_jax.extractors.extractor import EXTRACTORS, find_extractor
from tests.extractors.images import assert_maps_close, waves


def random_params(extractor, layers):
    """Parameters of moderate size, so that no value overflows."""
    rng = np.random.default_rng(0)

    def draw(like):
        inputs = max(1, int(np.prod(like.shape[:-1])))
        return (rng.standard_normal(like.shape) / np.sqrt(inputs)).astype(np.float32)

    return jax.tree.map(draw, extractor.abstract_params(layers))


def test_weights_that_are_not_finite_are_refused(monkeypatch):
    extractor = find_extractor("efficientnet_lite0")
    params = {"stem": {"bias": np.zeros(3), "kernel": np.full((3, 3), np.inf)}}
    monkeypatch.setattr(type(extractor.network), "load", lambda self, layers, weights: params)
    for weights, named in (("", "efficientnet_lite0"), ("a.pt", r"a\.pt")):
        with pytest.raises(UserError, match=rf"^{named}: stem/kernel of these weights is not finite; give"):
            extractor.load([1], weights)


def test_names():
    assert all(find_extractor(name) is extractor for name, extractor in EXTRACTORS.items())
    assert all(name == extractor.name for name, extractor in EXTRACTORS.items())
    with pytest.raises(UserError, match=r"'efficientnet_light0'.* did you mean 'efficientnet_lite0'\?"):
        find_extractor("efficientnet_light0")


@pytest.mark.parametrize("name", EXTRACTORS)
def test_layers(name):
    extractor = EXTRACTORS[name]
    assert all(0 <= layer < extractor.layer_count for layer in extractor.default_layers)
    strides = [extractor.stride(layer) for layer in range(extractor.layer_count)]
    assert strides == sorted(strides)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "wide_resnet50", "dinov2_vits14"])
def test_maps_come_in_the_order_of_the_layers_and_grey_is_repeated(name):
    extractor = EXTRACTORS[name]
    params = random_params(extractor, (1, 0))
    grey = waves(56, 42, 2)[..., :1]
    second, first = extractor.apply(params, grey, (1, 0))
    colour = extractor.apply(params, np.repeat(grey, 3, axis=-1), (0, 1))
    assert_maps_close((first, second), colour, tolerance=2e-6)


def test_implementations_agree():
    extractor, layers = EXTRACTORS["efficientnet_lite0"], (1, 4, 6)
    params, images = random_params(extractor, layers), waves(50, 61, 2)

    def run(implementation):
        return jax.jit(lambda p, x: extractor.apply(p, x, layers, implementation))(params, images)

    native = run("native")
    for implementation in ("split", "portable", "auto"):
        assert_maps_close(run(implementation), native)


def test_the_maps_of_an_image_do_not_depend_on_the_others():
    extractor, layers = EXTRACTORS["efficientnet_lite0"], (4,)
    params, images = random_params(extractor, layers), waves(40, 40, 3)
    run = jax.jit(lambda x: extractor.apply(params, x, layers, "split")[0])
    together = run(images)
    changed = run(np.concatenate([images[:1], images[:1], images[2:]]))
    np.testing.assert_array_equal(together[2], changed[2])
    assert np.abs(together[1] - changed[1]).max() > 0


@pytest.mark.parametrize(
    "name",
    ["efficientnet_lite0", pytest.param("wide_resnet50", marks=pytest.mark.slow), "dinov2_vits14"],
)
def test_exported_for_any_number_of_images(name):
    extractor = EXTRACTORS[name]
    params, images = random_params(extractor, (0, 1)), waves(28, 42, 3)

    def run(x):
        return extractor.apply(params, x, (0, 1), "portable")

    shape = export.symbolic_shape("b, 28, 42, 3")
    program = export.export(jax.jit(run), platforms=("cpu", "tpu", "cuda"))(
        jax.ShapeDtypeStruct(shape, np.float32)
    )
    loaded = export.deserialize(bytearray(program.serialize()))
    assert_maps_close(loaded.call(images), run(images))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_lite0", "wide_resnet50", "dinov2_vits14"])
def test_converted_to_onnx(name):
    if problem := exporter.find_onnx_problem():
        pytest.skip(f"{problem}: pip install .[export]")
    import jax2onnx
    import onnxruntime

    extractor = EXTRACTORS[name]
    params, images = random_params(extractor, (0, 1)), waves(28, 42, 3)

    def run(x):
        return extractor.apply(params, x, (0, 1), "native")

    model = jax2onnx.to_onnx(
        run, inputs=[jax.ShapeDtypeStruct(("b", 28, 42, 3), np.float32)], opset=18, input_names=["images"]
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert_maps_close(session.run(None, {"images": images}), jax.jit(run)(images))
