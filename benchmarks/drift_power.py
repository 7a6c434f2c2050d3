"""How often the test for a drift raises an alarm, by simulation, for docs/scoring.md.

    python -m benchmarks.drift_power

Scores are log-normal. The last column is a plain Kolmogorov-Smirnov test of uniform p-values, without change.
"""

import numpy as np
from scipy.stats import kstest

from daad_jax.scoring.anomaly_score import Calibration, Unit
from daad_jax.scoring.drift import LEVEL, OUTLIER_SHARE, find_drift

REPEATS = 400
SIZES = ((20, 51), (20, 200), (47, 51), (47, 200), (200, 200), (1000, 1000))  # held-out and new images
DEFECT_SCORE = 10.0
CASES = {  # the share of defects, and the shift of all scores in standard deviations
    "no change": (0.0, 0.0),
    "5 % defects": (0.05, 0.0),
    "10 % defects": (0.1, 0.0),
    "20 % defects": (0.2, 0.0),
    "3 % and +0.5": (0.03, 0.5),
    "3 % and +1": (0.03, 1.0),
    "3 % and -1": (0.03, -1.0),
}


def draw(rng: np.random.Generator, count: int, shift: float = 0.0) -> np.ndarray:
    return np.exp(0.3 * (rng.normal(size=count) + shift))


def calibrated(rng: np.random.Generator, count: int) -> Calibration:
    scores = tuple(np.sort(draw(rng, count)).tolist())
    unit = Unit(1.0, 1.0)
    return Calibration(unit, unit, unit, unit, 1.0, 1.0, 0.05, scores)


def main() -> None:
    rng = np.random.default_rng(0)
    print("held-out / new  " + "  ".join([*CASES, "uniform p-values?"]))
    for held_out, new in SIZES:
        cells = []
        for defects, shift in CASES.values():
            alarms = 0
            for _ in range(REPEATS):
                calibration, scores = calibrated(rng, held_out), draw(rng, new, shift)
                scores[: int(defects * new)] = DEFECT_SCORE
                alarms += find_drift(calibration, scores, outlier_share=OUTLIER_SHARE) is not None
            cells.append(f"{100 * alarms / REPEATS:.1f} %")
        plain = 0
        for _ in range(REPEATS):
            p_values = calibrated(rng, held_out).p_value(draw(rng, new))
            plain += kstest(p_values, "uniform").pvalue <= LEVEL
        print(f"{held_out} / {new}  " + "  ".join([*cells, f"{100 * plain / REPEATS:.1f} %"]), flush=True)


if __name__ == "__main__":
    main()
