"""The distances R(x) and L(x) of an image, and their maps, as pure functions of arrays.

R compares an image with its reconstruction, L compares the discriminator's features of both (paper:
A(x) = g R + (1 - g) L). Each distance has a map that shows from which places the distance comes.
`anomaly_score.py` turns the distances into A(x) and the maps into one heat map.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from daad_jax.config import Config, ScoreConfig
from daad_jax.method import restoration
from daad_jax.method.features import make_encoder
from daad_jax.method.losses import norm
from daad_jax.method.state import build_discriminator, build_generator
from daad_jax.models.layers import Implementation
from daad_jax.scoring.filters import along_both, smooth, triangle_matrix
from daad_jax.scoring.memory_distances import enlarge, join_memories, make_memory_maps
from daad_jax.scoring.power_mean import power_mean
from daad_jax.scoring.precision import with_precision

EPSILON = 1e-12


class Variables(NamedTuple):
    """The part of a training state that scoring needs.

    Attributes:
        generator: variables of Flax; None if the run has no generator.
        discriminator: variables of Flax; None if the run has no discriminator.
        features: the frozen part of the state, see `method.features.abstract_features`; None if the networks
            read pixels.
    """

    generator: Any
    discriminator: Any = None
    features: Any = None


class NetworkOutputs(NamedTuple):
    """What both networks return for a batch.

    Attributes:
        images: the input of the networks, `[B, H, W, C]`: pixels in [0, 1], or features.
        reconstructions: `[T, B, H, W, C]`. T is 1, unless an image is restored from T degraded copies.
        real_maps: the discriminator's features of the images, `[B, h, w, F]` for each layer; f_D comes last.
            Empty without a discriminator.
        fake_maps: the same of the reconstructions, `[T, B, h, w, F]` for each layer.
    """

    images: jax.Array
    reconstructions: jax.Array
    real_maps: tuple[jax.Array, ...]
    fake_maps: tuple[jax.Array, ...]


class Distances(NamedTuple):
    """The distances of B images.

    Attributes:
        reconstruction: R, `[B]`.
        alignment: L, `[B]`; 0 without a discriminator.
        reconstruction_map: the map of R, `[B, H, W]`.
        alignment_map: the map of L, `[B, H, W]`.
        reconstructed: the reconstructed images `[B, H, W, C]`, in the type of the given images; None if the
            model reads features, because features are no picture.
    """

    reconstruction: jax.Array
    alignment: jax.Array
    reconstruction_map: jax.Array
    alignment_map: jax.Array
    reconstructed: jax.Array | None


def difference(x: jax.Array, y: jax.Array) -> jax.Array:
    """x - y. `[B, H, W, C]` twice -> `[B, H, W, C]`."""
    return x - y


def relative_difference(x: jax.Array, y: jax.Array) -> jax.Array:
    """The difference of images that are brought to a mean square of 1: it ignores the strength of the light.

    `[B, H, W, C]` twice -> `[B, H, W, C]`.
    """
    length = float(np.sqrt(np.prod(x.shape[1:])))
    return length * (x / norm(x).reshape(-1, 1, 1, 1) - y / norm(y).reshape(-1, 1, 1, 1))


def centred_difference(x: jax.Array, y: jax.Array) -> jax.Array:
    """`relative_difference` of images that are brought to a mean of 0: it ignores brightness and contrast.

    `[B, H, W, C]` twice -> `[B, H, W, C]`.
    """
    x, y = (v - jnp.mean(v, axis=(1, 2, 3), keepdims=True) for v in (x, y))
    return relative_difference(x, y)


@dataclass(frozen=True)
class Distance:
    """A way to compare an image with its reconstruction.

    Attributes:
        residual: compares two images pixel by pixel: `[B, H, W, C]` twice -> `[B, H, W, C]`.
        from_mean_square: makes R `[B]` of the residual's mean square `[B]` and the number of its entries.
        from_residual: makes R `[B]` of the residual itself, for `config.score.pooling` = 1; None to use
            `from_mean_square` then, too.
    """

    residual: Callable[[jax.Array, jax.Array], jax.Array]
    from_mean_square: Callable[[jax.Array, int], jax.Array]
    from_residual: Callable[[jax.Array], jax.Array] | None = None


# `config.score.distance`; another distance is another entry here. "l2" is the paper's plain norm, "squared"
# the mean square. "cosine" is 1 - cos(x, y) and "correlation" 1 - corr(x, y), both as half the squared
# distance of unit vectors, which does not cancel digits.
DISTANCES = {
    "l2": Distance(difference, lambda square, size: jnp.sqrt(np.float32(size) * square), norm),
    "squared": Distance(difference, lambda square, size: square),
    "cosine": Distance(relative_difference, lambda square, size: 0.5 * square),
    "correlation": Distance(centred_difference, lambda square, size: 0.5 * square),
}


def reconstruction_distance(
    residual: jax.Array, distance: Distance, pooling: int = 1, sigma: float = 0.0
) -> jax.Array:
    """Computes R from the residual: `[B, H, W, C]` -> `[B]`.

    Args:
        residual: the result of `distance.residual`.
        distance: one of `DISTANCES`.
        pooling: the exponent of the power mean over places. At 1 every place counts the same; above, the
            places with the largest differences count most.
        sigma: with pooling above 1, a Gaussian of this many pixels smooths the squares first.
    """
    if pooling == 1 and distance.from_residual:
        return distance.from_residual(residual)
    if pooling == 1:
        square = jnp.mean(jnp.square(residual), axis=(1, 2, 3))
    else:
        places = smooth(jnp.mean(jnp.square(residual), axis=-1, keepdims=True), sigma)
        square = power_mean(places[..., 0], pooling)
    return distance.from_mean_square(square, int(np.prod(residual.shape[1:])))


def feature_distance(real_maps: Sequence[jax.Array], fake_maps: Sequence[jax.Array]) -> jax.Array:
    """The paper's L = ||f_D(x) - f_D(x^)||_2, of the last maps `[B, h, w, F]` -> `[B]`."""
    return norm(real_maps[-1] - fake_maps[-1])


