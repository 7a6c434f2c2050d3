"""Renders an evaluation as one HTML page. The page loads no file, runs no script and escapes all names."""

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import betabinom

from daad_jax import config as config_lib
from daad_jax.buckets import read_bytes
from daad_jax.config import Config
from daad_jax.data import account
from daad_jax.data.images import to_uint8
from daad_jax.data.samples import AccountRow
from daad_jax.detection.overlay import draw_overlay
from daad_jax.evaluation import charts
from daad_jax.evaluation.bootstrap import describe_interval
from daad_jax.evaluation.figures import Evaluation, Kind
from daad_jax.evaluation.pages import MIN_SMOOTH_SIDE, draw_svg, encode_png, render_page
from daad_jax.scoring.anomaly_score import held_out_needed
from daad_jax.terminal import format_rate
from daad_jax.training.suspects import Suspect

SHOWN_SUSPECTS = 8
# The page warns if so many false alarms have at most this probability for test images like the held-out ones.
SURPRISING_PROBABILITY = 0.01
CURVES = {  # keys of metrics.jsonl
    "reconstruction": "Reconstruction loss",
    "adversarial": "Adversarial loss of the generator",
    "alignment": "Alignment loss",
    "discriminator": "Discriminator loss",
    "images_per_s": "Images per second",
}
VERDICTS = {  # by label, and by whether the threshold flags the image
    (0, False): "correctly accepted",
    (0, True): "false alarm",
    (1, False): "missed",
    (1, True): "found",
}


def render(
    evaluation: Evaluation,
    workdir: Path,
    place: str = "",
    account_rows: Sequence[AccountRow] = (),
    suspects: Sequence[tuple[Suspect, np.ndarray]] = (),
    calibrating: int = 0,
) -> str:
    """Renders the page as HTML.

    Args:
        evaluation: the evaluation of the test split.
        workdir: the folder of the run. The page shows its `metrics.jsonl` and `environment.json`, if these
            files can be read.
        place: the folder of the test images; "" for the run's own images.
        account_rows: the roles of the files of the data; without rows, the page has no such table.
        suspects: the least normal training images with their pixels, the least normal image first.
        calibrating: the number of test images that have set the threshold.
    """
    # Draw the charts and the gallery.
    config, scores, labels = evaluation.detector.config, evaluation.scores, evaluation.test.labels
    threshold = evaluation.detector.threshold
    log = _read_log(workdir / "metrics.jsonl")
    drawings = {
        "scores": charts.draw_histogram,
        "roc": charts.draw_roc,
        "pr": charts.draw_precision_recall,
    }
    sections = _gallery_sections(evaluation)

    # Fill the template.
    return render_page(
        "report.html.j2",
        evaluation=evaluation,
        intervals={name: describe_interval(ends) for name, ends in evaluation.intervals.items()},
        detector=evaluation.detector,
        config=config,
        calibrating=calibrating,
        place=place,
        kinds=[_kind_row(kind, evaluation) for kind in evaluation.kinds],
        needed=held_out_needed(evaluation.detector.calibration.false_alarm_rate),
        too_many_false_alarms=_has_too_many_false_alarms(evaluation),
        charts={name: draw_svg(draw(scores, labels, threshold), name) for name, draw in drawings.items()},
        gallery=sections,
        suspects=[
            {"name": s.name, "score": s.score, "uri": encode_png(to_uint8(pixels))} for s, pixels in suspects
        ],
        format_rate=format_rate,
        kinds_left_out=len(evaluation.kinds) - len(sections),
        are_small=max(config.data.height, config.data.width) < MIN_SMOOTH_SIDE,
        account_columns=account.COLUMNS,
        account_rows=[account.cells_of(row) for row in account_rows],
        memories=_memory_rows(log, config),
        curves=_training_curves(log),
        last_step=log[-1]["step"] if log else None,
        commands=_format_commands(workdir),
        stored=_stored_texts(workdir, config),
    )


def _kind_row(kind: Kind, evaluation: Evaluation) -> dict[str, Any]:
    """Returns a row of the table of kinds."""
    scores = evaluation.scores[kind.indices]
    flagged = int((scores > evaluation.detector.threshold).sum())
    return {
        "name": kind.name,
        "label": kind.label,
        "images": len(scores),
        "flagged": flagged,
        "accepted": len(scores) - flagged,
        "auroc": kind.auroc,
        "interval": kind.interval and describe_interval(kind.interval),
        "mean": scores.mean(),
    }


def _has_too_many_false_alarms(evaluation: Evaluation) -> bool:
    """Returns whether so many false alarms would be rare if normal test images were like held-out images.

    The threshold is an order statistic of the held-out scores. The share of new normal images above the
    threshold therefore has a Beta distribution, and the number of false alarms has a beta-binomial
    distribution. If the images come in groups, groups are counted instead, because the images of a group are
    alike.
    """
    calibration, test = evaluation.detector.calibration, evaluation.test
    above = 1 + float(calibration.count_from(np.nextafter(evaluation.detector.threshold, np.inf)))
    below = max(1.0, calibration.group_count + 1 - above)
    alarms, normal = evaluation.image_metrics["false_alarms"], int((test.labels == 0).sum())
    if test.groups is not None:
        groups = len(np.unique(test.groups[test.labels == 0]))
        alarms, normal = alarms * groups // normal, groups
    return bool(betabinom.sf(alarms - 1, normal, above, below) < SURPRISING_PROBABILITY)


