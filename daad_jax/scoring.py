"""The one scoring path: R(x), L(x), their calibration on normal images, and A(x)."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from daad_jax.config import Config
from daad_jax.data.batches import score_batches
from daad_jax.errors import UserError
from daad_jax.losses import norm
from daad_jax.parallel import map_scoring
from daad_jax.step import make_score_step

Variables = tuple[Any, Any]  # of the generator, and of the discriminator or None
SMALLEST_SPREAD = 1e-12


@dataclass(frozen=True)
class Calibration:
    """What held-out normal images say of the score: the units of R and L, and the threshold on A."""

    images: int
    reconstruction_mean: float
    reconstruction_std: float
    alignment_mean: float
    alignment_std: float
    gamma: float
    false_alarm_rate: float
    threshold: float

    def score(self, reconstruction: np.ndarray, alignment: np.ndarray) -> np.ndarray:
        """A = gamma R + (1 - gamma) L, both in standard deviations from normal. `[N]` -> `[N]`."""
        r = (reconstruction - self.reconstruction_mean) / self.reconstruction_std
        if self.gamma == 1:
            return r
        return self.gamma * r + (1 - self.gamma) * ((alignment - self.alignment_mean) / self.alignment_std)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(tree: Any) -> "Calibration":
        """Raises UserError where `tree` is not what `to_json` made."""
        try:
            return Calibration(**{k: float(v) for k, v in tree.items()})  # type: ignore[arg-type]
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f"the stored calibration is damaged: {json.dumps(tree)[:200]}") from error


def blur_matrix(size: int, sigma: float) -> np.ndarray:
    """A Gaussian along an axis of `size` pixels as a matrix `[size, size]`, edges mirrored."""
    reach = int(4 * sigma + 0.5)
    offsets = np.arange(-reach, reach + 1)
    taps = np.exp(-0.5 * (offsets / sigma) ** 2)
    taps /= taps.sum()
    matrix = np.zeros((size, size))
    for row in range(size):
        source = np.mod(row + offsets, 2 * size)
        np.add.at(matrix[row], np.minimum(source, 2 * size - 1 - source), taps)
    return matrix.astype(np.float32)


def smooth(images: jax.Array, sigma: float) -> jax.Array:
    """Gaussian of `sigma` pixels over `[B, H, W, C]`; unchanged for sigma 0."""
    if sigma == 0:
        return images
    rows, columns = (jnp.asarray(blur_matrix(n, sigma)) for n in images.shape[1:3])
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, images, precision="highest")


def reconstruction_distance(x: jax.Array, y: jax.Array, kind: str) -> jax.Array:
    """R: distance of every image to its reconstruction, `[B, H, W, C]` twice -> `[B]`.

    "l2" is the paper's plain norm, "squared" its mean square, "cosine" the relative distance
    1 - cos(x, y), blind to brightness.
    """
    if kind == "l2":
        return norm(x - y)
    if kind == "squared":
        return jnp.mean(jnp.square(x - y), axis=(1, 2, 3))
    dot = jnp.sum(x * y, axis=(1, 2, 3))
    return 1 - dot / jnp.maximum(norm(x) * norm(y), 1e-12)


def make_distances(config: Config) -> Callable[[Variables, jax.Array], dict[str, jax.Array]]:
    """The pure function from variables and uint8 images `[B, H, W, C]` to R `[B]`, L `[B]` (0 without
    a discriminator) and reconstructions `[B, H, W, C]` in [0, 1]."""
    score_step = make_score_step(config)

    def distances(variables: Variables, batch: jax.Array) -> dict[str, jax.Array]:
        images, fake, features = score_step(*variables, batch)
        sigma = config.score.smoothing
        r = reconstruction_distance(smooth(images, sigma), smooth(fake, sigma), config.score.distance)
        alignment = jnp.zeros_like(r) if features is None else norm(features)
        return {"reconstruction": r, "alignment": alignment, "image": fake}

    return distances


class Scorer:
    """Compiled once, then scores any number of uint8 images `[N, H, W, C]`."""

    def __init__(self, config: Config) -> None:
        self._run, devices = map_scoring(make_distances(config))
        self.batch_size = -(-config.score.batch_size // devices) * devices

    def distances(self, variables: Variables, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """R and L, float64 `[N]`."""
        parts = []
        for batch, count in score_batches(images, self.batch_size):
            out = self._run(variables, batch)
            parts.append((out["reconstruction"][:count], out["alignment"][:count]))
        r, alignment = (np.concatenate(p).astype(np.float64) for p in zip(*parts))
        return r, alignment

    def reconstruct(self, variables: Variables, images: np.ndarray) -> np.ndarray:
        """Reconstructions uint8 `[N, H, W, C]` (for pictures)."""
        batches = score_batches(images, self.batch_size)
        parts = [self._run(variables, b)["image"][:count] for b, count in batches]
        return np.rint(255 * np.concatenate(parts)).astype(np.uint8)


def calibrate(reconstruction: np.ndarray, alignment: np.ndarray, config: Config) -> Calibration:
    """Means, spreads and the threshold from R and L `[N]` of held-out normal images.

    The threshold is the (1 - false_alarm_rate) quantile of A; `score > threshold` is anomalous.
    """

    def spread(values: np.ndarray) -> float:
        return max(float(values.std()), SMALLEST_SPREAD * max(1.0, abs(float(values.mean()))))

    rate = config.score.false_alarm_rate
    units = Calibration(
        images=len(reconstruction),
        reconstruction_mean=float(reconstruction.mean()),
        reconstruction_std=spread(reconstruction),
        alignment_mean=float(alignment.mean()),
        alignment_std=spread(alignment) if alignment.any() else 1.0,
        gamma=config.score.gamma,
        false_alarm_rate=rate,
        threshold=0.0,
    )
    threshold = float(np.quantile(units.score(reconstruction, alignment), 1 - rate))
    return Calibration(**{**asdict(units), "threshold": threshold})
