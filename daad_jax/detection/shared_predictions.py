"""Scores files in several processes, which share the images. One process would give the same results.

Each process scores its blocks of images on its own devices, and writes the rows into a file, its part. When
all parts are complete, process 0 joins them in the order of the images.
"""

import heapq
import itertools
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import jax

from daad_jax import buckets, files, uploads
from daad_jax.buckets import open_place
from daad_jax.data.account import format_table
from daad_jax.detection.detector import Detector
from daad_jax.detection.prediction_results import Results
from daad_jax.detection.predictions import Progress, output_folder, predict
from daad_jax.detection.score_table import REMEDY
from daad_jax.detection.scored_images import ScoredImage, score_images
from daad_jax.detection.sources import Account, list_images
from daad_jax.errors import UserError
from daad_jax.files import explain_write_errors
from daad_jax.runtime import processes
from daad_jax.terminal import say
from daad_jax.uploads import Mirror

PARTS = "parts"  # the folder of the parts, in the folder of the results; process 0 removes it at the end


def predict_together(
    detector: Detector, sources: Sequence[str], workdir: Path, chosen: Path | None, overlays: str
) -> None:
    """Does the work of `predictions.predict` in all processes of the cluster.

    A block has as many images as a batch of one process. If every image can be read, one process with the
    same number of devices makes the same batches, so its scores are equal to the last bit.

    Args:
        detector: its `threshold` decides. It must be equal in all processes.
        sources: files, folders (with all their sub-folders) and patterns; all processes need the same files.
        workdir: the folder of the run.
        chosen: the folder for the results, new or empty, which all processes share; None: a new one below
            `workdir`.
        overlays: which images get a picture with their heat map: "anomalous", "all" or "none".

    Raises:
        UserError: see `predict`. Or the processes find different images, or do not share the folder.
    """
    if jax.process_count() == 1:
        predict(detector, sources, output_folder(workdir, chosen), overlays)
        return
    # Agree on the folder, the images and the detector.
    share, start = processes.own_share(detector.batch_size), time.perf_counter()
    out = _agree_on_folder(workdir, chosen)
    with processes.errors_end_all():
        account = Account(sources, leave_out=out)
    label = detector.calibration_label
    processes.require_same(
        f"{account.count} images with names of digest {account.digest[:16]}, step {detector.step}, "
        f"calibration {label.id}, threshold {detector.threshold!r}"
    )
    if processes.is_first():
        say(*format_table(account.rows).splitlines())
        say(f"{share.count} processes share the images; this is the progress of process 0")
    # Score the images of this process.
    with processes.errors_end_all(), Mirror(out) as mirror, ExitStack() as stack:
        progress = stack.enter_context(Progress(share.size(account.count), processes.is_first()))
        write = stack.enter_context(_writing_part(mirror.local, share.index))
        for batch in score_images(detector, share.take(list_images(sources, out)), mirror.local, overlays):
            with explain_write_errors(out, REMEDY):
                write(batch)
                mirror.sync_if_due()
            progress.add(len(batch))
    # Join the parts of all processes.
    with processes.errors_end_all():
        if processes.is_first():
            _join_parts(detector, account, out, share.count, start)


def _agree_on_folder(workdir: Path, chosen: Path | None) -> Path:
    """Returns the folder for the results. Process 0 makes it and writes a token; the others read the token.

    Raises:
        UserError: the folder cannot be used, or a process does not see the token.
    """
    folder = token = ""
    with processes.errors_end_all():
        if processes.is_first():
            folder, token = str(output_folder(workdir, chosen)), secrets.token_hex(8)
            with explain_write_errors(Path(folder), REMEDY):
                _make_parts_folder(open_place(folder))
                files.write_text(open_place(folder) / PARTS / "token", token)
    folder, token = processes.from_first(folder), processes.from_first(token)
    out = open_place(folder)
    with processes.errors_end_all():
        try:
            found = buckets.read_bytes(out / PARTS / "token").decode("ascii", "replace")
        except OSError:
            found = ""
        if found != token:
            raise UserError(
                f"{out}: this process does not see what process 0 has written there; give --out a folder "
                "that all processes share, on a network file system or in a bucket"
            )
    return out


def _make_parts_folder(out: Path) -> None:
    if not buckets.is_in_bucket(out):  # a bucket has no folders
        (out / PARTS).mkdir(exist_ok=True)


def _part_file(folder: Path, index: int) -> Path:
    return folder / PARTS / f"{index:05d}.jsonl"


@contextmanager
def _writing_part(folder: Path, index: int) -> Iterator[Callable[[Iterable[ScoredImage]], None]]:
    """Yields a function that writes images into the part of a process."""
    file = _part_file(folder, index)
    file.parent.mkdir(exist_ok=True)
    with file.open("x", encoding="utf-8") as stream:

        def write(images: Iterable[ScoredImage]) -> None:
            for image in images:
                stream.write(json.dumps([image.number, image.row, image.sha256, image.is_clipped]) + "\n")

        yield write


def _join_parts(detector: Detector, account: Account, out: Path, count: int, start: float) -> None:
    """Writes the files of the results from all parts, and removes the parts.

    Raises:
        UserError: images were added or removed meanwhile, none could be read, or the folder cannot be
            written.
    """
    with ExitStack() as stack:
        mirror = stack.enter_context(Mirror(out))
        results = stack.enter_context(Results(detector, account, mirror))
        with explain_write_errors(out, REMEDY):
            local = [stack.enter_context(uploads.local_copy(_part_file(out, i))) for i in range(count)]
            parts = [stack.enter_context(file.open(encoding="utf-8")) for file in local]
        lines = heapq.merge(*(map(json.loads, part) for part in parts), key=lambda line: line[0])
        for image, line in itertools.zip_longest(account.find(), lines):
            if image is None or line is None or line[1]["name"] != image.name:
                raise UserError(
                    "the images have changed since the scoring began, "
                    f"{'an image' if image is None else image.name} among them; score them again"
                )
            number, row, sha256, is_clipped = line
            results.add([ScoredImage(number, image, row, sha256, is_clipped)])
        results.require_any()
    _remove_parts(out)
    results.summarise(time.perf_counter() - start)


def _remove_parts(out: Path) -> None:
    if not buckets.is_in_bucket(out):
        shutil.rmtree(out / PARTS, ignore_errors=True)
        return
    for found in buckets.list_objects(out / PARTS):
        with suppress(OSError), buckets.os_errors(out):
            buckets.blob(out / PARTS / found.name).delete()
