"""What a detector says of a labelled test split, as figures and arrays; writes and prints nothing."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from daad_jax.data.samples import Split
from daad_jax.detection.detector import Detections, Detector
from daad_jax.errors import UserError
from daad_jax.evaluation.metrics import image_metrics, pixel_metrics

MOST_SHOWN, MOST_OF_A_KIND = 60, 12  # images with all their pictures in memory
SHOWN_PIXELS = 2**26  # of all of them together


@dataclass(frozen=True)
class Kind:
    """The test images of one kind: `indices` ascending in score, `auroc` of an anomalous kind against
    all normal images (None for a normal kind).
    """

    name: str
    label: int
    indices: np.ndarray
    auroc: float | None


@dataclass(frozen=True)
class Evaluation:
    """What a checkpoint says of the labelled test split.

    `scores`, `p_values`, `reconstruction` and `alignment` `[N]` in the order of `test`; `kinds`, normal
    ones first, then the hardest first; `image` and `pixel` are the figures (`pixel` None where there are
    no masks); `shown` are indices of the most telling images: the lowest and highest scores of every
    kind (of the first ones, where kinds are many), and `shown_detections` what is said of those.
    """

    detector: Detector
    test: Split
    scores: np.ndarray
    p_values: np.ndarray
    reconstruction: np.ndarray
    alignment: np.ndarray
    kinds: list[Kind]
    image: dict[str, Any]
    pixel: dict[str, float] | None
    images_per_s: float
    shown: np.ndarray
    shown_detections: Detections

    @property
    def promised_rate(self) -> float:
        """The false-alarm rate that the configured one comes down to with so many held-out images."""
        calibration = self.detector.calibration
        return calibration.promised_rate(calibration.false_alarm_rate)


def measure(detector: Detector, test: Split) -> Evaluation:
    """Scores a labelled split.

    Raises:
        UserError: it lacks normal or anomalous images.
    """
    normal, anomalous = int((test.labels == 0).sum()), int(test.labels.sum())
    if not normal or not anomalous:
        raise UserError(
            f"config.data: the test split has {normal} normal and {anomalous} anomalous images; figures "
            "need both (test/good and test/<defect type> in a folder)"
        )
    masked = with_known_pixels(test)
    next(detector.score_prepared(test.images[: detector.batch_size]))  # compiles
    parts, heat, start = [], [], time.perf_counter()
    for part in detector.score_prepared(test.images):
        parts.append((part.scores, part.p_values, part.reconstruction, part.alignment))
        if masked is not None:
            heat.append(part.heat)
    seconds = time.perf_counter() - start
    scores, p_values, r, alignment = (np.concatenate(p) for p in zip(*parts))
    kinds = _kinds(test, scores)
    shown = _most_telling(kinds, test.images.shape[1] * test.images.shape[2])
    return Evaluation(
        detector=detector,
        test=test,
        scores=scores,
        p_values=p_values,
        reconstruction=r,
        alignment=alignment,
        kinds=kinds,
        image=image_metrics(test.labels, scores, detector.threshold),
        pixel=pixel_metrics(test.masks[masked], np.concatenate(heat)[masked])
        if test.masks is not None and masked is not None
        else None,
        images_per_s=len(test) / seconds,
        shown=shown,
        shown_detections=detector.score(test.images[shown]),
    )


def with_known_pixels(test: Split) -> np.ndarray | None:
    """Which images count in pixel figures, `[N]`; None where there are no masks of defects.

    An anomalous image without a mask says nothing of its pixels.
    """
    if test.masks is None:
        return None
    masked = (test.labels == 0) | test.masks.any(axis=(1, 2))
    return masked if bool((masked & (test.labels == 1)).any()) else None


def _kinds(test: Split, scores: np.ndarray) -> list[Kind]:
    order, names = np.argsort(scores, kind="stable"), np.array(test.kinds, dtype=object)
    normal = scores[test.labels == 0]
    found = []
    for name, label in sorted({(k, int(v)) for k, v in zip(test.kinds, test.labels)}):
        indices = order[((names == name) & (test.labels == label))[order]]
        auroc = None
        if label:
            truth = np.repeat([0, 1], [len(normal), len(indices)])
            auroc = float(roc_auc_score(truth, np.concatenate([normal, scores[indices]])))
        found.append(Kind(name, label, indices, auroc))
    return sorted(found, key=lambda kind: (kind.label, kind.auroc or 0.0))


def _most_telling(kinds: list[Kind], pixels: int) -> np.ndarray:
    """Indices of the lowest and highest scores of the first kinds, kind by kind, ascending in each."""
    most = min(MOST_SHOWN, max(4, SHOWN_PIXELS // pixels))
    some = kinds[: most // 2]
    if not any(kind.label for kind in some):  # many normal kinds must not hide all anomalous ones
        some[-1] = next(kind for kind in kinds if kind.label)
    each = min(MOST_OF_A_KIND, most // len(some)) // 2
    return np.concatenate(
        [k.indices if len(k.indices) <= 2 * each else k.indices[np.r_[:each, -each:0]] for k in some]
    )
