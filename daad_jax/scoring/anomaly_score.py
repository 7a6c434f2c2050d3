"""The anomaly score A(x), its threshold and the heat map, calibrated on held-out normal images."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from daad_jax.errors import UserError

SMALLEST_SPREAD = 1e-12
UNITS = ("reconstruction", "alignment", "reconstruction_map", "alignment_map")
NUMBERS = ("heat_peak", "gamma", "false_alarm_rate")


@dataclass(frozen=True)
class Unit:
    """Mean and standard deviation of a quantity over held-out normal images."""

    mean: float
    std: float

    @staticmethod
    def measure(values: np.ndarray) -> "Unit":
        """Measures the unit of `values` of any shape. If all values are equal, the spread is set to 1."""
        mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        return Unit(mean, std if std > SMALLEST_SPREAD * max(1.0, abs(mean)) else 1.0)

    def standardise(self, values: Any) -> Any:
        """How many standard deviations `values` are above the mean."""
        return (values - self.mean) / self.std


def anomaly_score(
    reconstruction: Any, alignment: Any, reconstruction_unit: Unit, alignment_unit: Unit, gamma: float
) -> Any:
    """A(x) = (g R + (1 - g) L) / (the same of the average normal image), R and L in standard deviations.

    So 1 is the average normal image and 0 a perfect reconstruction. No mean is subtracted, which would cancel
    digits: a score is as exact, relatively, as R and L are, in every batch and every program.

    Args:
        reconstruction: R, `[N]`.
        alignment: L, `[N]`.
        reconstruction_unit: the unit of R, from held-out normal images.
        alignment_unit: the unit of L, from held-out normal images.
        gamma: g, in [0, 1].

    Returns:
        `[N]`.
    """
    r = reconstruction / reconstruction_unit.std
    average = reconstruction_unit.mean / reconstruction_unit.std
    if gamma == 1:
        return r / average
    a = alignment / alignment_unit.std
    both = gamma * average + (1 - gamma) * alignment_unit.mean / alignment_unit.std
    return (gamma * r + (1 - gamma) * a) / both


@dataclass(frozen=True)
class Calibration:
    """Everything that turns distances into scores, verdicts and heat maps; stored in the checkpoint.

    `scores` are the anomaly scores of the held-out normal images, ascending. All thresholds, false-alarm
    rates and p-values come from these scores. If the images come in groups, such as several photos of each
    part, `group_sizes` has for every score the number of held-out images in its group. Each group then counts
    as much as another one, and each image of a group counts the same share of it.
    """

    reconstruction: Unit
    alignment: Unit
    reconstruction_map: Unit
    alignment_map: Unit
    heat_peak: float  # the hottest place of most normal images is below this value of the combined map
    gamma: float
    false_alarm_rate: float
    scores: tuple[float, ...]
    group_sizes: tuple[int, ...] = ()  # empty: each image is a group of its own

    @cached_property
    def group_count(self) -> int:
        """How many groups of images are held out; the number of images if each is a group of its own."""
        return round(float(self.shares.sum()))

    @property
    def shares(self) -> np.ndarray:
        """How much of its group each held-out image is, `[N]`, in the order of `scores`."""
        return 1 / np.asarray(self.group_sizes) if self.group_sizes else np.ones(len(self.scores))

    def score(self, reconstruction: Any, alignment: Any) -> Any:
        """A(x) of R and L, both `[N]` -> `[N]`; see `anomaly_score`."""
        return anomaly_score(reconstruction, alignment, self.reconstruction, self.alignment, self.gamma)

    def heat(self, reconstruction_map: Any, alignment_map: Any) -> Any:
        """The heat map `[N, H, W]`: how far each place is above the average place of normal images.

        The maps of R and L are combined as A(x) combines R and L. The value 1 is the (1 - false-alarm rate)
        quantile of the hottest places of held-out images, so normal images stay mostly below 1.
        """
        combined = self.reconstruction_map.standardise(reconstruction_map)
        if self.gamma < 1:
            combined = self.gamma * combined + (1 - self.gamma) * self.alignment_map.standardise(
                alignment_map
            )
        return combined / self.heat_peak

    @property
    def threshold(self) -> float:
        """The threshold at the configured false-alarm rate; `score > threshold` is anomalous."""
        return self.threshold_at(self.false_alarm_rate)

    def threshold_at(self, rate: float) -> float:
        """The threshold that flags a new normal image with a probability of at most `rate`.

        It is the split-conformal quantile: of n held-out scores in ascending order, the score of rank
        ceil((n + 1)(1 - rate)). With fewer than 1 / rate - 1 held-out scores the threshold is the largest of
        them, and only `promised_rate` can be promised. If the images come in groups, n is the number of
        groups, each image counts as its share of a group, and the probability is for an image of a new
        group.

        Raises:
            UserError: a rate outside (0, 1).
        """
        if not 0 < rate < 1:
            raise UserError(f"the false-alarm rate {rate:g} must be between 0 and 1; 5 % is 0.05")
        # Find the first score with enough groups at or below it. The margin is for rounding.
        groups_below = np.cumsum(self.shares)
        index = int(np.searchsorted(groups_below, (self.group_count + 1) * (1 - rate) - 1e-9))
        return self.scores[min(index, len(self.scores) - 1)]

    def promised_rate(self, rate: float) -> float:
        """The false-alarm rate that `threshold_at(rate)` can promise: `rate`, but at least 1 / (n + 1).

        n is the number of held-out images, or of their groups.
        """
        return max(rate, 1 / (self.group_count + 1))

    def shortage(self, rate: float) -> str:
        """Returns a warning if too few images or groups are held out to promise `rate`, and "" otherwise."""
        return shortage(self.group_count, rate, are_groups=bool(self.group_sizes))

    def describe_promise(self, rate: float) -> str:
        """Says what `threshold_at(rate)` promises, as the end of a sentence "This threshold ..."."""
        share = f"flags at most {100 * self.promised_rate(rate):.3g} % of normal images"
        if not self.group_sizes:
            images = f"{len(self.scores)} held-out images"
            return f"{share}, if new ones vary as the held-out ones do (set from {images})"
        return (
            f"{share}, on average over new groups, if these vary as the held-out groups do (set from "
            f"{len(self.scores)} held-out images of {self.group_count} groups)"
        )

    def p_value(self, scores: np.ndarray) -> np.ndarray:
        """The conformal p-value, how often a normal image scores as high or higher: `[N]` -> `[N]`.

        It is (1 + the number of held-out scores at or above the score) / (n + 1). If the images come in
        groups, n is the number of groups, and each image counts as its share of a group.
        """
        return (1 + self.count_from(scores)) / (self.group_count + 1)

    def count_from(self, scores: Any) -> Any:
        """How many held-out images, or groups of them, are at or above the scores: `[N]` -> `[N]`."""
        ascending, counts = self._counts_from
        return counts[np.searchsorted(ascending, scores, side="left")]

    @cached_property
    def _counts_from(self) -> tuple[np.ndarray, np.ndarray]:
        """The held-out scores `[N]`, and how many are at or above each `[N + 1]`; the last count is 0."""
        counts = np.append(np.cumsum(self.shares[::-1])[::-1], 0.0)
        return np.asarray(self.scores), counts

    def find_fault(self) -> str:
        """Says why this calibration cannot give scores, heat maps and verdicts; "" if it can."""
        for name in UNITS:
            unit = getattr(self, name)
            if not math.isfinite(unit.mean):
                return f"the mean of {name} is {unit.mean}, which is not finite"
            if not 0 < unit.std < math.inf:
                return f"the standard deviation of {name} is {unit.std}, but it must be positive and finite"
        if not 0 <= self.gamma <= 1:
            return f"gamma is {self.gamma}, but it must be in [0, 1]"
        if not 0 < self.false_alarm_rate < 1:
            return f"false_alarm_rate is {self.false_alarm_rate}, but it must be in (0, 1)"
        if not 0 < self.heat_peak < math.inf:
            return f"heat_peak is {self.heat_peak}, but it must be positive and finite"
        if not self.scores or not all(map(math.isfinite, self.scores)):
            return "a score of a held-out image is not finite, or there is none"
        r, alignment = self.reconstruction, self.alignment
        if not self.gamma * r.mean / r.std + (1 - self.gamma) * alignment.mean / alignment.std > 0:
            return "the mean distance of held-out images is not positive, so no score has a unit"
        return ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(tree: Any) -> "Calibration":
        """The inverse of `to_json`. Raises UserError if `tree` was not made by `to_json`."""
        try:
            units: dict[str, Any] = {k: Unit(float(tree[k]["mean"]), float(tree[k]["std"])) for k in UNITS}
            numbers: dict[str, Any] = {k: float(tree[k]) for k in NUMBERS}
            scores = tuple(float(s) for s in tree["scores"])
            sizes = tuple(int(s) for s in tree.get("group_sizes", ()))
            found = Calibration(**units, **numbers, scores=scores, group_sizes=sizes)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"the stored calibration is damaged: {json.dumps(tree)[:200]}") from error
        if fault := found.find_fault():
            raise UserError(f"the stored calibration is damaged: {fault}")
        if list(scores) != sorted(scores):
            raise UserError("the stored calibration is damaged: its held-out scores are not in order")
        if sizes and (len(sizes) != len(scores) or any(s < 1 or sizes.count(s) % s for s in set(sizes))):
            raise UserError("the stored calibration is damaged: its groups do not fit its scores")
        return found


def held_out_needed(rate: float) -> int:
    """Returns the number of held-out images, or groups, that a promise of a false-alarm rate needs."""
    return math.ceil(1 / rate - 1e-9) - 1  # the margin is for rounding


def shortage(held_out: int, rate: float, are_groups: bool = False) -> str:
    """Returns a warning if too few images or groups are held out to promise `rate`, and "" otherwise."""
    if held_out >= held_out_needed(rate):
        return ""
    things = "group(s) of images" if are_groups else "image(s)"
    return (
        f"only {held_out} {things} are held out, so the threshold may flag up to {1 / (held_out + 1):.3g} of "
        f"normal images; a rate of {rate:.3g} needs {held_out_needed(rate)}: give calibrate more good "
        f"{'groups' if are_groups else 'images'} after the training, or train in a new --workdir with a "
        "larger config.data.calibration_fraction"
    )


def calibrate(
    reconstruction: np.ndarray,
    alignment: np.ndarray,
    reconstruction_maps: Sequence[np.ndarray] | np.ndarray,
    alignment_maps: Sequence[np.ndarray] | np.ndarray,
    gamma: float,
    false_alarm_rate: float,
    groups: np.ndarray | None = None,
    first_tiles: np.ndarray | None = None,
) -> Calibration:
    """Makes the calibration from R and L of held-out normal images, and from the maps of some of them.

    Args:
        reconstruction: R of N images, `[N]`; or of their T tiles, image after image, `[T]`.
        alignment: L in the same order, `[N]` or `[T]`.
        reconstruction_maps: the maps of R of M images, `[h, w]` each.
        alignment_maps: the maps of L of the same images, `[h, w]` each.
        gamma: see `anomaly_score`.
        false_alarm_rate: the rate of the threshold and of the heat map, in (0, 1).
        groups: equal integers for images that belong together, `[N]`; None if each image is for itself.
        first_tiles: where the tiles of each image begin, `[N]`; None if images are not cut into tiles. The
            score of an image is the largest of its tiles' scores, and R and L of the average image are means
            of the images' largest ones.
    """

    def of_images(values: np.ndarray) -> np.ndarray:
        return values if first_tiles is None else np.maximum.reduceat(values, first_tiles)

    with np.errstate(all="ignore"):  # `find_fault` names a number that is not finite
        raw = Calibration(
            reconstruction=Unit.measure(of_images(reconstruction)),
            alignment=Unit.measure(of_images(alignment)),
            reconstruction_map=Unit.measure(np.concatenate([np.ravel(m) for m in reconstruction_maps])),
            alignment_map=Unit.measure(np.concatenate([np.ravel(m) for m in alignment_maps])),
            heat_peak=1.0,
            gamma=gamma,
            false_alarm_rate=false_alarm_rate,
            scores=(0.0,),
        )
        peaks = [raw.heat(*maps).max() for maps in zip(reconstruction_maps, alignment_maps)]
        peak = max(float(np.quantile(peaks, 1 - false_alarm_rate)), SMALLEST_SPREAD)
        scores = of_images(raw.score(reconstruction, alignment))
    order, sizes = np.argsort(scores, kind="stable"), ()
    if groups is not None:
        _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
        sizes = tuple(counts[inverse][order].tolist())
    return replace(raw, heat_peak=peak, scores=tuple(scores[order].tolist()), group_sizes=sizes)
