"""Evaluates a run on a labelled test split, prints the figures and writes the files of the evaluation."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from daad_jax import files
from daad_jax.config import Config
from daad_jax.data.account import format_table, to_tree
from daad_jax.data.integrity import checksum
from daad_jax.data.locations import make_absolute
from daad_jax.data.samples import Account, Split
from daad_jax.data.test_sets import load_test
from daad_jax.detection.detector import Detector
from daad_jax.errors import UserError
from daad_jax.escaping import for_table, table_row
from daad_jax.evaluation import charts, report
from daad_jax.evaluation.bootstrap import CONFIDENCE, describe_interval
from daad_jax.evaluation.figures import Evaluation, evaluate_split
from daad_jax.files import explain_write_errors
from daad_jax.runtime import processes
from daad_jax.terminal import format_rate, say
from daad_jax.training import calibration_files, run_data
from daad_jax.training.suspects import Suspect, read_suspects

SCORE_COLUMNS = ("name", "label", "defect_type", "R", "L", "A", "p_value", "verdict", "calibration")


def evaluate(
    workdir: Path,
    batch_size: int | None = None,
    *,
    data: Path | None = None,
    data_dir: str = "",
    out: Path | None = None,
    check: bool = False,
) -> Evaluation:
    """Evaluates the newest checkpoint of a run, and prints its figures.

    The files are `scores.csv`, `evaluation.json`, `scores.png`, `gallery.png` and `report.html` in the
    workdir. With `data` or `data_dir`, the files go into a new folder `evaluations/NAME` of the workdir
    instead, together with `data.json`, which lists the images. Several processes share the images, and the
    first process prints and writes.

    Args:
        workdir: the folder of the run.
        batch_size: the number of images that a device scores at once, instead of `config.score.batch_size`.
        data: a folder of labelled images to test instead of the run's own images, see `test_sets.load_test`.
        data_dir: the TFDS directory in which the run's data set is now.
        out: another folder for the files, new or empty.
        check: whether to read all files again, and to decode a file again if it has changed without a new
            time or size.

    Raises:
        UserError: the run has no readable checkpoint; the test split has no normal or no anomalous images;
            the images have moved; or the folder for the files cannot be used.
    """
    with processes.errors_end_all():
        detector = Detector.load(workdir, batch_size)
        tested = _load_test(workdir, detector.config, data, data_dir, check)
        if processes.is_first():
            say(*format_table(tested.account.rows).splitlines())
            say(*tested.notes)
    _require_same(detector, tested.test)
    evaluation = evaluate_split(detector, tested.test)
    with processes.errors_end_all():
        if processes.is_first():
            _report(evaluation, workdir, out, tested)
    return evaluation


def _require_same(detector: Detector, test: Split) -> None:
    """Raises UserError if the processes have different images or models."""
    names = hashlib.sha256(repr(list(zip(test.names, test.labels.tolist()))).encode("utf-8", "replace"))
    processes.require_same(
        f"{len(test)} images with names and labels of digest {names.hexdigest()[:16]}, step {detector.step}, "
        f"calibration {detector.calibration_label.id}"
    )


def _report(evaluation: Evaluation, workdir: Path, out: Path | None, tested: "_Tested") -> None:
    """Prints the figures, and writes the files."""
    detector = evaluation.detector
    say(*_summarise(evaluation))
    calibrating = _count_calibrating(workdir, detector, tested.test)
    if calibrating:
        say(
            f"{calibrating} of the test images set the threshold (calibration "
            f"{detector.calibration_label.id}), so there are fewer false alarms than others would raise."
        )
    folder = workdir
    if out or tested.name:
        folder = files.new_folder(out, workdir / "evaluations" / (tested.name or "own"), "give another --out")
    _write_files(evaluation, workdir, folder, tested, calibrating)
    say(f"Wrote scores.csv, evaluation.json, scores.png, gallery.png and {folder / 'report.html'}.")


@dataclass(frozen=True)
class _Tested:
    """The images to test.

    Attributes:
        test: the labelled images.
        account: the roles of all files of the data.
        notes: lines to print about the images.
        name: a short name of the test set; "" for the run's own images.
        place: the folder of the images; "" for the run's own images.
        train: the training images of the run; None if the test images are not the run's own.
    """

    test: Split
    account: Account
    notes: list[str]
    name: str = ""
    place: str = ""
    train: Split | None = None


def _load_test(
    workdir: Path, config: Config, data: Path | None, data_dir: str, check: bool = False
) -> _Tested:
    """Loads the labelled images to test.

    Raises:
        UserError: see `test_sets.load_test` and `run_data.load_splits`; or both `data` and `data_dir` are
            given; or `data_dir` is given, and the run has no TFDS data set.
    """
    if data and data_dir:
        raise UserError("--data and --data_dir exclude each other; give one of them")
    if data:
        known = run_data.read(workdir)
        images = load_test(config, data, known.history if known else None, check)
        place = make_absolute(str(data))
        return _Tested(images.test, images.account, images.notes, Path(place).name or "data", place)
    if data_dir:
        if config.data.source != "tfds":
            raise UserError("--data_dir: this run has no TFDS data set; give its images with --data FOLDER")
        moved = replace(config, data=replace(config.data, data_dir=make_absolute(data_dir)))
        name = config.data.name.translate(str.maketrans("/:", "--"))
        splits = run_data.load_splits(workdir, moved, check=check)
        return _Tested(splits.test, splits.account, [], name, moved.data.data_dir)
    splits = run_data.load_splits(workdir, config, check=check)
    return _Tested(splits.test, splits.account, [], train=splits.train)


def _write_files(
    evaluation: Evaluation, workdir: Path, folder: Path, tested: _Tested, calibrating: int
) -> None:
    """Writes all files of an evaluation, or none of them."""
    # Collect the figures.
    detector, test = evaluation.detector, evaluation.test
    labels, gallery_indices = test.labels, evaluation.gallery_indices
    figures = {"step": detector.step, **evaluation.image_metrics, **(evaluation.pixel_metrics or {})}
    if evaluation.pixel_metrics:
        figures["marked"] = evaluation.marked
    figures |= {
        "intervals": evaluation.intervals,
        "kinds": [
            {"name": kind.name, "label": kind.label, "images": len(kind.indices), "auroc": kind.auroc,
             "interval": kind.interval}
            for kind in evaluation.kinds
        ],
        "threshold": detector.threshold,
        "calibration_label": asdict(detector.calibration_label),
        "calibration": asdict(detector.calibration),
    }  # fmt: skip

    # Write all files, or none of them.
    with (
        explain_write_errors(folder, "make room there, or give --workdir a copy that can be written"),
        files.replacing_together(folder, "evaluation") as new,
    ):
        files.write_text(new / "scores.csv", _format_scores(evaluation))
        files.write_text(new / "evaluation.json", json.dumps(figures, indent=2))
        histogram = charts.draw_histogram(
            evaluation.scores, labels, detector.threshold, charts.PAPER, charts.WIDE
        )
        charts.save_png(histogram, new / "scores.png")
        columns = _select_extremes(labels[gallery_indices], evaluation.gallery_detections.scores)
        gallery = charts.draw_gallery(test.take(gallery_indices), evaluation.gallery_detections, columns)
        charts.save_png(gallery, new / "gallery.png")
        suspects = _load_suspects(workdir, tested.train)
        page = report.render(evaluation, workdir, tested.place, tested.account.rows, suspects, calibrating)
        files.write_text(new / "report.html", page)
        if folder != workdir:  # the workdir's own data.json is about the training
            stored = {"path": tested.place, "notes": tested.notes, **to_tree(tested.account)}
            files.write_text(new / run_data.DATA_FILE, json.dumps(stored, indent=1))


def _count_calibrating(workdir: Path, detector: Detector, test: Split) -> int:
    """Counts the test images that a later calibration has used."""
    label = detector.calibration_label
    if not label.created:
        return 0
    known = {image.checksum for image in calibration_files.read(workdir, label.id).images}
    return sum(
        checksum(
            test.images[index : index + 1]
            if test.tiling is None
            else test.images[test.tiling.rows_of([index])]
        )
        in known
        for index in range(len(test))
    )


def _load_suspects(workdir: Path, train: Split | None) -> list[tuple[Suspect, np.ndarray]]:
    """Loads the least normal training images that the report shows, with their pixels `[h, w, C]`."""
    if train is None:
        return []
    rows = {for_table(name): row for row, name in enumerate(train.names)}
    shown = [s for s in read_suspects(workdir) if s.name in rows][: report.SHOWN_SUSPECTS]
    return [(suspect, train.picture(rows[suspect.name])) for suspect in shown]


def _summarise(evaluation: Evaluation) -> list[str]:
    """Returns the lines about the figures and the threshold."""
    detector, metrics, labels = evaluation.detector, evaluation.image_metrics, evaluation.test.labels
    calibration, rate = detector.calibration, detector.calibration.false_alarm_rate
    normal, anomalous = int((labels == 0).sum()), int(labels.sum())
    # The figures.
    lines = [
        f"Scored {len(labels)} test images with the checkpoint of step {detector.step}, at "
        f"{format_rate(evaluation.images_per_s)} images/s. "
        f"Calibration {detector.calibration_label.describe()}.",
        f"image AUROC {metrics['auroc']:.4f} {describe_interval(evaluation.intervals['auroc'])}",
        f"average precision {metrics['average_precision']:.4f}",
    ]
    if evaluation.pixel_metrics is None:
        lines.append("There are no pixel figures, because no anomalous test image has a mask.")
    else:
        interval = describe_interval(evaluation.intervals["pixel_auroc"])
        lines.append(f"pixel AUROC {evaluation.pixel_metrics['pixel_auroc']:.4f} {interval}")
        lines.append(f"AUPRO {evaluation.pixel_metrics['aupro']:.4f}")
        if evaluation.marked < anomalous:
            lines.append(
                f"The pixel figures are of the normal images and of {evaluation.marked} of the {anomalous} "
                "anomalous images: the others have no mask."
            )
        if evaluation.pixel_stride > 1:
            lines.append(
                f"The heat maps are large: the pixel figures use one of {evaluation.pixel_stride} of their "
                "rows and columns."
            )
    lines.append(
        f"The brackets are {100 * CONFIDENCE:.0f} % intervals: other test images could give such figures."
    )
    if metrics["auroc"] == 1:
        lines.append("The interval of an AUROC of 1 has no width; on few images, that proves little.")
    # The threshold, and the images that it flags.
    lines += [
        f"F1 {metrics['f1']:.4f} at threshold {detector.threshold:.4f}. This threshold "
        f"{calibration.describe_promise(rate)}.",
        f"Here the threshold flags {metrics['false_alarms']} of {normal} normal test images (false alarms).",
        f"The threshold flags {metrics['found']} of {anomalous} anomalous test images and misses "
        f"{metrics['missed']}.",
    ]
    if warning := calibration.shortage(rate):
        lines.append(f"warning: {warning}")
    return lines


def _format_scores(evaluation: Evaluation) -> str:
    """Returns the text of `scores.csv`: one row for each image, in the order of the test split."""
    lines = [table_row(SCORE_COLUMNS)]
    test, threshold = evaluation.test, evaluation.detector.threshold
    numbers = zip(evaluation.reconstruction, evaluation.alignment, evaluation.scores, evaluation.p_values)
    for name, label, kind, (r, alignment, score, p_value) in zip(
        test.names, test.labels, test.kinds, numbers
    ):
        verdict = "anomalous" if score > threshold else "normal"
        values = map(float, (r, alignment, score, p_value))
        lines.append(
            table_row([name, int(label), kind, *values, verdict, evaluation.detector.calibration_label.id])
        )
    return "".join(lines)


def _select_extremes(labels: np.ndarray, scores: np.ndarray, count: int = 3) -> np.ndarray:
    """Returns the indices of the `count` lowest and highest scores of each label, normal images first."""
    extremes = []
    for label in (0, 1):
        order = np.flatnonzero(labels == label)
        order = order[np.argsort(scores[order])]
        extremes.append(np.unique(np.concatenate([order[:count], order[-count:]])))
    return np.concatenate(extremes)
