"""Draws charts of an evaluation and of a training run with matplotlib, as PNG files or as SVG for a page."""

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

from daad_jax.data.images import to_uint8
from daad_jax.data.samples import Split
from daad_jax.detection.detections import Detections
from daad_jax.detection.overlay import draw_overlay
from daad_jax.escaping import for_terminal
from daad_jax.files import replacing

mpl.use("Agg")

Size = tuple[float, float]
Place = Literal["best", "lower left", "lower right"]
# Sizes are in inches. A card is as wide as a phone, so that the letters on a phone are not shrunk.
CARD: Size = (4.4, 3.0)
FLAT_CARD: Size = (4.4, 2.2)
WIDE: Size = (7, 3.5)
MIN_LOG_RATIO = 20  # an axis is logarithmic if the largest value is more than this many times the smallest


@dataclass(frozen=True)
class Ink:
    """The colours of a chart, as "#rrggbb"."""

    text: str
    faint: str
    normal: str
    anomalous: str


PAPER = Ink("#000000", "#dddddd", "#2a6fb0", "#d9601a")
# matplotlib knows no CSS variables. So charts of a page have placeholder colours, and `to_svg` replaces
# these.
PAGE = Ink("#010101", "#020202", "#030303", "#040404")
CSS_VARIABLES = {
    PAGE.text: "text", PAGE.faint: "faint", PAGE.normal: "normal", PAGE.anomalous: "anomalous",
}  # fmt: skip
LINE_STYLES = ("-", "--", "-.", ":")
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def draw_histogram(
    scores: np.ndarray, labels: np.ndarray, threshold: float, ink: Ink = PAGE, size: Size = CARD
) -> Figure:
    """Draws the distributions of scores `[N]` of normal (label 0) and anomalous images, and the threshold."""
    figure, axes = _make_chart(ink, size)
    # The axis ends at a quantile, because a single very high score would squeeze all others into one bar.
    low, high = np.quantile(scores, [0, 0.99])
    count = int(np.clip(2 * np.sqrt(len(scores)), 12, 50))
    bins = np.linspace(min(low, threshold), max(high, threshold) + 1e-9, count).tolist()
    for label, name, colour in ((0, "normal", ink.normal), (1, "anomalous", ink.anomalous)):
        values = np.minimum(scores[labels == label], bins[-1])
        axes.hist(values, bins, density=True, alpha=0.6, color=colour, label=f"{name} ({len(values)})")
    axes.axvline(threshold, color=ink.text, linestyle="--", label=f"threshold {threshold:.2f}")
    tail = " (last bar: this high or higher)" if scores.max() > bins[-1] else ""
    axes.set(xlabel=f"anomaly score{tail}", ylabel="density", yticks=[])
    _draw_legend(axes, ink)
    return figure


def draw_roc(scores: np.ndarray, labels: np.ndarray, threshold: float, ink: Ink = PAGE) -> Figure:
    """Draws the share of anomalous images found over the share of normal ones flagged, for all thresholds."""
    figure, axes = _make_chart(ink)
    false_alarm_rates, recall, _ = metrics.roc_curve(labels, scores)
    axes.plot([0, 1], [0, 1], color=ink.faint, linestyle="--")
    axes.plot(false_alarm_rates, recall, color=ink.anomalous, clip_on=False)
    is_flagged = scores > threshold
    point = is_flagged[labels == 0].mean(), is_flagged[labels == 1].mean()
    axes.plot(*point, "o", color=ink.text, label="at the threshold", clip_on=False)
    axes.set(xlabel="share of normal images flagged", ylabel="share of anomalous images found")
    _draw_share_axes(axes, ink, "lower right")
    return figure


