"""Writes the results of a prediction: a row for each image, a record of each file, and the sums."""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from daad_jax.data.pixel_range import clipping_note
from daad_jax.detection.detector import Detector
from daad_jax.detection.drift_watch import DriftWatch
from daad_jax.detection.score_table import REMEDY, Row, ScoreTable
from daad_jax.detection.scored_images import ScoredImage
from daad_jax.detection.sources import Account, describe_left_out
from daad_jax.errors import UserError
from daad_jax.files import explain_write_errors
from daad_jax.terminal import format_rate, say
from daad_jax.uploads import Mirror

MAX_PRINTED_IMAGES = 20  # up to this many images, each image gets a line on the terminal


class Results:
    """Writes the results of all images. They must come in the order in which the account finds the images.

    Args:
        detector: scored the images.
        account: counts the files, and writes their records.
        mirror: the folder to write into.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, detector: Detector, account: Account, mirror: Mirror) -> None:
        self._detector, self._account, self._mirror = detector, account, mirror
        self._tally = {"anomalous": 0, "normal": 0, "unreadable": 0}
        self._clipped: list[str] = []
        self._has_overlays = False
        self._watch = DriftWatch(detector.calibration, detector.config.data)
        self._stack = ExitStack()

    def __enter__(self) -> "Results":
        with explain_write_errors(self._mirror.folder, REMEDY), ExitStack() as stack:
            self._table = stack.enter_context(ScoreTable(self._mirror.local))
            stack.enter_context(self._account.recording(self._mirror.local))
            self._stack = stack.pop_all()
        return self

    def add(self, images: Iterable[ScoredImage]) -> None:
        """Writes the next images. Raises UserError if the folder cannot be written."""
        scored = []
        with explain_write_errors(self._mirror.folder, REMEDY):
            for image in images:
                self._tally[image.row["verdict"]] += 1
                self._clipped += [image.image.name] if image.is_clipped else []
                self._has_overlays |= "overlay" in image.row
                if "score" in image.row:
                    scored.append(image)
                self._table.write(image.row)
                self._account.write(image.image, image.row.get("error", ""), image.sha256)
                if self._account.count <= MAX_PRINTED_IMAGES:
                    say(_sentence(image.row))
            self._mirror.sync_if_due()
        self._watch.add([image.image.name for image in scored], [image.row["score"] for image in scored])

    def require_any(self) -> None:
        """Raises UserError if none of the images could be read."""
        if not self._tally["anomalous"] + self._tally["normal"]:
            raise UserError(
                f"none of the {self._account.count} image(s) could be read; see the warnings above"
            )

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def summarise(self, seconds: float) -> None:
        """Prints the sums. `seconds` is how long the scoring took."""
        tally, out = self._tally, self._mirror.folder
        scored = tally["anomalous"] + tally["normal"]
        say(
            f"{scored} image(s) scored ({format_rate(scored / seconds)} images/s): "
            f"{tally['anomalous']} anomalous (score above the threshold {self._detector.threshold:.4f}), "
            f"{tally['normal']} normal"
        )
        say(f"scores and p-values are of calibration {self._detector.calibration_label.describe()}")
        if tally["unreadable"]:
            say(f"{tally['unreadable']} image(s) could not be read; scores.csv has their errors")
        say(f"wrote {out / 'scores.csv'}, scores.jsonl, data.json{', overlays/' * self._has_overlays}")
        if drift := self._watch.describe():
            say(drift)
        if self._clipped:
            say(clipping_note(len(self._clipped), self._clipped[0], self._detector.config.data))
        if self._account.left_out:
            say(describe_left_out(self._account.left_out))


def _sentence(row: Row) -> str:
    if "score" not in row:
        return f"{row['verdict']:10} {'':8} {row['name']}"
    return f"{row['verdict']:10} {row['score']:8.3f} {row['name']}"
