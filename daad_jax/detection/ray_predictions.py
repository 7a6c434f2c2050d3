"""Scores files on a Ray cluster.

Ray shares the work out, repeats work that was lost, and writes Parquet files. It is for many machines that
have no common start, and that may come and go. Ray is in the extra `ray`.
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
from daad_jax.terminal import say

NUMBERS = ("score", "p_value", "R", "L")
TEXTS = ("name", "verdict", "calibration", "error", "sha256")


@dataclass(frozen=True)
class Workers:
    """The workers of the cluster.

    Attributes:
        address: of the cluster; "auto" finds the one of this machine, "" starts one on this machine.
        count: how many processes score at the same time.
        cpus: how many processors each of them takes.
        accelerators: the name and the number of the accelerators that each takes: {"TPU": 4}, {"GPU": 1}.
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
    """Scores all images of `sources`, and writes Parquet files: a row for each image.

    The columns are `number` (of the image, in the order of `sources`), `name`, `score`, `p_value`, `R`, `L`,
    `verdict`, `calibration`, `error` and `sha256`. The order of the rows is not that of the images. A worker
    gets whole batches, so a score is the same to the last bit as that of a `Detector` with the same batch
    size on one device, if every image can be read.

    Args:
        workdir: of the run. All machines must see it, the images and the results under the same names.
        sources: files, folders (with all their sub-folders) and patterns.
        chosen: the folder for the results, new or empty; None: a new one below `workdir`.
        workers: who scores.
        threshold: an image with a higher score is anomalous; None: the threshold of the run.
        batch_size: how many images a device scores at once.

    Raises:
        UserError: there is no image, Ray is not installed, or the cluster or the folder cannot be used.
    """
    ray = _import_ray()
    from pyarrow import dataset

    next(find(sources))  # names a missing image before the folder of the results is made
    workdir, out = _absolute(workdir), _absolute(output_folder(workdir, chosen))
    account = Account(sources, leave_out=out)
    say(*format_table(account.rows).splitlines())
    blocks = list(_make_blocks(list_images(sources, out), batch_size))
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
        f"{count} image(s) scored ({count / seconds:.0f} images/s): {tally['anomalous']} anomalous, "
        f"{tally['normal']} normal, {tally['unreadable']} could not be read",
        f"wrote Parquet files into {out}",
    )
    if account.left_out:
        say(describe_left_out(account.left_out))


def _import_ray() -> Any:
    """Ray, which tells nobody about its use, and is silent about its work.

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("Ray is not installed; run: pip install 'daad_jax[ray]'") from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it has a level of its own
    return ray


def _make_blocks(images: Iterable[ImageFile], size: int) -> Iterator[dict[str, Any]]:
    """The images in blocks, as rows of a table that Ray shares out."""
    first, files = 0, iter(images)
    while block := list(itertools.islice(files, size)):
        yield {
            "first": first,
            "files": json.dumps([[str(_absolute(image.path)), image.page, image.pages] for image in block]),
        }
        first += len(block)


def _absolute(path: Path) -> Path:
    """The path as another process finds it."""
    return path if buckets.is_in_bucket(path) else path.absolute()


def _file_system_of(out: Path) -> Any:
    """The file system of the results, for Arrow; None for this machine's."""
    return buckets.file_system() if buckets.is_in_bucket(out) else None


class _Worker:
    """Scores blocks of images, with a model that it loads once."""

    def __init__(self, workdir: str, threshold: float | None, batch_size: int) -> None:
        from daad_jax.detection.detector import Detector

        self._detector = Detector.load(workdir, batch_size)
        if threshold is not None:
            self._detector.threshold = threshold

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The rows of the images of a block."""
        from daad_jax.detection.scored_images import score_images

        (first,), (files,) = block["first"].tolist(), block["files"].tolist()
        images = [ImageFile(open_place(path), page, pages) for path, page, pages in json.loads(files)]
        numbered = enumerate(images, first)
        found = list(itertools.chain(*score_images(self._detector, numbered, Path(), "none")))
        rows = [each.row | {"sha256": each.sha256} for each in found]
        columns = {"number": np.array([each.number for each in found])}
        columns |= {name: np.array([row.get(name, np.nan) for row in rows], float) for name in NUMBERS}
        return columns | {name: np.array([row.get(name, "") for row in rows], object) for name in TEXTS}
