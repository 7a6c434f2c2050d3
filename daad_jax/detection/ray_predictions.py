"""Scores files on a Ray cluster.

Ray hands out the work, repeats lost work, and writes Parquet files. Use this for many machines that come and
go; `shared_predictions` needs all machines from the start. Ray is in the extra `ray`.
"""

import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from daad_jax import buckets
from daad_jax.buckets import open_place
from daad_jax.data.account import format_table
from daad_jax.data.image_files import ImageFile
from daad_jax.detection.predictions import output_folder
from daad_jax.detection.score_table import REMEDY
from daad_jax.detection.sources import Account, describe_left_out, find, list_images
from daad_jax.errors import UserError
from daad_jax.files import explain_write_errors
from daad_jax.terminal import format_rate, say

NUMBERS = ("score", "p_value", "R", "L")
TEXTS = ("name", "verdict", "calibration", "error", "sha256")


@dataclass(frozen=True)
class Workers:
    """The workers of the cluster, processes that score.

    Attributes:
        address: the address of the cluster; "auto" finds the cluster of this machine, "" starts a new one.
        count: the number of workers.
        cpus: the number of processors of each worker.
        accelerators: the name and number of the accelerators of each worker: {"TPU": 4}, {"GPU": 1}.
    """

    address: str
    count: int
    cpus: float
    accelerators: dict[str, float]


def predict_on_ray(
    workdir: Path,
    sources: Sequence[str],
    chosen: Path | None,
    workers: Workers,
    threshold: float | None = None,
    batch_size: int = 64,
) -> None:
    """Scores all images of `sources`, and writes Parquet files with a row for each image.

    The columns are `number`, `name`, `score`, `p_value`, `R`, `L`, `verdict`, `calibration`, `error` and
    `sha256`. `number` counts the images in the order of `sources`; the rows have no fixed order. A worker
    gets whole batches. If every image can be read, a `Detector` with the same batch size on one device gives
    equal scores, to the last bit.

    Args:
        workdir: the folder of the run. All machines must have the run, the images and the results under the
            same paths.
        sources: files, folders (with all their sub-folders) and patterns.
        chosen: the folder for the results, new or empty; None: a new one below `workdir`.
        workers: the processes that score.
        threshold: an image with a higher score is anomalous; None: the threshold of the run.
        batch_size: how many images a device scores at once.

    Raises:
        UserError: there is no image, Ray is not installed, or the cluster or the folder cannot be used.
    """
    ray = _import_ray()
    from pyarrow import dataset

    # Find the images, and make the folder of the results.
    next(find(sources))  # first of all, so that no folder is made if an image is missing
    workdir, out = _absolute(workdir), _absolute(output_folder(workdir, chosen))
    account = Account(sources, leave_out=out)
    say(*format_table(account.rows).splitlines())
    blocks = list(_make_blocks(list_images(sources, out), batch_size))
    # Score the images on the cluster.
    start = time.perf_counter()
    try:
        ray.init(workers.address or None, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--address={workers.address}: this Ray cluster cannot be reached ({str(error)[:200]}); start it "
            "with `ray start --head`, or leave the option out to score on this machine"
        ) from error
    ray.data.DataContext.get_current().enable_progress_bars = sys.stderr.isatty()
    needs: dict[str, Any] = {"num_cpus": workers.cpus}
    others = dict(workers.accelerators)
    if gpus := others.pop("GPU", 0):
        needs["num_gpus"] = gpus
    if others:
        needs["resources"] = others
    scored = ray.data.from_items(blocks, override_num_blocks=min(len(blocks), 8 * workers.count)).map_batches(
        _Worker,
        fn_constructor_args=(str(workdir), threshold, batch_size),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers.count),
        **needs,
    )
    try:
        with explain_write_errors(out, REMEDY):
            scored.write_parquet(str(out), filesystem=_file_system_of(out))
    except ray.exceptions.RayError as error:
        cause = str(getattr(error, "cause", error)).strip().splitlines()
        raise UserError(f"a worker stopped: {cause[-1] if cause else type(error).__name__}") from error
    finally:
        ray.shutdown()
    # Count the verdicts in the files.
    seconds = time.perf_counter() - start
    files = dataset.dataset(str(out).removeprefix("gs://"), filesystem=_file_system_of(out), format="parquet")
    tally = dict.fromkeys(("anomalous", "normal", "unreadable"), 0)
    for batch in files.to_batches(columns=["verdict"]):
        for verdict in batch.column("verdict").to_pylist():
            tally[verdict] += 1
    count = tally["anomalous"] + tally["normal"]
    if sum(tally.values()) != account.count:
        raise UserError(f"{out}: has {sum(tally.values())} rows of {account.count} images; score them again")
    say(
        f"{count} image(s) scored ({format_rate(count / seconds)} images/s): {tally['anomalous']} anomalous, "
        f"{tally['normal']} normal, {tally['unreadable']} could not be read",
        f"wrote Parquet files into {out}",
    )
    if account.left_out:
        say(describe_left_out(account.left_out))


def _import_ray() -> Any:
    """Imports Ray without its usage statistics and its log lines.

    Raises:
        UserError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("Ray is not installed; run: pip install 'daad_jax[ray]'") from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # this logger ignores the level of "ray"
    return ray


def _make_blocks(images: Iterable[ImageFile], size: int) -> Iterator[dict[str, Any]]:
    """Yields blocks of images, as rows of a table that Ray hands out to workers."""
    first, files = 0, iter(images)
    while block := list(itertools.islice(files, size)):
        yield {
            "first": first,
            "files": json.dumps([[str(_absolute(image.path)), image.page, image.pages] for image in block]),
        }
        first += len(block)


def _absolute(path: Path) -> Path:
    """Returns the path in a form that is right for every process."""
    return path if buckets.is_in_bucket(path) else path.absolute()


def _file_system_of(out: Path) -> Any:
    """Returns the file system of the results, for Arrow; None stands for this machine's file system."""
    return buckets.file_system() if buckets.is_in_bucket(out) else None


class _Worker:
    """Loads the model once, and scores blocks of images."""

    def __init__(self, workdir: str, threshold: float | None, batch_size: int) -> None:
        from daad_jax.detection.detector import Detector

        self._detector = Detector.load(workdir, batch_size)
        if threshold is not None:
            self._detector.threshold = threshold

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the rows of a block, as columns."""
        from daad_jax.detection.scored_images import score_images

        (first,), (files,) = block["first"].tolist(), block["files"].tolist()
        images = [ImageFile(open_place(path), page, pages) for path, page, pages in json.loads(files)]
        numbered = enumerate(images, first)
        found = list(itertools.chain(*score_images(self._detector, numbered, Path(), "none")))
        rows = [each.row | {"sha256": each.sha256} for each in found]
        columns = {"number": np.array([each.number for each in found])}
        columns |= {name: np.array([row.get(name, np.nan) for row in rows], float) for name in NUMBERS}
        return columns | {name: np.array([row.get(name, "") for row in rows], object) for name in TEXTS}
