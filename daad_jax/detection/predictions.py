"""Scores any number of unlabelled images: files, folders and patterns."""

import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from daad_jax.buckets import open_place
from daad_jax.data.account import format_table
from daad_jax.data.image_files import ImageFile
from daad_jax.data.images import resize, show_pixels, shrink_to_fit, undo_fit
from daad_jax.data.pixel_range import clipping_note
from daad_jax.detection.decoding_ahead import Entry
from daad_jax.detection.detections import Detections
from daad_jax.detection.detector import Detector
from daad_jax.detection.drift_watch import DriftWatch
from daad_jax.detection.overlay import draw_overlay
from daad_jax.detection.sources import Account, describe_left_out
from daad_jax.errors import UserError
from daad_jax.escaping import for_file_name, table_row
from daad_jax.files import explain_write_errors, new_folder, replacing
from daad_jax.terminal import say, warn
from daad_jax.uploads import Mirror

COLUMNS = ("name", "score", "p_value", "R", "L", "verdict", "calibration", "overlay", "error")
REMEDY = "give another --out"
MAX_OVERLAY_SIDE = 1024  # pixels of the longer side
MAX_OVERLAY_NAME = 200  # bytes; a file's name has at most 255, also the temporary one
PROGRESS_INTERVAL_S = 5.0
MAX_PRINTED_IMAGES = 20  # up to so many images, each gets a line on the terminal
Row = dict[str, Any]  # the results of one image, by column
Drawing = tuple[Row, Future[None]]  # a row, and its overlay in the making


def predict(detector: Detector, sources: Sequence[str], out: Path, overlays: str) -> None:
    """Scores all images of `sources`; writes `scores.csv`, `scores.jsonl`, `data.json` and `overlays/`.

    The lines of `scores.jsonl` appear batch by batch; `scores.csv` appears at the end. An image that cannot
    be read is counted and has a line with its error, and the other images go on. `data.json` has a record
    of every file that was given, also of those that are no images. Images in `out` are not scored.

    Args:
        detector: its `threshold` decides.
        sources: files, folders (with all their sub-folders) and patterns.
        out: a folder that does not exist yet, or is empty. In a bucket, its files are brought up to date
            twice a minute.
        overlays: which images get a picture with their heat map: "anomalous", "all" or "none".

    Raises:
        UserError: there is no image, no image can be read, or `out` cannot be used.
    """
    with Mirror(out) as mirror:
        _predict(detector, sources, mirror, overlays)


