"""Scores a labelled test split with a detector, and computes its figures. Nothing is written or printed."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from daad_jax.data.images import resize, shrink_to_fit, to_uint8, undo_fit
from daad_jax.data.samples import Split
from daad_jax.detection.detections import Detections, join_detections
from daad_jax.detection.detector import Detector
from daad_jax.errors import UserError
from daad_jax.evaluation.bootstrap import Interval, auroc_interval, pixel_auroc_interval
from daad_jax.evaluation.metrics import compute_image_metrics, compute_pixel_metrics
from daad_jax.evaluation.scored_split import score_split

# All images of the gallery are in memory with their reconstructions and heat maps. So their number is
# limited.
MAX_GALLERY_IMAGES, MAX_GALLERY_IMAGES_PER_KIND = 60, 12
MAX_GALLERY_PIXELS = 2**26  # all images of the gallery together
MAX_GALLERY_SIDE = 512  # pixels; images in tiles are shrunk to this side
MAX_FIGURE_PIXELS = 2**25  # all heat maps together, if images are in tiles


@dataclass(frozen=True)
class Kind:
    """The test images of one kind.

    Attributes:
        name: the name of the class, or of the type of defect.
        label: the label of these images, 0 (normal) or 1 (anomalous).
        indices: the indices of the images, in ascending order of their scores.
        auroc: the AUROC of an anomalous kind against all normal images; None for a normal kind.
        interval: the 95 % bootstrap interval of `auroc`; None for a normal kind.
    """

    name: str
    label: int
    indices: np.ndarray
    auroc: float | None
    interval: Interval | None = None


@dataclass(frozen=True)
class Evaluation:
    """A labelled test split of N images, scored by a detector.

    Attributes:
        detector: the detector that scored the images.
        test: the test split.
        scores: the anomaly scores A(x), `[N]`, in the order of `test`.
        p_values: the p-values of the scores, `[N]`.
        reconstruction: R, `[N]`.
        alignment: L, `[N]`.
        kinds: the normal kinds first, then the anomalous kinds from the hardest to the easiest.
        image_metrics: the figures of whole images, see `metrics.compute_image_metrics`.
        pixel_metrics: the figures of pixels, see `metrics.compute_pixel_metrics`; None if no defect has a
            mask.
        images_per_s: the number of images that were scored in a second.
        gallery_indices: the images with the lowest and the highest scores of every kind, or of the first
            kinds if there are many.
        gallery_detections: the detections of the gallery's images, in the same order. If images are in tiles,
            their heat maps and pictures are shrunk.
        intervals: the 95 % bootstrap intervals over images, by the name of the figure: "auroc", and
            "pixel_auroc" if there are pixel figures.
        pixel_stride: n if the pixel figures use every n-th row and column of the heat maps.
        marked: the number of anomalous images that the pixel figures use: those with a mask.
    """

    detector: Detector
    test: Split
    scores: np.ndarray
    p_values: np.ndarray
    reconstruction: np.ndarray
    alignment: np.ndarray
    kinds: list[Kind]
    image_metrics: dict[str, Any]
    pixel_metrics: dict[str, float] | None
    images_per_s: float
    gallery_indices: np.ndarray
    gallery_detections: Detections
    intervals: dict[str, Interval]
    pixel_stride: int = 1
    marked: int = 0

    @property
    def promised_rate(self) -> float:
        """The largest share of normal images that the threshold flags.

        This is the configured false-alarm rate, or a higher rate if too few images are held out.
        """
        calibration = self.detector.calibration
        return calibration.promised_rate(calibration.false_alarm_rate)


def evaluate_split(detector: Detector, test: Split) -> Evaluation:
    """Scores a labelled split and computes its figures.

    Raises:
        UserError: the split has no normal or no anomalous images, or a score is not finite.
    """
    # Refuse a split without figures.
    normal, anomalous = int((test.labels == 0).sum()), int(test.labels.sum())
    if not normal or not anomalous:
        raise UserError(
            f"config.data: the test split has {normal} normal and {anomalous} anomalous images, but figures "
            "need both; put them into folders that docs/data.md names, for instance test/good and "
            "test/<defect type>, and give the folder that holds them all. To score images without "
            "labels, use predict"
        )

    # Score the images.
    has_known_pixels = find_known_pixels(test)
    stride = _find_stride(test)
    found = score_split(detector, test, stride, with_heat=has_known_pixels is not None)
    scores, heat = found.scores, found.heat

    # Compute the figures of the images, of their pixels, and of every kind.
    pixel_metrics, intervals = None, {"auroc": auroc_interval(test.labels, scores)}
    if has_known_pixels is not None:
        known = np.flatnonzero(has_known_pixels).tolist()
        masks = [_sample_mask(test.mask(i), stride) for i in known]
        known_heat = [heat[i] for i in known]
        pixel_metrics = compute_pixel_metrics(masks, known_heat)
        intervals["pixel_auroc"] = pixel_auroc_interval(masks, known_heat)
    kinds = _group_by_kind(test, scores)
    gallery_indices = _select_gallery(kinds, test.images.shape[1] * test.images.shape[2])
    return Evaluation(
        detector=detector,
        test=test,
        scores=scores,
        p_values=found.p_values,
        reconstruction=found.reconstruction,
        alignment=found.alignment,
        kinds=kinds,
        image_metrics=compute_image_metrics(test.labels, scores, detector.threshold),
        pixel_metrics=pixel_metrics,
        images_per_s=len(test) / found.seconds,
        gallery_indices=gallery_indices,
        gallery_detections=join_detections(map(_shrink, detector.score_split(test.take(gallery_indices)))),
        intervals=intervals,
        pixel_stride=stride,
        marked=0 if has_known_pixels is None else int(test.labels[has_known_pixels].sum()),
    )


def _find_stride(test: Split) -> int:
    """Returns n if pixel figures use every n-th row and column of the heat maps; 1 without tiles."""
    if test.grids is None:
        return 1
    pixels = sum(rows * columns for rows, columns in (grid.joined_size for grid in test.grids))
    return max(1, math.ceil(math.sqrt(pixels / MAX_FIGURE_PIXELS)))


def _sample_mask(mask: np.ndarray, stride: int) -> np.ndarray:
    """Takes every `stride`-th row and column of a mask `[h, w]`, as heat maps are taken.

    A defect between them would be lost. Its mask then keeps the nearest row and column before each pixel.
    """
    sampled = mask[::stride, ::stride]
    if mask.any() and not sampled.any():
        rows, columns = np.nonzero(mask)
        sampled = np.zeros_like(sampled)
        sampled[rows // stride, columns // stride] = 1
    return sampled


def _shrink(detections: Detections) -> Detections:
    """Shrinks the maps and pictures of images in tiles, and makes these pictures 8 bits deep."""
    heat, images, reconstructions = detections.heat, detections.images, detections.reconstructions
    if not isinstance(heat, list):
        return detections
    sizes = [
        shrink_to_fit(len(values), values.shape[1], MAX_GALLERY_SIDE, MAX_GALLERY_SIDE) for values in heat
    ]

    def shrink(pictures: Any) -> list[np.ndarray]:
        return [resize(to_uint8(picture), *size) for picture, size in zip(pictures, sizes)]

    return replace(
        detections,
        heat=[undo_fit(values, *size, "resize") for values, size in zip(heat, sizes)],
        images=shrink(images),
        reconstructions=None if reconstructions is None else shrink(reconstructions),
    )


def find_known_pixels(test: Split) -> np.ndarray | None:
    """Finds the images in which every pixel is known to be sound or defective.

    These are the normal images and the anomalous images with a mask. Pixel figures use only these images.

    Returns:
        Whether each image is such an image, bool `[N]`; None if no anomalous image has a mask.
    """
    if test.masks is None:
        return None
    is_known = (test.labels == 0) | test.is_marked()
    return is_known if bool((is_known & (test.labels == 1)).any()) else None


def _group_by_kind(test: Split, scores: np.ndarray) -> list[Kind]:
    """Groups the images by kind, in the order of `Evaluation.kinds`."""
    order, names = np.argsort(scores, kind="stable"), np.array(test.kinds, dtype=object)
    normal = scores[test.labels == 0]
    kinds = []
    for name, label in sorted({(name, int(label)) for name, label in zip(test.kinds, test.labels)}):
        indices = order[((names == name) & (test.labels == label))[order]]
        auroc = interval = None
        if label:
            labels = np.repeat([0, 1], [len(normal), len(indices)])
            compared = np.concatenate([normal, scores[np.sort(indices)]])  # in the order of the split
            auroc = float(roc_auc_score(labels, compared))
            interval = auroc_interval(labels, compared)
        kinds.append(Kind(name, label, indices, auroc, interval))
    return sorted(kinds, key=lambda kind: (kind.label, kind.auroc or 0.0))


def _select_gallery(kinds: list[Kind], pixels: int) -> np.ndarray:
    """Selects the images with the lowest and the highest scores of the first kinds.

    Args:
        kinds: the kinds, in the order of `Evaluation.kinds`.
        pixels: the number of pixels of one image.

    Returns:
        The indices of the images, kind by kind; within a kind, in ascending order of the scores.
    """
    count = min(MAX_GALLERY_IMAGES, max(4, MAX_GALLERY_PIXELS // pixels))
    gallery_kinds = kinds[: count // 2]
    if not any(kind.label for kind in gallery_kinds):  # at least one kind must be anomalous
        gallery_kinds[-1] = next(kind for kind in kinds if kind.label)
    half = min(MAX_GALLERY_IMAGES_PER_KIND, count // len(gallery_kinds)) // 2
    return np.concatenate(
        [
            kind.indices if len(kind.indices) <= 2 * half else kind.indices[np.r_[:half, -half:0]]
            for kind in gallery_kinds
        ]
    )