def _gallery_sections(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Returns a section for every kind in the gallery: two groups of cards, likely mistakes first."""
    row_of = {int(index): row for row, index in enumerate(evaluation.gallery_indices)}
    sections = []
    for kind in evaluation.kinds:
        rows = [row_of[i] for i in kind.indices.tolist() if i in row_of]
        if not rows:
            continue
        half = math.ceil(len(rows) / 2)
        low = [_card(evaluation, row) for row in rows[:half]]
        high = [_card(evaluation, row) for row in rows[half:][::-1]]
        # Low scores are likely mistakes of anomalous images, and high scores of normal ones.
        groups = [("Lowest scores", low), ("Highest scores", high)]
        groups = [group for group in (groups if kind.label else groups[::-1]) if group[1]]
        sections.append({"name": kind.name, "label": kind.label, "groups": groups})
    return sections


def _card(evaluation: Evaluation, row: int) -> dict[str, Any]:
    """Returns the card of image `row` of the gallery."""
    detections, index = evaluation.gallery_detections, int(evaluation.gallery_indices[row])
    image, label = to_uint8(detections.images[row]), int(evaluation.test.labels[index])
    is_flagged = bool(detections.anomalous[row])
    pictures = {"input": image}
    if detections.reconstructions is not None:
        pictures["reconstruction"] = to_uint8(detections.reconstructions[row])
    pictures["heat map"] = draw_overlay(image, detections.heat[row])
    if evaluation.test.masks is not None and (mask := evaluation.test.mask(index)).any():
        pictures["mask"] = 255 * (mask > 0).astype(np.uint8)
    return {
        "name": evaluation.test.names[index],
        "score": evaluation.scores[index],
        "p_value": evaluation.p_values[index],
        "verdict": VERDICTS[label, is_flagged],
        "is_right": is_flagged == bool(label),
        "pictures": {name: encode_png(pixels) for name, pixels in pictures.items()},
    }


def _read_log(path: Path) -> list[dict[str, float]]:
    """Reads the finite numbers of every line of a run's log. Damaged lines are left out.

    Returns:
        A table of numbers for each line; an empty list if the log cannot be read.
    """
    try:
        text = read_bytes(path).decode("utf-8", "replace")
    except OSError:
        return []
    log = []
    for line in text.splitlines():
        try:
            tree = json.loads(line)
        except (ValueError, RecursionError):
            continue  # a killed run may leave half a line
        tree = tree if isinstance(tree, dict) else {}
        numbers = {k: v for k, v in tree.items() if type(v) in (int, float) and math.isfinite(v)}
        if "step" in numbers:
            log.append(numbers)
    return log


def _memory_rows(log: list[dict[str, float]], config: Config) -> list[dict[str, Any]]:
    """Returns the table of memories, from the last line of the log."""
    last = log[-1] if log else {}
    levels = config.model.levels
    return [
        {
            "scale": scale,
            "size": f"1/{2 ** (levels - scale + 1)}",
            "items": items,
            "used": items * last[f"memory{scale}/items_in_use"],
            "entropy": last.get(f"memory{scale}/entropy"),
            "top_weight": last.get(f"memory{scale}/top_weight"),
        }
        for scale, items in enumerate(config.model.memory_items, 1)
        if items and f"memory{scale}/items_in_use" in last
    ]


def _training_curves(log: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Draws a chart for every quantity of CURVES that the log has."""
    curves = []
    for key, title in CURVES.items():
        points = [(line["step"], line[key]) for line in log if key in line]
        if points:
            steps, values = zip(*points)
            svg = draw_svg(charts.draw_curve(steps, values), key)
            curves.append({"title": title, "last": values[-1], "svg": svg})
    return curves


def _format_commands(workdir: Path) -> str:
    """Returns the commands that repeat the training and the evaluation in another workdir."""
    repetition = workdir.with_name(f"{workdir.resolve().name}-again")
    config, other = (shlex.quote(str(path)) for path in (workdir / "config.json", repetition))
    return (
        f"python train.py --config configs/stored.py:{config} --workdir {other}\n"
        f"python evaluate.py --workdir {other}"
    )


def _stored_texts(workdir: Path, config: Config) -> dict[str, str]:
    """Returns, by title, the text of the configuration and, if stored, of the training's environment."""
    stored = {"Configuration": config_lib.to_json(config)}
    try:
        tree = json.loads((workdir / "environment.json").read_text(encoding="utf-8"))
        stored["Environment of the training"] = json.dumps(tree, indent=2)
    except (OSError, ValueError, RecursionError):
        pass  # an older run stored no environment, or another program changed the file
    return stored
