"""Compares exported files in other libraries with `Detector`: scores, verdicts and speed.

    daad-jax export --workdir RUN
    python -m benchmarks deployments --workdir RUN --images FOLDER --web node_modules/onnxruntime-web/dist

Each installed library runs in its own process; `--python` names interpreters with other versions of JAX. The
libraries and `Detector` take turns, so that their times can be compared. `python -m benchmarks untrained`
makes runs for images of other sizes. Large images take minutes a turn: give fewer --rounds or --counts.
"""

import functools
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.deployed_in_browser import browsing
from benchmarks.deployed_model import time_calls
from benchmarks.run_options import find_images, make_parser, store
from daad_jax.detection.detector import Detector

SCRIPT = Path(__file__).with_name("deployed_model.py")
LIBRARIES = {  # by name: the package that it needs, and the file that it reads
    "stablehlo": ("jax", "model.stablehlo"),
    "onnxruntime": ("onnxruntime", "model.onnx"),
    "openvino": ("openvino", "model.onnx"),
    "openvino-f32": ("openvino", "model.onnx"),
}
MAX_IMAGES = 200  # that are compared
COUNTS = (1, 16, 64)  # images of a timed call
Record = dict[str, Any]


class Library(Protocol):
    """Something that runs an exported file. `version` names it."""

    version: str

    def time(self, count: int) -> float:
        """The mean milliseconds of a call with `count` images. Raises RuntimeError if the library fails."""

    def scores(self) -> dict[str, list[float]]:
        """`score`, `p_value` and `anomalous` of all images."""