def draw_roc_curves(scores: Sequence[np.ndarray], labels: np.ndarray, ink: Ink = PAGE) -> Figure:
    """Draws the ROC curves of up to eight runs on the same images, with the names "run 1", "run 2", ...

    Args:
        scores: the scores of each run, `[N]`.
        labels: the labels, 0 (normal) or 1 (anomalous), `[N]`.
        ink: the colours. Runs of the same colour have different kinds of lines.
    """
    figure, axes = _make_chart(ink)
    axes.plot([0, 1], [0, 1], color=ink.faint, linestyle="--")
    for number, of_run in enumerate(scores):
        false_alarm_rates, recall, _ = metrics.roc_curve(labels, of_run)
        colour = (ink.anomalous, ink.normal)[number % 2]
        style = LINE_STYLES[number // 2 % len(LINE_STYLES)]
        axes.plot(
            false_alarm_rates, recall, color=colour, linestyle=style, label=f"run {number + 1}", clip_on=False
        )
    axes.set(xlabel="share of normal images flagged", ylabel="share of anomalous images found")
    _draw_share_axes(axes, ink, "lower right")
    return figure


def draw_precision_recall(
    scores: np.ndarray, labels: np.ndarray, threshold: float, ink: Ink = PAGE
) -> Figure:
    """Draws precision (the share of flagged images that are anomalous) against recall, for all thresholds."""
    figure, axes = _make_chart(ink)
    precision, recall, _ = metrics.precision_recall_curve(labels, scores, drop_intermediate=True)
    axes.axhline(labels.mean(), color=ink.faint, linestyle="--")
    axes.step(recall, precision, where="pre", color=ink.anomalous)
    is_flagged = scores > threshold
    if is_flagged.any():
        point = is_flagged[labels == 1].mean(), labels[is_flagged].mean()
        axes.plot(*point, "o", color=ink.text, label="at the threshold", clip_on=False)
    axes.set(xlabel="recall (share of anomalous images found)", ylabel="precision")
    _draw_share_axes(axes, ink, "lower left")
    return figure


def draw_curve(steps: Sequence[float], values: Sequence[float], ink: Ink = PAGE) -> Figure:
    """Draws a quantity over training steps; the axis is logarithmic if the values span a large range."""
    figure, axes = _make_chart(ink, FLAT_CARD)
    axes.plot(steps, values, color=ink.normal, marker="o" if len(steps) == 1 else "")
    if min(values) > 0 and max(values) > MIN_LOG_RATIO * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="step")
    return figure


def draw_gallery(split: Split, detections: Detections, columns: np.ndarray) -> Figure:
    """Draws images with their heat maps, and with reconstructions and masks if they exist.

    Args:
        split: the images.
        detections: the detections of the images, in the same order.
        columns: the indices of the images to draw, one column each.
    """
    # Choose the rows.
    count = len(columns)
    reconstructions, has_masks = detections.reconstructions, split.masks is not None
    rows = ["input", *["reconstruction"] * (reconstructions is not None), "heat map"]
    rows += ["mask"] * has_masks

    # Draw the pictures of each image.
    figure = Figure(figsize=(1.3 * count, 1.3 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for column, i in enumerate(columns):
        image = to_uint8(detections.images[i])
        pictures = [image, draw_overlay(image, detections.heat[i])]
        if reconstructions is not None:
            pictures.insert(1, to_uint8(reconstructions[i]))
        if has_masks:
            pictures.append(255 * split.mask(int(i)))
        for row, picture in enumerate(pictures):
            axes[row, column].imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255)
        title = f"{for_terminal(split.kinds[i])}\nA = {detections.scores[i]:.1f}"
        axes[0, column].set_title(title, fontsize=8, parse_math=False)

    # Label the rows.
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for row, name in enumerate(rows):
        axes[row, 0].set_ylabel(name)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG file, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def to_svg(figure: Figure, name: str) -> str:
    """Converts a figure to an SVG element in a page's own colours and font.

    Args:
        figure: a figure in the colours of `PAGE`.
        name: a name that no other chart of the page has. All ids of the element begin with this name.

    Returns:
        The markup of the element. It uses the CSS variables --text, --faint, --normal and --anomalous.
    """
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata=NO_METADATA)
    text = file.getvalue()
    box = re.search(r'viewBox="[^"]+"', text)
    assert box is not None
    body = text[
        text.index("</defs>") + len("</defs>") :
    ]  # without matplotlib's style, which would apply to the whole page
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body)
    for colour, variable in CSS_VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    return f'<svg {box[0]} role="img" stroke-linejoin="round">{body}'


def _make_chart(ink: Ink, size: Size = CARD) -> tuple[Figure, Axes]:
    """Makes an empty chart with two faint axes."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink.faint)
    axes.tick_params(which="both", color=ink.faint, labelcolor=ink.text)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(ink.text)
    return figure, axes


def _draw_legend(axes: Axes, ink: Ink, place: Place = "best") -> None:
    if axes.get_legend_handles_labels()[0]:  # without entries, matplotlib would warn
        axes.legend(loc=place, frameon=False, labelcolor=ink.text)


def _draw_share_axes(axes: Axes, ink: Ink, place: Place) -> None:
    """Gives both axes the range from 0 to 1, and draws a grid and the legend."""
    axes.set(xlim=(0, 1), ylim=(0, 1.02), yticks=np.linspace(0, 1, 6), xticks=np.linspace(0, 1, 6))
    axes.grid(color=ink.faint, linewidth=0.5)
    _draw_legend(axes, ink, place)
