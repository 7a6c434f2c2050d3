"""What an image shows of its anomaly: R(x), L(x) and where they come from, as pure functions of arrays.

R compares an image with its reconstruction, L the discriminator's features of both (paper: A(x) = g R
+ (1 - g) L). Each distance has a map of the places that it comes from. `calibration.py` brings all four
to one scale.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from daad_jax.config import Config
from daad_jax.method import restoration
from daad_jax.method.losses import norm
from daad_jax.method.state import (
    build_discriminator,
    build_generator,
)
from daad_jax.models.layers import Implementation
from daad_jax.scoring.filters import along_both, smooth, triangle_matrix

Variables = tuple[Any, Any]  # of the generator, and of the discriminator or None
EPSILON = 1e-12


class Measured(NamedTuple):
    """What one pass says of `B` images.

    `reconstruction` R and `alignment` L `[B]` (0 without a discriminator), their maps `[B, H, W]`, and
    the reconstructed images, uint8 `[B, H, W, C]`.
    """

    reconstruction: jax.Array
    alignment: jax.Array
    reconstruction_map: jax.Array
    alignment_map: jax.Array
    rebuilt: jax.Array


def residual(x: jax.Array, y: jax.Array, kind: str) -> jax.Array:
    """The difference whose length is R: `[B, H, W, C]` twice -> `[B, H, W, C]`.

    "l2" and "squared": x - y. "cosine": the same of images brought to a mean square of 1, so blind to the
    strength of the light. "correlation": the same of images brought to a mean of 0 first, so blind to
    brightness and contrast.
    """
    if kind not in ("cosine", "correlation"):
        return x - y
    if kind == "correlation":
        x, y = (v - jnp.mean(v, axis=(1, 2, 3), keepdims=True) for v in (x, y))
    length = float(np.sqrt(np.prod(x.shape[1:])))
    return length * (x / norm(x).reshape(-1, 1, 1, 1) - y / norm(y).reshape(-1, 1, 1, 1))


def reconstruction_distance(
    difference: jax.Array, kind: str, pooling: int = 1, sigma: float = 0.0
) -> jax.Array:
    """R from the residual `[B, H, W, C]` -> `[B]`.

    "l2" is the paper's plain norm, "squared" the mean square, "cosine" the relative distance
    1 - cos(x, y), here as half the squared distance of unit vectors, which does not cancel, and
    "correlation" likewise 1 - corr(x, y).

    With `pooling` above 1 the mean over places is the power mean of that exponent, of squares smoothed
    by a Gaussian of `sigma` pixels: those places count most that differ most.
    """
    if kind == "l2" and pooling == 1:
        return norm(difference)
    if pooling == 1:
        square = jnp.mean(jnp.square(difference), axis=(1, 2, 3))
    else:
        places = smooth(jnp.mean(jnp.square(difference), axis=-1, keepdims=True), sigma)
        square = power_mean(places[..., 0], pooling)
    if kind == "l2":
        return jnp.sqrt(np.prod(difference.shape[1:]).astype(np.float32) * square)
    return square if kind == "squared" else 0.5 * square


def power_mean(values: jax.Array, exponent: int) -> jax.Array:
    """(mean v^p)^(1/p) over places, from the mean (1) towards the largest: `[B, H, W]` >= 0 -> `[B]`."""
    largest = jnp.maximum(jnp.max(values, axis=(1, 2), keepdims=True), EPSILON)
    mean = jnp.mean(jax.lax.integer_pow(values / largest, exponent), axis=(1, 2))
    return largest[:, 0, 0] * mean ** (1 / exponent)


def alignment_distance(real: jax.Array, fake: jax.Array) -> jax.Array:
    """L = ||f_D(x) - f_D(x^)||_2: maps `[B, h, w, F]` twice -> `[B]`."""
    return norm(real - fake)


def alignment_map(real: Sequence[jax.Array], fake: Sequence[jax.Array], height: int, width: int) -> Any:
    """Where the extractor sees a difference: `[B, height, width]`.

    f_D alone is too coarse to show a place, so every layer counts the same: the squared distance of
    the two feature vectors of a place, each of length 1, scaled up bilinearly and averaged over layers.
    """

    def layer(a: jax.Array, b: jax.Array) -> jax.Array:
        a, b = (v * jax.lax.rsqrt(jnp.sum(v * v, -1, keepdims=True) + EPSILON) for v in (a, b))
        square = jnp.sum(jnp.square(a - b), -1, keepdims=True)
        sizes = zip(square.shape[1:3], (height, width))
        rows, columns = (triangle_matrix(*pair).astype(np.float32) for pair in sizes)
        return along_both(rows, columns, square)[..., 0]

    return sum(layer(a, b) for a, b in zip(real, fake)) / len(real)


def make_measure(
    config: Config, implementation: Implementation = "auto"
) -> Callable[[Variables, jax.Array], Measured]:
    """The pure function from variables and uint8 images `[B, H, W, C]` to what they show.

    `implementation`: see `make_score_step`.
    """
    score_step = make_score_step(config, implementation)
    score = config.score
    height, width = config.data.height, config.data.width
    sigma = score.heat_smoothing * min(height, width)

    def places(square: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.maximum(smooth(square[..., None], sigma)[..., 0], 0.0))

    def measure(variables: Variables, batch: jax.Array) -> Measured:
        images, rebuilt, real, fake = score_step(*variables, batch)
        turns = range(len(rebuilt))  # one, unless the image is restored from several

        def mean(values: Iterable[jax.Array]) -> jax.Array:
            return jnp.mean(jnp.stack([*values]), axis=0)

        x, y = smooth(images, score.smoothing), [smooth(rebuilt[t], score.smoothing) for t in turns]
        differences = [residual(x, y[t], score.distance) for t in turns]
        r = mean(reconstruction_distance(d, score.distance, score.pooling, sigma) for d in differences)
        r_map = places(mean(jnp.mean(jnp.square(d), -1) for d in differences))
        shown = jnp.rint(255 * rebuilt[0]).astype(jnp.uint8)
        if not real:
            return Measured(r, jnp.zeros_like(r), r_map, jnp.zeros_like(r_map), shown)
        squares = mean(alignment_map(real, [m[t] for m in fake], height, width) for t in turns)
        if score.alignment == "layers":
            alignment = jnp.mean(squares, axis=(1, 2))
        else:
            alignment = mean(alignment_distance(real[-1], fake[-1][t]) for t in turns)
        return Measured(r, alignment, r_map, places(squares), shown)

    return measure


class ScoreStep(NamedTuple):
    """Images `[B, H, W, C]` in [0, 1] and their reconstructions `[T, B, H, W, C]`, T = 1 unless an image
    is restored from its T turns, and the extractor's maps of both, one `[B, h, w, F]` and
    `[T, B, h, w, F]` a layer, f_D last (none without a discriminator)."""

    images: jax.Array
    reconstructions: jax.Array
    real_maps: tuple[jax.Array, ...]
    fake_maps: tuple[jax.Array, ...]


def make_score_step(
    config: Config, implementation: Implementation = "auto"
) -> Callable[[Any, Any, jax.Array], ScoreStep]:
    """What scoring needs of both networks, with running batch statistics: no image sees another.

    `implementation` is that of the generator's convolutions (`models/layers.py`), for programs that
    are traced here and run elsewhere.

    Returns:
        `score_step(generator_variables, discriminator_variables, images)`, images uint8
        `[B, H, W, C]`.
    """
    generator: Any = build_generator(config, implementation=implementation)
    discriminator: Any = build_discriminator(config)

    def score_step(generator_variables: Any, discriminator_variables: Any, batch: jax.Array) -> ScoreStep:
        images = restoration.to_unit(batch)
        inputs = restoration.for_scoring(images, config.train.restore)
        turns = inputs.shape[:2]
        flat, _ = generator.apply(generator_variables, inputs.reshape(-1, *images.shape[1:]), train=False)
        rebuilt = flat.reshape(*turns, *images.shape[1:])
        if discriminator_variables is None:
            return ScoreStep(images, rebuilt, (), ())
        _, real = discriminator.apply(discriminator_variables, images, train=False)
        _, fake = discriminator.apply(discriminator_variables, flat, train=False)
        return ScoreStep(images, rebuilt, real, tuple(m.reshape(*turns, *m.shape[1:]) for m in fake))

    return score_step
