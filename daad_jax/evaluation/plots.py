"""Pictures of scores and heat maps, as files."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from daad_jax.data.samples import Split
from daad_jax.detection.detector import Detections
from daad_jax.evaluation import charts

COLOURS = mpl.colormaps["inferno"]
FAINT, STRONG = 0.7, 2.0  # heat where colour begins, and where it is full; 1 is where normal images end
COVER = 0.65  # of the picture, by full colour


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The image with its heat map laid over, so that what looks normal stays as it is.

    Args:
        image: uint8 `[H, W, 1 or 3]`.
        heat: `[H, W]`, as `Detections.heat`.

    Returns:
        uint8 `[H, W, 3]`.
    """
    strength = np.clip((heat - FAINT) / (STRONG - FAINT), 0, 1)[..., None]
    colour = 255 * COLOURS(0.35 + 0.65 * strength[..., 0])[..., :3]
    grey = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
    alpha = COVER * np.minimum(1, 3 * strength)
    return np.rint((1 - alpha) * grey + alpha * colour).astype(np.uint8)


def histogram(path: Path, scores: np.ndarray, labels: np.ndarray, threshold: float) -> None:
    """Anomaly scores `[N]` of normal (label 0) and anomalous images, with the threshold, as PNG."""
    save(charts.histogram(scores, labels, threshold, charts.PAPER, (7, 3.5)), path)


def gallery(path: Path, split: Split, found: Detections, columns: np.ndarray) -> None:
    """Input, reconstruction, heat map and (where there are any) mask, as PNG.

    Args:
        path: of the PNG.
        split: images.
        found: what is said of them.
        columns: indices of those to show, a column each.
    """
    count = len(columns)
    rows = ["input", "reconstruction", "heat map"] + ["mask"] * (split.masks is not None)
    figure = Figure(figsize=(1.3 * count, 1.3 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for column, i in enumerate(columns):
        pictures = [found.images[i], found.reconstructions[i], overlay(found.images[i], found.heat[i])]
        if split.masks is not None:
            pictures.append(255 * split.masks[i])
        for row, picture in enumerate(pictures):
            axes[row, column].imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255)
        kind = split.kinds[i].encode("utf-8", "replace").decode()  # a folder's name need not be text
        title = f"{kind}\nA = {found.scores[i]:.1f}"
        axes[0, column].set_title(title, fontsize=8, parse_math=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for row, name in enumerate(rows):
        axes[row, 0].set_ylabel(name)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG in one go."""
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=110, format="png")
    temporary.replace(path)
