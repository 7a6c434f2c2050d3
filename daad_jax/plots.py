"""Pictures of an evaluation."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from daad_jax.data.samples import Split

mpl.use("Agg")


def histogram(path: Path, scores: np.ndarray, labels: np.ndarray, threshold: float) -> None:
    """Anomaly scores `[N]` of normal (label 0) and anomalous images, with the threshold."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    # The far tail of anomalies would squeeze everything else into one bar.
    low, high = np.quantile(scores, [0, 0.99])
    bins = np.linspace(low, max(high, threshold) + 1e-9, 50).tolist()
    for label, name in ((0, "normal"), (1, "anomalous")):
        values = np.minimum(scores[labels == label], bins[-1])
        axes.hist(values, bins, density=True, alpha=0.6, label=f"{name} ({len(values)})")
    axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.2f}")
    axes.set(xlabel="anomaly score A(x), in units of held-out normal images", ylabel="density")
    axes.legend()
    _save(figure, path)


def gallery(path: Path, split: Split, reconstructions: np.ndarray, scores: np.ndarray) -> None:
    """Input, reconstruction and residual of every image `[N, H, W, C]` uint8, a column each."""
    count = len(split)
    figure = Figure(figsize=(1.3 * count, 4.4), layout="constrained")
    axes = figure.subplots(3, count, squeeze=False)
    residuals = np.abs(split.images.astype(float) - reconstructions.astype(float)).mean(-1)
    scale = max(float(np.quantile(residuals, 0.999)), 1.0)
    for i in range(count):
        for row, picture in enumerate((split.images[i], reconstructions[i])):
            axes[row, i].imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255)
        axes[2, i].imshow(residuals[i], cmap="magma", vmin=0, vmax=scale)
        axes[0, i].set_title(f"{split.kinds[i]}\nA = {scores[i]:.1f}", fontsize=8, parse_math=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for row, name in enumerate(("input", "reconstruction", "residual")):
        axes[row, 0].set_ylabel(name)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=110, format="png")
    temporary.replace(path)
