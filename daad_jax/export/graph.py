"""Makes one function of arrays, from images to score, heat map and verdict, for export."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from daad_jax.config import Config
from daad_jax.data.images import resize, shrink_to_fit, split_margin
from daad_jax.data.pixel_range import EXACT, find_limits
from daad_jax.errors import UserError
from daad_jax.export.pillow_scaling import bilinear, can_scale
from daad_jax.models.layers import Implementation
from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.scoring.distances import Variables, make_distances
from daad_jax.scoring.filters import along_both, triangle_matrix

Size = tuple[int, int]  # (height, width)
Graph = Callable[[jax.Array], dict[str, jax.Array]]


def make_graph(
    variables: Variables,
    config: Config,
    calibration: Calibration,
    size: Size | None,
    implementation: Implementation,
) -> Graph:
    """Returns the function from images `[b, h, w, C]` to a dictionary of the outputs.

    `find_input` says which type and which values the images have. The outputs are:

    - `score`: float32 `[b]`, the anomaly score A(x).
    - `heat`: float32 `[b, H, W]`.
    - `anomalous`: bool `[b]`.
    - `reconstruction`: uint8 `[b, H, W, C]`, or uint16 in a run of 16 bits. Missing in a run with features.
    - `p_value`: float32 `[b]`, in (0, 1].

    Args:
        variables: the variables of the run's networks. They become constants of the graph.
        config: the configuration of the run.
        calibration: the calibration of the run. Its numbers become constants of the graph.
        size: (h, w) of the images; None: the model's size.
        implementation: how convolutions are computed, see `models.layers`.
    """
    distances_of = make_distances(config, implementation)
    apply_range, fit = make_range(config), make_fit(config, size or model_size(config))

    def graph(images: jax.Array) -> dict[str, jax.Array]:
        distances = distances_of(variables, fit(apply_range(images)))
        score = calibration.score(distances.reconstruction, distances.alignment)
        outputs = {
            "score": score,
            "heat": calibration.heat(distances.reconstruction_map, distances.alignment_map),
            "anomalous": ~(score <= calibration.threshold),  # so a score of NaN is anomalous
        }
        if distances.reconstructed is not None:
            outputs["reconstruction"] = distances.reconstructed
        return outputs | {"p_value": p_value(calibration, score)}

    return graph


def p_value(calibration: Calibration, score: jax.Array) -> jax.Array:
    """Computes `Calibration.p_value` for arrays: float32 `[b]` -> float32 `[b]`, in (0, 1].

    The held-out scores are rounded to float32, because `score` is float32, too.
    """
    held_out, shares = (np.asarray(x, np.float32) for x in (calibration.scores, calibration.shares))
    at_or_above = jnp.asarray(held_out)[None] >= score[:, None]
    groups = jnp.sum(jnp.where(at_or_above, jnp.asarray(shares)[None], np.float32(0)), axis=1)
    return (1 + groups) / np.float32(calibration.group_count + 1)


def outputs_of(config: Config) -> tuple[str, ...]:
    """Returns the names of the outputs, in order. A run with features has no reconstruction to show."""
    return ("score", "heat", "anomalous", *["reconstruction"] * (not config.model.features), "p_value")


class Input(NamedTuple):
    """The images that an exported function takes.

    Attributes:
        pixel_type: "uint8", or "float32" for files of any other type. The values are as the files store them.
        stored_type: the type of the image files.
        limits: the two values that become 0 and 1.
    """

    pixel_type: str
    stored_type: str
    limits: tuple[float, float]


def find_input(config: Config) -> Input:
    """Finds the input of the exported function: uint8 in a run of 8-bit files, else float32.

    Raises:
        UserError: the run has ranges for several types of files, and a value's meaning depends on the type.
    """
    data = config.data
    ranges = data.ranges
    if len(ranges) > 1:
        raise UserError(
            f"config.data.range = {data.range!r}: an exported file knows one range; convert the images to "
            "one type, and train again"
        )
    if not ranges and data.bits != 16:
        return Input("uint8", "uint8", (0.0, 255.0))
    stored_type = next(iter(ranges), "uint16") or "float32"
    return Input("float32", stored_type, find_limits(data, stored_type))


def make_range(config: Config) -> Callable[[jax.Array], jax.Array]:
    """Returns a function from the exported input to uint8, or to float32 in [0, 1] in a run of 16 bits."""
    pixel_type, _, (low, high) = find_input(config)
    if pixel_type == "uint8":
        return lambda images: images

    def apply(images: jax.Array) -> jax.Array:
        unit = jnp.clip((images - np.float32(low)) / np.float32(high - low), 0, 1)
        return unit if config.data.bits == 16 else jnp.floor(255 * unit + np.float32(EXACT)).astype(jnp.uint8)

    return apply


def make_fit(config: Config, size: Size) -> Callable[[jax.Array], jax.Array]:
    """Returns a function that brings images of one size to the model's size, as `data.images.prepare` does.

    The function takes uint8 `[b, h, w, C]`, and returns uint8 `[b, H, W, C]`. In a run of 16 bits, the
    function takes float32 in [0, 1], and returns uint16.

    Args:
        config: the configuration of the run.
        size: (h, w) of the images.

    Raises:
        UserError: the run accepts only images of its own size, or the images are over 256 times as large.
    """
    data, target = config.data, model_size(config)
    is_deep = data.bits == 16
    if size == target:
        return _to_16_bits if is_deep else lambda images: images
    if data.fit == "exact":
        raise UserError(
            f"--height {size[0]} --width {size[1]}: this run accepts only images of {target[0]} x "
            f"{target[1]} (config.data.fit = 'exact'); leave both options out"
        )
    inner = shrink_to_fit(*size, *target) if data.fit == "pad" else target
    if not is_deep and not all(map(can_scale, size, inner)):
        raise UserError(
            f"--height {size[0]} --width {size[1]}: this is over 256 times the model's size; scale the "
            "images first"
        )
    scale: Callable[[jax.Array], jax.Array]
    if is_deep:
        rows, columns = (triangle_matrix(*pair).astype(np.float32) for pair in zip(size, inner))
        scale = lambda images: _to_16_bits(along_both(rows, columns, images))  # noqa: E731
    else:
        scale = partial(bilinear, height=inner[0], width=inner[1], rows_first=scales_rows_first(size, inner))
    if inner == target:
        return scale
    # Repeat the edges by index, because jax2onnx 0.17.1 exports jnp.pad of one axis with mode "edge" wrongly.
    places = [np.pad(np.arange(n), split_margin(n, m), mode="edge") for n, m in zip(inner, target)]
    return lambda images: jnp.take(jnp.take(scale(images), places[0], axis=1), places[1], axis=2)


def _to_16_bits(unit: jax.Array) -> jax.Array:
    return jnp.rint(65535 * unit).astype(jnp.uint16)


def scales_rows_first(size: Size, target: Size) -> bool:
    """Finds by trial whether the installed Pillow scales rows before columns; versions differ.

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