class Child:
    """A library in its own process, see deployed_model.py."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.version = str(self._answer())

    def time(self, count: int) -> float:
        return float(self._ask(str(count)))

    def scores(self) -> dict[str, list[float]]:
        return self._ask("scores")  # type: ignore[no-any-return]

    def _ask(self, line: str) -> Any:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return json.loads(line)
        raise RuntimeError(f"{SCRIPT.name} ended; its message stands above")


@contextmanager
def running(python: str, library: str, model: Path, images: Path) -> Iterator[Child]:
    """Starts a library in the interpreter `python`."""
    command = [python, str(SCRIPT), library, str(model), str(images)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Child(process)
        finally:
            process.terminate()


def compare(library: Library, detector: Detector, images: np.ndarray) -> Record:
    """How far a library is from the detector, over images `[N, H, W, C]`.

    Returns:
        `version`; `difference`, the largest relative difference of a score; `verdicts`, how many changed; and
        `p_values`, the largest difference of a p-value.
    """
    parts = list(detector.score_prepared(images))
    expected = {
        "score": np.concatenate([part.scores for part in parts]),
        "p_value": np.concatenate([part.p_values for part in parts]),
        "anomalous": np.concatenate([part.anomalous for part in parts]),
    }
    found = {name: np.array(values) for name, values in library.scores().items()}
    return {
        "version": library.version,
        "images": len(images),
        "difference": float(np.max(np.abs(found["score"] / expected["score"] - 1))),
        "verdicts": int(np.sum(found["anomalous"].astype(bool) != expected["anomalous"])),
        "p_values": float(np.max(np.abs(found["p_value"] - expected["p_value"]))),
    }


def race(
    libraries: dict[str, Library], detectors: dict[int, Detector], images: np.ndarray, rounds: int
) -> dict[str, Record]:
    """Lets every library and the detector take turns.

    Args:
        libraries: the libraries, by name.
        detectors: the detectors, by the number of images of a call, which is also their batch size.
        images: `[N, H, W, C]`.
        rounds: the number of turns.

    Returns:
        For each library, three numbers by the number of images: `ms`, the median milliseconds of a call;
        `detector_ms`, the median milliseconds of the detector's call in the same turns; and `ratio`, the
        median of library / detector. Above 1, the detector is faster. A library that fails, perhaps for want
        of memory, has no numbers for this number of images and for all further ones.
    """
    result: dict[str, Record] = {name: {"ms": {}, "detector_ms": {}, "ratio": {}} for name in libraries}
    alive = dict(libraries)
    for count, detector in detectors.items():
        pairs: dict[str, list[tuple[float, float]]] = {}
        for number in range(rounds + 1):  # the first round compiles, and is dropped
            for name, library in list(alive.items()):
                try:
                    theirs = library.time(count)
                except RuntimeError as error:
                    print(f"{name}: fails at {count} image(s): {error}", flush=True)
                    del alive[name]
                    pairs.pop(name, None)
                    continue
                ours = time_calls(functools.partial(_score, detector, images[:count]))
                if number:
                    pairs.setdefault(name, []).append((theirs, ours))
        for name, times in pairs.items():
            theirs_ms, ours_ms = zip(*times)
            result[name]["ms"][str(count)] = statistics.median(theirs_ms)
            result[name]["detector_ms"][str(count)] = statistics.median(ours_ms)
            result[name]["ratio"][str(count)] = statistics.median(a / b for a, b in times)
            print(f"{count} image(s), {name}: {result[name]['ms'][str(count)]:.1f} ms", flush=True)
    return result


def _score(detector: Detector, images: np.ndarray) -> None:
    list(detector.score_prepared(images))


def measure(
    workdir: Path,
    folder: Path,
    images: np.ndarray,
    rounds: int,
    counts: Sequence[int] = COUNTS,
    pythons: Sequence[str] = (),
    web: Path | None = None,
    chromium: str = "chromium",
) -> dict[str, Record]:
    """Compares and times all libraries that are there. A library that fails has a row with `error`.

    Args:
        workdir: the folder of the run.
        folder: the folder of the exported files.
        images: prepared, `[N, H, W, C]`.
        rounds: turns; 0: compares only.
        counts: how many images a timed call has, in ascending order.
        pythons: interpreters with other versions of JAX.
        web: the folder `dist` of onnxruntime-web; None: no browser.
        chromium: the browser.
    """
    detectors = {count: Detector.load(workdir, count) for count in counts}
    rows: dict[str, Record] = {}
    libraries: dict[str, Library] = {}
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        np.save(place / "images.npy", images)
        (place / "web").mkdir()
        chosen = [(sys.executable, name) for name, (package, _) in LIBRARIES.items() if find_spec(package)]
        for python, name in [*chosen, *((python, "stablehlo") for python in pythons)]:
            model, key = (
                folder / LIBRARIES[name][1],
                name if python == sys.executable else f"{name}, {python}",
            )
            try:
                child = stack.enter_context(running(python, name, model, place / "images.npy"))
                rows[key] = compare(child, detectors[counts[-1]], images)
            except RuntimeError as error:
                rows[key] = {"error": str(error)}
                continue
            libraries[key] = child
        if web is not None:
            opened = browsing(web, folder / "model.onnx", images, place / "web", chromium)
            browser = stack.enter_context(opened)
            try:
                rows["web"] = compare(browser, detectors[counts[-1]], images)
                libraries["web"] = browser
            except RuntimeError as error:
                rows["web"] = {"error": str(error)}
        for key, row in rows.items():
            print(f"{key}: {row}", flush=True)
        for key, times in race(libraries, detectors, images, rounds).items() if rounds else ():
            rows[key] |= times
    return rows


def main(arguments: list[str]) -> None:
    parser = make_parser("deployments", __doc__, rounds=9)
    parser.add_argument("--export", type=Path, help="the exported files; default: WORKDIR/export")
    parser.add_argument("--python", nargs="+", default=[], help="interpreters with other versions of JAX")
    parser.add_argument("--web", type=Path, help="the folder dist of the npm package onnxruntime-web")
    parser.add_argument(
        "--counts", type=int, nargs="+", default=COUNTS, help="images of a timed call; default: %(default)s"
    )
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="default: %(default)s")
    given = parser.parse_args(arguments)
    detector = Detector.load(given.workdir, 1)
    found, counts = find_images(given.images), sorted(set(given.counts))
    if len(found) < counts[-1] or counts[0] < 1:
        parser.error(f"--counts: must be from 1 to {len(found)}, the number of images in {given.images}")
    paths = random.Random(0).sample(found, min(len(found), MAX_IMAGES))
    images = np.stack([detector.prepare(path) for path in paths])
    folder = given.export or given.workdir / "export"
    rows = measure(
        given.workdir, folder, images, given.rounds, counts, given.python, given.web, given.chromium
    )
    for row in rows.values():
        print(describe(row))
    if given.docs:
        # Without the interpreters' places on this machine.
        size = list(images.shape[1:3])
        store(given.docs, "deployments", given.workdir, list(rows.values()), size=size, steady=True)


def describe(row: Record) -> str:
    """One line about a library."""
    if "error" in row:
        return row["error"]
    text = f"{row['version']}: {row['difference']:.1e}, {row['verdicts']} of {row['images']} verdicts changed"
    for count, ratio in row.get("ratio", {}).items():
        text += f"; {count} image(s) {row['ms'][count]:.1f} ms, Detector {row['detector_ms'][count]:.1f} ms"
        text += f" ({ratio:.2f})"
    return text
