"""Charts of an evaluation and of a training run: matplotlib figures, as PNG files or as SVG for a page."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from sklearn import metrics

from daad_jax.data.samples import Split
from daad_jax.detection.detector import Detections
from daad_jax.detection.overlay import overlay
from daad_jax.files import replacing

mpl.use("Agg")

Size = tuple[float, float]
Place = Literal["best", "lower left", "lower right"]
CARD: Size = (4.4, 3.0)  # inches; as wide as a phone, so that letters keep their size there
LOG_FROM = 20  # largest over smallest value from which a training curve is drawn in powers of ten


@dataclass(frozen=True)
class Ink:
    """Colours of a chart."""

    text: str
    faint: str
    normal: str
    anomalous: str


PAPER = Ink("#000000", "#dddddd", "#2a6fb0", "#d9601a")
# matplotlib knows no CSS, so a page's charts are drawn in these, and `svg` puts the variables in.
PAGE = Ink("#010101", "#020202", "#030303", "#040404")
VARIABLES = dict(zip(("#010101", "#020202", "#030303", "#040404"), ("text", "faint", "normal", "anomalous")))
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def histogram(
    scores: np.ndarray, labels: np.ndarray, threshold: float, ink: Ink = PAGE, size: Size = CARD
) -> Figure:
    """Anomaly scores `[N]` of normal (label 0) and anomalous images, with the threshold."""
    figure, axes = _chart(ink, size)
    # The far tail of anomalies would squeeze everything else into one bar.
    low, high = np.quantile(scores, [0, 0.99])
    count = int(np.clip(2 * np.sqrt(len(scores)), 12, 50))
    bins = np.linspace(min(low, threshold), max(high, threshold) + 1e-9, count).tolist()
    for label, name, colour in ((0, "normal", ink.normal), (1, "anomalous", ink.anomalous)):
        values = np.minimum(scores[labels == label], bins[-1])
        axes.hist(values, bins, density=True, alpha=0.6, color=colour, label=f"{name} ({len(values)})")
    axes.axvline(threshold, color=ink.text, linestyle="--", label=f"threshold {threshold:.2f}")
    tail = ", last bar: all above" if scores.max() > bins[-1] else ""
    axes.set(xlabel=f"anomaly score{tail}", ylabel="density", yticks=[])
    _legend(axes, ink)
    return figure


def roc(scores: np.ndarray, labels: np.ndarray, threshold: float, ink: Ink = PAGE) -> Figure:
    """Share of anomalous images found against share of normal ones flagged, over all thresholds."""
    figure, axes = _chart(ink)
    flagged, found, _ = metrics.roc_curve(labels, scores)
    axes.plot([0, 1], [0, 1], color=ink.faint, linestyle="--")
    axes.plot(flagged, found, color=ink.anomalous, clip_on=False)
    verdicts = scores > threshold
    at = verdicts[labels == 0].mean(), verdicts[labels == 1].mean()
    axes.plot(*at, "o", color=ink.text, label="at the threshold", clip_on=False)
    axes.set(xlabel="normal images flagged", ylabel="anomalous images found")
    _shares(axes, ink, "lower right")
    return figure


def precision_recall(scores: np.ndarray, labels: np.ndarray, threshold: float, ink: Ink = PAGE) -> Figure:
    """Share of flagged images that are anomalous against share of anomalous ones found."""
    figure, axes = _chart(ink)
    precision, recall, _ = metrics.precision_recall_curve(labels, scores, drop_intermediate=True)
    axes.axhline(labels.mean(), color=ink.faint, linestyle="--")
    axes.step(recall, precision, where="pre", color=ink.anomalous)
    verdicts = scores > threshold
    if verdicts.any():
        at = verdicts[labels == 1].mean(), labels[verdicts].mean()
        axes.plot(*at, "o", color=ink.text, label="at the threshold", clip_on=False)
    axes.set(xlabel="anomalous images found (recall)", ylabel="right among flagged (precision)")
    _shares(axes, ink, "lower left")
    return figure


def curve(steps: Sequence[float], values: Sequence[float], ink: Ink = PAGE) -> Figure:
    """A quantity over training steps; in powers of ten where it spans several."""
    figure, axes = _chart(ink, (4.4, 2.2))
    axes.plot(steps, values, color=ink.normal, marker="o" if len(steps) == 1 else "")
    if min(values) > 0 and max(values) > LOG_FROM * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="step")
    return figure


def gallery(split: Split, found: Detections, columns: np.ndarray) -> Figure:
    """Input, reconstruction, heat map and (where there are any) mask of chosen images.

    Args:
        split: the images.
        found: their detections.
        columns: indices of the images to show, one column each.
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
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def svg(figure: Figure, name: str) -> str:
    """An SVG element in a page's own colours and letters.

    Args:
        figure: drawn in `PAGE` ink.
        name: distinct in its page; it begins all ids.

    Returns:
        Markup that uses the CSS variables --text, --faint, --normal and --anomalous.
    """
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata=NO_METADATA)
    text = file.getvalue()
    box = re.search(r'viewBox="[^"]+"', text)
    assert box is not None
    body = text[text.index("</defs>") + len("</defs>") :]  # the first ones hold a style for all the page
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    return f'<svg {box[0]} role="img" stroke-linejoin="round">{body}'


def _chart(ink: Ink, size: Size = CARD) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink.faint)
    axes.tick_params(which="both", color=ink.faint, labelcolor=ink.text)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(ink.text)
    return figure, axes


def _legend(axes: Axes, ink: Ink, place: Place = "best") -> None:
    if axes.get_legend_handles_labels()[0]:  # nothing is at the threshold where nothing is flagged
        axes.legend(loc=place, frameon=False, labelcolor=ink.text)


def _shares(axes: Axes, ink: Ink, place: Place) -> None:
    """Both axes from 0 to 1."""
    axes.set(xlim=(0, 1), ylim=(0, 1.02), yticks=np.linspace(0, 1, 6), xticks=np.linspace(0, 1, 6))
    axes.grid(color=ink.faint, linewidth=0.5)
    _legend(axes, ink, place)