def alignment_map(real: Sequence[jax.Array], fake: Sequence[jax.Array], height: int, width: int) -> Any:
    """Shows where the extractor's features differ: `[B, height, width]`.

    f_D alone is too coarse to show a place, so every layer counts the same. A layer gives the squared
    distance of the two feature vectors of a place, each of length 1, scaled up bilinearly.
    """

    def layer(a: jax.Array, b: jax.Array) -> jax.Array:
        a, b = (v * jax.lax.rsqrt(jnp.sum(v * v, -1, keepdims=True) + EPSILON) for v in (a, b))
        square = jnp.sum(jnp.square(a - b), -1, keepdims=True)
        sizes = zip(square.shape[1:3], (height, width))
        rows, columns = (triangle_matrix(*pair).astype(np.float32) for pair in sizes)
        return along_both(rows, columns, square)[..., 0]

    return sum(layer(a, b) for a, b in zip(real, fake)) / len(real)


# `config.score.alignment`: L of the maps of all copies (`real`, and one `fake` a copy) and of the mean of
# their alignment maps. "l2" is the paper's, of f_D; "layers" is ours: relative, of all layers.
ALIGNMENTS: dict[str, Callable[[Any, Any, jax.Array], jax.Array]] = {
    "l2": lambda real, fakes, square: _mean(feature_distance(real, fake) for fake in fakes),
    "layers": lambda real, fakes, square: jnp.mean(square, axis=(1, 2)),
}


def compare_images(outputs: NetworkOutputs, score: ScoreConfig) -> tuple[jax.Array, jax.Array]:
    """R `[B]`, and the residual's mean square at every place `[B, H, W]`; both are means over the copies.

    Args:
        outputs: the outputs of a network pass.
        score: its distance, smoothing, pooling and heat_smoothing are used.
    """
    images, reconstructions = outputs.images, outputs.reconstructions
    distance, sigma = DISTANCES[score.distance], _heat_sigma(images, score)
    x = smooth(images, score.smoothing)
    residuals = [distance.residual(x, smooth(y, score.smoothing)) for y in reconstructions]
    r = _mean(reconstruction_distance(d, distance, score.pooling, sigma) for d in residuals)
    return r, _mean(jnp.mean(jnp.square(d), -1) for d in residuals)


def compare_features(outputs: NetworkOutputs, score: ScoreConfig) -> tuple[jax.Array, jax.Array]:
    """L `[B]`, and the alignment map `[B, H, W]`; both are means over the copies.

    Args:
        outputs: the outputs of a network pass with a discriminator.
        score: its alignment is used.
    """
    height, width = outputs.images.shape[1:3]
    real, copies = outputs.real_maps, range(len(outputs.reconstructions))
    fakes = [[m[t] for m in outputs.fake_maps] for t in copies]
    square = _mean(alignment_map(real, fake, height, width) for fake in fakes)
    return ALIGNMENTS[score.alignment](real, fakes, square), square


