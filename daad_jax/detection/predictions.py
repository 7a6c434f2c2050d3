"""Scores unlabelled images with a checkpoint: files, folders, patterns, any number of them."""

import csv
import glob
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from daad_jax.data.folder_source import find_images
from daad_jax.data.images import decode, resize, shrink_to_fit, undo_fit
from daad_jax.detection.detector import Detections, Detector
from daad_jax.detection.overlay import overlay
from daad_jax.errors import UserError
from daad_jax.files import explain_write_errors, first_free, replacing

OVERLAYS = ("anomalous", "all", "none")
COLUMNS = ("name", "score", "p_value", "R", "L", "verdict", "overlay", "error")
ANOTHER = "give another --out"
LARGEST_OVERLAY = 1024  # pixels of the longer side
EVERY = 5.0  # seconds
Drawing = tuple[dict[str, Any], Future[None]]  # an image's line, and its overlay in the making
NAMED = 20  # so few images get a line each on the terminal


def predict(detector: Detector, sources: Sequence[str], out: Path, overlays: str) -> None:
    """Scores all images of `sources`; writes `scores.csv`, `scores.jsonl` and `overlays/` into `out`.

    Lines of `scores.jsonl` appear batch by batch, `scores.csv` once all are known. An image that cannot
    be read has a line with its error, is counted, and the rest go on. What lies in `out` is not scored.

    Args:
        detector: its `threshold` decides.
        sources: files, folders (searched whole) and patterns.
        out: a folder that does not exist yet, or is empty.
        overlays: of which images a picture with the heat map is written: see OVERLAYS.

    Raises:
        UserError: nothing to score, nothing that could be read, or `out` cannot be used.
    """
    count = sum(1 for _ in find(sources, out))
    start, say = time.perf_counter(), _Progress(count)
    with ExitStack() as stack:
        with explain_write_errors(out, ANOTHER):
            write = stack.enter_context(_Table(out, overlays != "none"))
        bar = stack.enter_context(
            tqdm(total=count, unit="image", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        )
        pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
        tally = {"anomalous": 0, "normal": 0, "unreadable": 0}
        for entries, found in detector.stream(find(sources, out)):
            rows, lines = iter(range(len(found) if found else 0)), []
            drawings: list[Drawing] = []
            for path, error in entries:
                if error or not found:
                    line = {"name": str(path), "verdict": "unreadable", "error": str(error)}
                    tqdm.write(f"warning: {error}", file=sys.stderr)
                else:
                    i = next(rows)
                    line = _line(path, found, i)
                    if overlays == "all" or (overlays == "anomalous" and found.anomalous[i]):
                        line["overlay"] = f"overlays/{sum(tally.values()):07d}-{path.stem[:80]}.png"
                        file = out / line["overlay"]
                        drawings.append((line, pool.submit(_draw, path, found.heat[i], detector, file)))
                tally[line["verdict"]] += 1
                lines.append(line)
            with explain_write_errors(out, ANOTHER):
                _finish(drawings)
                for line in lines:
                    write(line)
            for line in lines if count <= NAMED else []:
                tqdm.write(_sentence(line), file=sys.stdout)
            bar.update(len(entries))
            if bar.disable:
                say(sum(tally.values()))
        if not tally["anomalous"] + tally["normal"]:
            raise UserError(f"none of the {count} image(s) could be read; see the warnings above")
    _summarise(tally, detector, out, time.perf_counter() - start)


def find(sources: Sequence[str], leave_out: Path | None = None) -> Iterator[Path]:
    """The files that `sources` name, in order; of folders and patterns not those below `leave_out`.

    Raises:
        UserError: a source that does not exist or has no images, or a folder that cannot be listed.
    """
    for source in sources:
        path = Path(source)
        if path.is_dir():
            found: Iterator[Path] = find_images(path, leave_out)
        elif path.exists():
            found = iter([path])
        else:
            found = _matching(source, leave_out)
        first = next(found, None)
        if first is None:
            what = "no images in it" if path.is_dir() else "no such file, folder or match"
            raise UserError(f"{source}: {what}")
        yield first
        yield from found


def _matching(pattern: str, leave_out: Path | None) -> Iterator[Path]:
    left = leave_out and leave_out.resolve()
    for match in map(Path, sorted(glob.iglob(pattern, recursive=True))):
        if left and match.resolve().is_relative_to(left):
            continue
        if match.is_dir():
            yield from find_images(match, leave_out)
        else:
            yield match


def output_folder(workdir: Path, chosen: str | None) -> Path:
    """Where predictions go: as chosen, or the first free of `predictions`, `predictions-2`, ...

    Raises:
        UserError: the chosen folder is not empty or cannot be written.
    """
    if chosen:
        out = Path(chosen)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"--out {out}: exists already; give a folder that is new or empty")
    else:
        out = first_free(workdir / "predictions")
    with explain_write_errors(out, ANOTHER):
        out.mkdir(parents=True, exist_ok=bool(chosen))
    return out


