"""An evaluation as one page: a file of its own that loads nothing, runs nothing and escapes all names."""

import base64
import io
import json
import math
import shlex
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image
from scipy.stats import betabinom

from daad_jax import config as config_lib
from daad_jax.config import Config
from daad_jax.detection.overlay import overlay
from daad_jax.evaluation import charts
from daad_jax.evaluation.figures import Evaluation, Kind
from daad_jax.scoring.anomaly_score import held_out_needed

LARGEST_PICTURE = 128  # pixels of its longer side
SMALL_PICTURE = 64  # below this, pixels are shown as squares
SURPRISE = 0.01
CURVES = {
    "reconstruction": "Reconstruction loss",
    "adversarial": "Adversarial loss of the generator",
    "alignment": "Alignment loss",
    "discriminator": "Discriminator loss",
    "images_per_s": "Images per second",
}
VERDICTS = {(0, False): "passed", (0, True): "false alarm", (1, False): "missed", (1, True): "found"}


def render(found: Evaluation, workdir: Path) -> str:
    """The page, HTML.

    Args:
        found: what it tells of.
        workdir: its `metrics.jsonl` and `environment.json` are told of where they can be read.
    """
    template = resources.files("daad_jax.evaluation").joinpath("report.html.j2").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    config, scores, labels = found.detector.config, found.scores, found.test.labels
    lines = _lines(workdir / "metrics.jsonl")
    drawn = {"scores": charts.histogram, "roc": charts.roc, "pr": charts.precision_recall}
    sections = _gallery(found)
    text = environment.from_string(template).render(
        found=found,
        detector=found.detector,
        config=config,
        kinds=[_row(kind, found) for kind in found.kinds],
        needed=held_out_needed(found.detector.calibration.false_alarm_rate),
        surprising=_false_alarms_surprise(found),
        charts={n: _svg(draw(scores, labels, found.detector.threshold), n) for n, draw in drawn.items()},
        gallery=sections,
        kinds_left_out=len(found.kinds) - len(sections),
        are_small=max(config.data.height, config.data.width) < SMALL_PICTURE,
        memories=_memories(lines, config),
        curves=_curves(lines),
        last_step=lines[-1]["step"] if lines else None,
        commands=_commands(workdir),
        stored=_stored(workdir, config),
    )
    # A file name need not be text: bytes that are none are shown as "?".
    return text.encode("utf-8", "replace").decode("utf-8")


def _svg(figure: Any, name: str) -> Markup:
    return Markup(charts.svg(figure, name))  # numbers and words of ours only: no name goes into a chart


def _row(kind: Kind, found: Evaluation) -> dict[str, Any]:
    scores = found.scores[kind.indices]
    flagged = int((scores > found.detector.threshold).sum())
    return {
        "name": kind.name,
        "label": kind.label,
        "images": len(scores),
        "flagged": flagged,
        "unflagged": len(scores) - flagged,
        "auroc": kind.auroc,
        "mean": scores.mean(),
    }


def _false_alarms_surprise(found: Evaluation) -> bool:
    """Whether so many false alarms would be rare, were the normal test images like the held-out ones.

    The threshold is an order statistic of n held-out scores, so the share of new normal images above it
    is Beta distributed, and their number among m beta-binomial.
    """
    held_out = np.asarray(found.detector.calibration.scores)
    above = 1 + int((held_out > found.detector.threshold).sum())
    below = max(1, len(held_out) + 1 - above)
    alarms, normal = found.image["false_alarms"], int((found.test.labels == 0).sum())
    return bool(betabinom.sf(alarms - 1, normal, above, below) < SURPRISE)


def _gallery(found: Evaluation) -> list[dict[str, Any]]:
    """Per kind two rows of cards: what is most likely judged wrong, then what is most likely right."""
    row_of = {int(index): row for row, index in enumerate(found.shown)}
    sections = []
    for kind in found.kinds:
        rows = [row_of[i] for i in kind.indices.tolist() if i in row_of]
        if not rows:
            continue
        half = math.ceil(len(rows) / 2)
        low, high = [_card(found, r) for r in rows[:half]], [_card(found, r) for r in rows[half:][::-1]]
        parts = [("Lowest scores", low), ("Highest scores", high)]
        parts = [part for part in parts if part[1]]
        sections.append(
            {"name": kind.name, "label": kind.label, "parts": parts if kind.label else parts[::-1]}
        )
    return sections


def _card(found: Evaluation, row: int) -> dict[str, Any]:
    said, index = found.shown_detections, int(found.shown[row])
    image, label = said.images[row], int(found.test.labels[index])
    pictures = {
        "input": image,
        "reconstruction": said.reconstructions[row],
        "heat map": overlay(image, said.heat[row]),
    }
    if found.test.masks is not None and found.test.masks[index].any():
        pictures["mask"] = 255 * (found.test.masks[index] > 0).astype(np.uint8)
    return {
        "name": found.test.names[index],
        "score": found.scores[index],
        "p_value": found.p_values[index],
        "verdict": VERDICTS[label, bool(said.anomalous[row])],
        "is_right": bool(said.anomalous[row]) == bool(label),
        "pictures": {name: _png(pixels) for name, pixels in pictures.items()},
    }


def _png(pixels: np.ndarray) -> str:
    """uint8 `[H, W]` or `[H, W, C]` as a data URI."""
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    picture.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _lines(path: Path) -> list[dict[str, float]]:
    """The finite numbers of every whole line of a run's log; none where there is no log."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = []
    for line in text.splitlines():
        try:
            tree = json.loads(line)
        except (ValueError, RecursionError):
            continue  # cut short by a kill
        tree = tree if isinstance(tree, dict) else {}
        numbers = {k: v for k, v in tree.items() if type(v) in (int, float) and math.isfinite(v)}
        if "step" in numbers:
            lines.append(numbers)
    return lines


def _memories(lines: list[dict[str, float]], config: Config) -> list[dict[str, Any]]:
    last = lines[-1] if lines else {}
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


def _curves(lines: list[dict[str, float]]) -> list[dict[str, Any]]:
    found = []
    for key, title in CURVES.items():
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            steps, values = zip(*points)
            found.append({"title": title, "last": values[-1], "svg": _svg(charts.curve(steps, values), key)})
    return found


def _commands(workdir: Path) -> str:
    again = workdir.with_name(f"{workdir.resolve().name}-again")
    config, other = (shlex.quote(str(path)) for path in (workdir / "config.json", again))
    return (
        f"python train.py --config configs/stored.py:{config} --workdir {other}\n"
        f"python evaluate.py --workdir {other}"
    )


def _stored(workdir: Path, config: Config) -> dict[str, str]:
    """Title and text of what was configured, and of where it ran."""
    stored = {"Configuration": config_lib.to_json(config)}
    try:
        tree = json.loads((workdir / "environment.json").read_text(encoding="utf-8"))
        stored["Environment of the training"] = json.dumps(tree, indent=2)
    except (OSError, ValueError, RecursionError):
        pass  # another program's, or an older run
    return stored
