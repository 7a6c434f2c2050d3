"""What held-out normal images say: the units of R, L and their maps, and the threshold on A(x)."""

import json
import math
from dataclasses import asdict, dataclass, replace
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
    def of(values: np.ndarray) -> "Unit":
        """Of `values` of any shape; a constant has the spread 1, as nothing is known of it."""
        mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        return Unit(mean, std if std > SMALLEST_SPREAD * max(1.0, abs(mean)) else 1.0)

    def of_normal(self, values: Any) -> Any:
        """Standard deviations from normal."""
        return (values - self.mean) / self.std


@dataclass(frozen=True)
class Calibration:
    """Everything that turns distances into scores, verdicts and heat maps; stored in the checkpoint.

    `scores` are those of the held-out normal images themselves, ascending: any threshold, false-alarm
    rate or p-value comes from them.
    """

    reconstruction: Unit
    alignment: Unit
    reconstruction_map: Unit
    alignment_map: Unit
    heat_peak: float  # of the fused maps: what the brightest place of a normal image stays below
    gamma: float
    false_alarm_rate: float
    scores: tuple[float, ...]

    def score(self, reconstruction: Any, alignment: Any) -> Any:
        """A = g R + (1 - g) L, each in its standard deviations, over what the average normal image has.

        So 1 is the average normal image and 0 a perfect reconstruction. No mean is subtracted: a score
        is as exact, relatively, as R and L are, in whatever batch or program they were computed.
        `[N]`, `[N]` -> `[N]`.
        """
        r, average = (
            reconstruction / self.reconstruction.std,
            self.reconstruction.mean / self.reconstruction.std,
        )
        if self.gamma == 1:
            return r / average
        a = alignment / self.alignment.std
        both = self.gamma * average + (1 - self.gamma) * self.alignment.mean / self.alignment.std
        return (self.gamma * r + (1 - self.gamma) * a) / both

    def heat(self, reconstruction_map: Any, alignment_map: Any) -> Any:
        """The heat map `[N, H, W]`: at every place, how far above the average place of normal images.

        R's and L's maps are fused as A fuses R and L. At 1 lies the (1 - false-alarm rate) quantile of
        the brightest places of held-out images, so below 1 is what normal images show.
        """
        fused = self.reconstruction_map.of_normal(reconstruction_map)
        if self.gamma < 1:
            fused = self.gamma * fused + (1 - self.gamma) * self.alignment_map.of_normal(alignment_map)
        return fused / self.heat_peak

    @property
    def threshold(self) -> float:
        """The one at the configured false-alarm rate. `score > threshold` is anomalous, everywhere."""
        return self.threshold_at(self.false_alarm_rate)

    def threshold_at(self, rate: float) -> float:
        """The threshold that a new normal image passes with probability `rate` at most.

        It is the split-conformal quantile: of n held-out scores the ceil((n + 1)(1 - rate))-th. With
        fewer than 1 / rate - 1 of them it is their maximum, and `promised_rate` is the honest rate.

        Raises:
            UserError: a rate outside (0, 1).
        """
        if not 0 < rate < 1:
            raise UserError(f"false-alarm rate {rate}: must be in (0, 1)")
        count = len(self.scores)
        rank = math.ceil((count + 1) * (1 - rate) - 1e-9)
        return self.scores[min(rank, count) - 1]

    def promised_rate(self, rate: float) -> float:
        """The bound on false alarms that `threshold_at(rate)` can keep, at least 1 / (n + 1)."""
        return max(rate, 1 / (len(self.scores) + 1))

    def p_value(self, scores: np.ndarray) -> np.ndarray:
        """How often a normal image scores as high: (1 + held-out scores at or above) / (n + 1). `[N]`."""
        held_out = np.asarray(self.scores)
        above = len(held_out) - np.searchsorted(held_out, scores, side="left")
        return (1 + above) / (len(held_out) + 1)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(tree: Any) -> "Calibration":
        """Raises UserError where `tree` is not what `to_json` made."""
        try:
            units: dict[str, Any] = {k: Unit(float(tree[k]["mean"]), float(tree[k]["std"])) for k in UNITS}
            numbers: dict[str, Any] = {k: float(tree[k]) for k in NUMBERS}
            scores = tuple(float(s) for s in tree["scores"])
            found = Calibration(**units, **numbers, scores=scores)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"the stored calibration is damaged: {json.dumps(tree)[:200]}") from error
        if not scores or list(scores) != sorted(scores):
            raise UserError("the stored calibration is damaged: its held-out scores are not in order")
        return found


def held_out_needed(rate: float) -> int:
    """Held-out images from which a false-alarm rate can be promised."""
    return math.ceil(1 / rate) - 1


def shortage(held_out: int, rate: float) -> str:
    """What to say where so few held-out images cannot promise `rate`; nothing where they can."""
    if held_out >= held_out_needed(rate):
        return ""
    return (
        f"a false-alarm rate of {rate:g} needs {held_out_needed(rate)} held-out normal images; {held_out} "
        f"promise {1 / (held_out + 1):.3g} (more images, or a larger config.data.calibration_fraction, help)"
    )


def calibrate(
    reconstruction: np.ndarray,
    alignment: np.ndarray,
    reconstruction_maps: np.ndarray,
    alignment_maps: np.ndarray,
    gamma: float,
    false_alarm_rate: float,
) -> Calibration:
    """The calibration from R and L `[N]` of held-out normal images and the maps `[M, H, W]` of some."""
    raw = Calibration(
        reconstruction=Unit.of(reconstruction),
        alignment=Unit.of(alignment),
        reconstruction_map=Unit.of(reconstruction_maps),
        alignment_map=Unit.of(alignment_maps),
        heat_peak=1.0,
        gamma=gamma,
        false_alarm_rate=false_alarm_rate,
        scores=(0.0,),
    )
    peaks = raw.heat(reconstruction_maps, alignment_maps).max(axis=(1, 2))
    peak = max(float(np.quantile(peaks, 1 - false_alarm_rate)), SMALLEST_SPREAD)
    scores = tuple(np.sort(raw.score(reconstruction, alignment)).tolist())
    return replace(raw, heat_peak=peak, scores=scores)