class _Table:
    """The two files of lines, written as they come; `scores.csv` gets its name when it is whole."""

    def __init__(self, out: Path, overlays: bool) -> None:
        self._out = out
        self._partial = out / ".scores.csv.partial"
        (out / "overlays" if overlays else out).mkdir(parents=True, exist_ok=True)
        self._lines = (out / "scores.jsonl").open("w", encoding="utf-8", buffering=1)
        self._rows = self._partial.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        self._csv = csv.DictWriter(self._rows, COLUMNS, restval="", lineterminator="\n")
        self._csv.writeheader()

    def __enter__(self) -> "_Table":
        return self

    def __call__(self, line: dict[str, Any]) -> None:
        self._lines.write(json.dumps(line) + "\n")
        self._csv.writerow(line | {k: f"{v:.8g}" for k, v in line.items() if isinstance(v, float)})

    def __exit__(self, kind: Any, *_: Any) -> None:
        with explain_write_errors(self._out, ANOTHER):
            self._lines.close()
            self._rows.close()
            if kind is None:
                os.replace(self._partial, self._out / "scores.csv")
            else:
                self._partial.unlink(missing_ok=True)


def _line(path: Path, found: Detections, i: int) -> dict[str, Any]:
    return {
        "name": str(path),
        "score": float(found.scores[i]),
        "p_value": float(found.p_values[i]),
        "R": float(found.reconstruction[i]),
        "L": float(found.alignment[i]),
        "verdict": "anomalous" if found.anomalous[i] else "normal",
    }


def _sentence(line: dict[str, Any]) -> str:
    if "score" not in line:
        return f"{line['verdict']:10} {'':8} {line['name']}"
    return f"{line['verdict']:10} {line['score']:8.3f} {line['name']}"


def _draw(path: Path, heat: np.ndarray, detector: Detector, file: Path) -> None:
    """The image at its own size (within LARGEST_OVERLAY) with its heat map."""
    data = detector.config.data
    pixels = decode(path, data.channels)
    height, width = pixels.shape[:2]
    # First of all small: laying over takes eighty bytes a pixel.
    size = shrink_to_fit(height, width, LARGEST_OVERLAY, LARGEST_OVERLAY)
    over = undo_fit(heat, height, width, data.fit, size)
    picture = Image.fromarray(overlay(resize(pixels, *size), over))
    with replacing(file) as temporary:
        picture.save(temporary, format="png")


def _finish(drawings: list[Drawing]) -> None:
    """Waits for pictures. An image that has gone since it was scored keeps its line, without one."""
    for line, drawing in drawings:
        try:
            drawing.result()
        except UserError as error:
            del line["overlay"]
            tqdm.write(f"warning: no overlay: {error}", file=sys.stderr)


class _Progress:
    """How far it is where no bar can be drawn: a line every EVERY seconds."""

    def __init__(self, total: int) -> None:
        self._total, self._start = total, time.perf_counter()
        self._due = self._start + EVERY

    def __call__(self, done: int) -> None:
        now = time.perf_counter()
        if now >= self._due:
            self._due = now + EVERY
            pace = done / (now - self._start)
            left = tqdm.format_interval((self._total - done) / pace)
            print(f"{done}/{self._total} images  {pace:.0f} images/s  {left} left", flush=True)


def _summarise(tally: dict[str, int], detector: Detector, out: Path, seconds: float) -> None:
    scored = tally["anomalous"] + tally["normal"]
    print(
        f"{scored} images scored ({scored / seconds:.0f} images/s): {tally['anomalous']} anomalous, "
        f"{tally['normal']} normal, by score > {detector.threshold:.4f}"
    )
    if tally["unreadable"]:
        print(f"{tally['unreadable']} image(s) could not be read; they are in the table with their error")
    print(f"wrote {out / 'scores.csv'}, scores.jsonl, overlays/")
