"""One function of arrays from uint8 images to score, heat map and verdict, for export."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from daad_jax.config import Config
from daad_jax.data.images import resize, shrink_to_fit, split_margin
from daad_jax.errors import UserError
from daad_jax.export.pillow_scaling import bilinear, can_scale
from daad_jax.models.layers import Implementation
from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.scoring.distances import Variables, make_distances

OUTPUTS = ("score", "heat", "anomalous", "reconstruction")
Size = tuple[int, int]  # (height, width)
Graph = Callable[[jax.Array], dict[str, jax.Array]]


def make_graph(
    variables: Variables,
    config: Config,
    calibration: Calibration,
    size: Size | None,
    implementation: Implementation,
) -> Graph:
    """The function from uint8 images `[b, h, w, C]` of `size` to a dictionary of `OUTPUTS`.

    The outputs are `score` float32 `[b]`, `heat` float32 `[b, H, W]`, `anomalous` bool `[b]` and
    `reconstruction` uint8 `[b, H, W, C]`. Variables and calibration are constants of the graph.
    """
    distances_of = make_distances(config, implementation)
    fit = make_fit(config, size or model_size(config))

    def graph(images: jax.Array) -> dict[str, jax.Array]:
        distances = distances_of(variables, fit(images))
        score = calibration.score(distances.reconstruction, distances.alignment)
        return {
            "score": score,
            "heat": calibration.heat(distances.reconstruction_map, distances.alignment_map),
            "anomalous": score > calibration.threshold,
            "reconstruction": distances.reconstructed,
        }

    return graph


def make_fit(config: Config, size: Size) -> Callable[[jax.Array], jax.Array]:
    """`data.images.fit` for images of one size, as a function of arrays.

    The function takes uint8 `[b, h, w, C]` and returns `[b, H, W, C]`.

    Raises:
        UserError: the model accepts its own size only, or is far too small for this size.
    """
    data, target = config.data, model_size(config)
    if size == target:
        return lambda images: images
    if data.fit == "exact":
        raise UserError(
            f"--height {size[0]} --width {size[1]}: this run accepts only images of {target[0]} x "
            f"{target[1]} (config.data.fit = 'exact'); leave both options out"
        )
    inner = shrink_to_fit(*size, *target) if data.fit == "pad" else target
    if not all(map(can_scale, size, inner)):
        raise UserError(
            f"--height {size[0]} --width {size[1]}: this is over 256 times the model's size; scale the "
            "images first"
        )
    scale = partial(bilinear, height=inner[0], width=inner[1], rows_first=scales_rows_first(size, inner))
    if inner == target:
        return scale
    # Repeat the edges by index, because jax2onnx 0.17.1 exports jnp.pad of one axis with mode "edge" wrongly.
    places = [np.pad(np.arange(n), split_margin(n, m), mode="edge") for n, m in zip(inner, target)]
    return lambda images: jnp.take(jnp.take(scale(images), places[0], axis=1), places[1], axis=2)


def scales_rows_first(size: Size, target: Size) -> bool:
    """True if the installed Pillow scales rows before columns. Versions differ, so this is found by trial.

    Raises:
        UserError: neither order gives Pillow's pixels.
    """
    image = np.random.default_rng(0).integers(0, 256, (*size, 1), np.uint8)
    expected = resize(image, *target)
    for order in (False, True):
        if np.array_equal(bilinear(jnp.asarray(image)[None], *target, rows_first=order)[0], expected):
            return order
    raise UserError(
        "the installed version of Pillow scales images in an unknown way; leave out --height and --width"
    )


def model_size(config: Config) -> Size:
    return config.data.height, config.data.width