def compare(outputs: NetworkOutputs, score: ScoreConfig, pixel_type: Any = np.uint8) -> Distances:
    """R, L and their maps, from the outputs of both networks; see `compare_images` and `compare_features`.

    Args:
        outputs: the outputs of a network pass.
        score: how to compare.
        pixel_type: the type of the reconstructed images, uint8 or uint16.
    """
    sigma = _heat_sigma(outputs.images, score)

    def heat(square: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.maximum(smooth(square[..., None], sigma)[..., 0], 0.0))

    r, square = compare_images(outputs, score)
    r_map = heat(square)
    reconstructed = jnp.rint(int(jnp.iinfo(pixel_type).max) * outputs.reconstructions[0])
    reconstructed = reconstructed.astype(pixel_type)
    if not outputs.real_maps:
        return Distances(r, jnp.zeros_like(r), r_map, jnp.zeros_like(r_map), reconstructed)
    alignment, square = compare_features(outputs, score)
    return Distances(r, alignment, r_map, heat(square), reconstructed)


def _heat_sigma(images: jax.Array, score: ScoreConfig) -> float:
    """The sigma of the heat map's Gaussian in pixels, for images `[B, H, W, C]`."""
    return score.heat_smoothing * min(images.shape[1:3])


def make_distances(
    config: Config, implementation: Implementation = "auto"
) -> Callable[[Variables, jax.Array], Distances]:
    """The pure function from variables and images `[B, H, W, C]`, uint8 or uint16, to their distances.

    `implementation`: see `make_network_pass`. Products have the precision `config.score.precision`.
    """
    if config.uses_coreset:
        distances = _make_coreset_distances(config, implementation)
    else:
        distances = _make_network_distances(config, implementation)
    return with_precision(distances, config.score.precision)


def _make_network_distances(
    config: Config, implementation: Implementation
) -> Callable[[Variables, jax.Array], Distances]:
    network_pass = make_network_pass(config, implementation)
    if not config.model.features:
        return lambda variables, batch: compare(network_pass(variables, batch), config.score, batch.dtype)

    def distances(variables: Variables, batch: jax.Array) -> Distances:
        height, width = batch.shape[1:3]
        r, alignment, *maps, _ = compare(network_pass(variables, batch), config.score)
        r_map, l_map = (enlarge(m, (height, width)) for m in maps)
        return Distances(r, alignment, r_map, l_map, None)

    return distances


def _make_coreset_distances(
    config: Config, implementation: Implementation
) -> Callable[[Variables, jax.Array], Distances]:
    memory_maps = make_memory_maps(config, implementation)

    def distances(variables: Variables, batch: jax.Array) -> Distances:
        maps = memory_maps(variables.features, batch)
        units = tuple(memory["unit"] for memory in variables.features["memories"])
        height, width = batch.shape[1:3]
        sigma = _heat_sigma(batch, config.score)
        r, r_map = join_memories(maps, units, config.score, (height, width), sigma)
        return Distances(r, jnp.zeros_like(r), r_map, jnp.zeros_like(r_map), None)

    return distances


def make_network_pass(
    config: Config, implementation: Implementation = "auto"
) -> Callable[[Variables, jax.Array], NetworkOutputs]:
    """Makes the pass of both networks with running batch statistics, so that no image influences another.

    Args:
        config: the configuration of the run.
        implementation: how the generator's convolutions are computed (`models/layers.py`); an exported
            program runs on another device than this one.

    Returns:
        `network_pass(variables, images)`, images uint8 or uint16 `[B, H, W, C]`.
    """
    generator: Any = build_generator(config, implementation=implementation)
    discriminator: Any = build_discriminator(config)
    encode = make_encoder(config, implementation)

    def network_pass(variables: Variables, batch: jax.Array) -> NetworkOutputs:
        generator_variables, discriminator_variables, frozen = variables
        images = encode(frozen, batch)
        inputs = restoration.for_scoring(images, config.train.restore)
        copies = inputs.shape[:2]
        flat, _ = generator.apply(generator_variables, inputs.reshape(-1, *images.shape[1:]), train=False)
        reconstructions = flat.reshape(*copies, *images.shape[1:])
        if discriminator_variables is None:
            return NetworkOutputs(images, reconstructions, (), ())
        _, real = discriminator.apply(discriminator_variables, images, train=False)
        _, fake = discriminator.apply(discriminator_variables, flat, train=False)
        fake_maps = tuple(m.reshape(*copies, *m.shape[1:]) for m in fake)
        return NetworkOutputs(images, reconstructions, real, fake_maps)

    return with_precision(network_pass, config.score.precision)


def _mean(values: Iterable[jax.Array]) -> jax.Array:
    return jnp.mean(jnp.stack([*values]), axis=0)
