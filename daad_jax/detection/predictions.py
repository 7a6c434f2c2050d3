"""Scores any number of unlabelled images: files, folders and patterns."""

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from daad_jax.buckets import open_place
from daad_jax.data.account import format_table
from daad_jax.detection.detector import Detector
from daad_jax.detection.prediction_results import Results
from daad_jax.detection.score_table import REMEDY
from daad_jax.detection.scored_images import score_images
from daad_jax.detection.sources import Account
from daad_jax.files import new_folder
from daad_jax.terminal import format_rate, say
from daad_jax.uploads import Mirror

PROGRESS_INTERVAL_S = 5.0


def predict(detector: Detector, sources: Sequence[str], out: Path, overlays: str) -> None:
    """Scores all images of `sources`; writes `scores.csv`, `scores.jsonl`, `data.json` and `overlays/`.

    The lines of `scores.jsonl` appear batch by batch; `scores.csv` appears at the end. An unreadable image
    has a line with its error, and does not stop the others. `data.json` has a record of every file in
    `sources`, also of files that are no images. Images in `out` are not scored.

    Args:
        detector: its `threshold` decides.
        sources: files, folders (with all their sub-folders) and patterns.
        out: a new or empty folder. In a bucket, its files are updated twice a minute.
        overlays: which images get a picture with their heat map: "anomalous", "all" or "none".

    Raises:
        UserError: there is no image, no image can be read, or `out` cannot be used.
    """
    with Mirror(out) as mirror:
        account = Account(sources, leave_out=out)
        say(*format_table(account.rows).splitlines())
        start = time.perf_counter()
        with Results(detector, account, mirror) as results, Progress(account.count) as progress:
            for batch in score_images(detector, enumerate(account.find()), mirror.local, overlays):
                results.add(batch)
                progress.add(len(batch))
            results.require_any()
        results.summarise(time.perf_counter() - start)


def output_folder(workdir: Path, chosen: str | Path | None) -> Path:
    """Returns the chosen folder for predictions, or the first free of `predictions`, `predictions-2`, ...

    Raises:
        UserError: the chosen folder is not empty or cannot be written.
    """
    return new_folder(open_place(chosen) if chosen else None, workdir / "predictions", REMEDY)


class Progress:
    """Shows the progress of scoring: a bar on a terminal, elsewhere a line every few seconds."""

    def __init__(self, total: int, is_shown: bool = True) -> None:
        self._total, self._done, self._start = total, 0, time.perf_counter()
        self._due = self._start + (PROGRESS_INTERVAL_S if is_shown else math.inf)
        has_bar = is_shown and sys.stderr.isatty()
        self._bar = tqdm(total=total, unit="image", disable=not has_bar, dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def add(self, count: int) -> None:
        """Notes that `count` more images are done."""
        self._done += count
        self._bar.update(count)
        now = time.perf_counter()
        if self._bar.disable and now >= self._due:
            self._due = now + PROGRESS_INTERVAL_S
            pace = self._done / (now - self._start)
            left = tqdm.format_interval((self._total - self._done) / pace)
            say(f"{self._done}/{self._total} images  {format_rate(pace)} images/s  {left} left")

    def __exit__(self, *_: object) -> None:
        self._bar.close()