def _predict(detector: Detector, sources: Sequence[str], mirror: Mirror, overlays: str) -> None:
    """`predict`, which writes into the local folder of `mirror`."""
    out = mirror.folder
    account = Account(sources, mirror.local, leave_out=out)
    count = account.count
    say(*format_table(account.rows).splitlines())
    start, report_progress = time.perf_counter(), _Progress(count)
    tally, clipped = {"anomalous": 0, "normal": 0, "unreadable": 0}, list[str]()
    watch = DriftWatch(detector.calibration, detector.config.data)
    with ExitStack() as stack:
        with explain_write_errors(out, REMEDY):
            table = stack.enter_context(_Table(mirror.local, overlays != "none"))
            stack.enter_context(account)
        bar = stack.enter_context(
            tqdm(total=count, unit="image", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        )
        draw = _Overlays(
            detector, mirror.local, overlays, stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
        )
        for entries, detections in detector.stream(account.find()):
            # The rows of the batch, and their overlays.
            rows = _make_rows(entries, detections)
            drawings = draw.start(entries, rows, detections, first_number=sum(tally.values()))
            for row in rows:
                tally[row["verdict"]] += 1
            if detections is not None:
                scored = [entry.file.name for entry in entries if not entry.error]
                clipped += [name for name, is_clipped in zip(scored, detections.clipped) if is_clipped]
                watch.add(scored, detections.scores)
            with explain_write_errors(out, REMEDY):
                _finish(drawings)
                for row, entry in zip(rows, entries):
                    table.write(row)
                    account.write(entry.file, str(entry.error or ""), entry.sha256)
                mirror.sync_if_due()
            # What the user sees.
            for row in rows if count <= MAX_PRINTED_IMAGES else []:
                say(_sentence(row))
            bar.update(len(entries))
            if bar.disable:
                report_progress(sum(tally.values()))
        if not tally["anomalous"] + tally["normal"]:
            raise UserError(f"none of the {count} image(s) could be read; see the warnings above")
    _summarise(tally, detector, out, time.perf_counter() - start)
    if drift := watch.describe():
        say(drift)
    if clipped:
        say(clipping_note(len(clipped), clipped[0], detector.config.data))
    if account.left_out:
        say(describe_left_out(account.left_out))


def output_folder(workdir: Path, chosen: str | Path | None) -> Path:
    """The folder for predictions: the chosen one, or the first free of `predictions`, `predictions-2`, ...

    Raises:
        UserError: the chosen folder is not empty or cannot be written.
    """
    return new_folder(open_place(chosen) if chosen else None, workdir / "predictions", REMEDY)


class _Table:
    """The two files of rows. Rows are written as they come; `scores.csv` gets its name at the end."""

    def __init__(self, out: Path, with_overlays: bool) -> None:
        self._out = out
        self._partial = out / ".scores.csv.partial"
        (out / "overlays" if with_overlays else out).mkdir(parents=True, exist_ok=True)
        # "x": another command may have been given the same folder at the same time.
        self._jsonl = (out / "scores.jsonl").open("x", encoding="utf-8", buffering=1)
        self._file = self._partial.open("w", encoding="utf-8", newline="")
        self._file.write(table_row(COLUMNS))

    def __enter__(self) -> "_Table":
        return self

    def write(self, row: Row) -> None:
        self._jsonl.write(json.dumps(row) + "\n")
        self._file.write(table_row(row.get(column, "") for column in COLUMNS))

    def __exit__(self, kind: Any, *_: Any) -> None:
        with explain_write_errors(self._out, REMEDY):
            self._jsonl.close()
            self._file.close()
            if kind is None:
                os.replace(self._partial, self._out / "scores.csv")
            else:
                self._partial.unlink(missing_ok=True)


def _make_rows(entries: Sequence[Entry], detections: Detections | None) -> list[Row]:
    """A row for each image of a batch; unreadable ones have a row with their error, and a warning."""
    rows: list[Row] = []
    index = 0
    for file, error, _ in entries:
        if error or not detections:
            rows.append({"name": file.name, "verdict": "unreadable", "error": str(error)})
            warn(str(error))
            continue
        rows.append(
            {
                "name": file.name,
                "score": float(detections.scores[index]),
                "p_value": float(detections.p_values[index]),
                "R": float(detections.reconstruction[index]),
                "L": float(detections.alignment[index]),
                "verdict": "anomalous" if detections.anomalous[index] else "normal",
                "calibration": detections.calibration,
            }
        )
        index += 1
    return rows


def _sentence(row: Row) -> str:
    if "score" not in row:
        return f"{row['verdict']:10} {'':8} {row['name']}"
    return f"{row['verdict']:10} {row['score']:8.3f} {row['name']}"


class _Overlays:
    """Draws the overlays of a batch in threads."""

    def __init__(self, detector: Detector, out: Path, which: str, pool: ThreadPoolExecutor) -> None:
        self._detector, self._out, self._which, self._pool = detector, out, which, pool

    def start(
        self, entries: list[Entry], rows: list[Row], detections: Detections | None, first_number: int
    ) -> list[Drawing]:
        """Starts on the overlays that were asked for, and notes their names in the rows.

        Args:
            entries: the images of a batch.
            rows: of the images.
            detections: of its readable images.
            first_number: the number of the first row among all rows; it begins the overlay's name.
        """
        drawings: list[Drawing] = []
        index = 0
        for number, (entry, row) in enumerate(zip(entries, rows), first_number):
            if "score" not in row or not detections:
                continue
            if self._which == "all" or (self._which == "anomalous" and row["verdict"] == "anomalous"):
                stem = for_file_name(entry.file.path.stem[:80], MAX_OVERLAY_NAME)
                row["overlay"] = f"overlays/{number:07d}-{stem}.png"
                file, heat = self._out / row["overlay"], detections.heat[index]
                drawings.append((row, self._pool.submit(_draw, entry.file, heat, self._detector, file)))
            index += 1
        return drawings


def _draw(image: ImageFile, heat: np.ndarray, detector: Detector, file: Path) -> None:
    """Writes the image with its heat map, at the image's own size or at most MAX_OVERLAY_SIDE."""
    data = detector.config.data
    pixels = show_pixels(image.load(data.max_pixels)[0], data)
    height, width = pixels.shape[:2]
    # Shrink first: an overlay takes eighty bytes a pixel.
    size = shrink_to_fit(height, width, MAX_OVERLAY_SIDE, MAX_OVERLAY_SIDE)
    shown_heat = undo_fit(heat, height, width, data.fit, size)
    picture = Image.fromarray(draw_overlay(resize(pixels, *size), shown_heat))
    with replacing(file) as temporary:
        picture.save(temporary, format="png")


def _finish(drawings: list[Drawing]) -> None:
    """Waits for the overlays. An image that was removed after scoring keeps its row, without an overlay."""
    for row, drawing in drawings:
        try:
            drawing.result()
        except UserError as error:
            del row["overlay"]
            warn(f"no overlay: {error}")


class _Progress:
    """Prints the progress every few seconds, for output that is no terminal and cannot show a bar."""

    def __init__(self, total: int) -> None:
        self._total, self._start = total, time.perf_counter()
        self._due = self._start + PROGRESS_INTERVAL_S

    def __call__(self, done: int) -> None:
        now = time.perf_counter()
        if now >= self._due:
            self._due = now + PROGRESS_INTERVAL_S
            pace = done / (now - self._start)
            left = tqdm.format_interval((self._total - done) / pace)
            say(f"{done}/{self._total} images  {pace:.0f} images/s  {left} left")


def _summarise(tally: dict[str, int], detector: Detector, out: Path, seconds: float) -> None:
    scored = tally["anomalous"] + tally["normal"]
    say(
        f"{scored} image(s) scored ({scored / seconds:.0f} images/s): {tally['anomalous']} anomalous (score "
        f"above the threshold {detector.threshold:.4f}), {tally['normal']} normal"
    )
    say(f"scores and p-values are of calibration {detector.calibration_label.describe()}")
    if tally["unreadable"]:
        say(f"{tally['unreadable']} image(s) could not be read; scores.csv has their errors")
    say(f"wrote {out / 'scores.csv'}, scores.jsonl, data.json, overlays/")
