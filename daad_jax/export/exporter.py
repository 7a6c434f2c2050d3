"""Exports a run as files that score images without this package, and checks the files against the run."""

import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from daad_jax.config import MAX_BATCH, Config
from daad_jax.detection.detections import Detections
from daad_jax.detection.detector import Detector
from daad_jax.errors import UserError
from daad_jax.export.formats import Runner, load_onnx, load_stablehlo, to_onnx, to_stablehlo
from daad_jax.export.graph import Size, find_input, model_size
from daad_jax.export.metadata import describe_file, metadata
from daad_jax.files import explain_write_errors, replacing_together, write_checksums
from daad_jax.scoring.scorer import variables_of
from daad_jax.terminal import say, warn
from daad_jax.training import calibrations
from daad_jax.training.calibrations import CalibratedRun

FORMATS = ("stablehlo", "onnx")
ONNX_PACKAGES = ("jax2onnx", "onnx", "onnxruntime")
OLDEST_JAX2ONNX = (0, 17)  # 0.13 cannot read programs of JAX 0.10.2
MAX_PARAMETER_BYTES = 2_000_000_000  # files of both formats hold at most 2 GiB
MAX_DIFFERENCE = 1e-3  # of a file's scores from the detector's: relative, below a score of 1 absolute
TEST_IMAGES, MIN_TEST_IMAGES = 8, 2
MAX_TEST_PIXELS = 2**25  # of all test images together, if these are more than two
ANY = "any"  # the word for a file that takes any number of images


def export(
    workdir: Path,
    formats: Sequence[str] | None,
    size: Size | None = None,
    output: Path | None = None,
    batch_sizes: Sequence[str] = (ANY,),
) -> dict[str, Path]:
    """Writes `model.stablehlo`, `model.onnx`, or both, and `model.json`.

    The files are compared with the run before they appear in the folder. A file for a fixed number of images
    is called `model-16.onnx`. `model.json` describes all files. Beside each model lies a file with the
    checksums of the model and of `model.json`, `model.onnx.sha256`.

    Args:
        workdir: the folder of the run.
        formats: names of `FORMATS`; None: all whose packages are installed.
        size: (height, width) of the images that the file will get; None: the model's size.
        output: the folder to write to; None: `<workdir>/export`.
        batch_sizes: how many images a file takes: a number, or `ANY`. One file is written for each entry.

    Returns:
        The first file of each format.

    Raises:
        UserError: an unknown format or batch size, a missing package, no checkpoint, a size that cannot be
            scaled to the model's, a folder that cannot be written, or a file whose scores differ from the
            run's.
    """
    formats, counts = _choose_formats(formats), _parse_batch_sizes(batch_sizes)
    run = calibrations.load(workdir)
    state, config, calibration = run.state, run.config, run.calibration
    if size and size[0] * size[1] > config.data.max_pixels:
        raise UserError(
            f"--height {size[0]} --width {size[1]}: has more pixels than config.data.max_pixels = "
            f"{config.data.max_pixels}, so the run scores no such image; give a smaller size"
        )
    folder = output or workdir / "export"
    with _staged(folder) as staging:
        # A file scores one tile, so the detector that the files are compared with gets no tiles either.
        detector = Detector(state, replace(config, data=replace(config.data, tiles=0)), calibration)
        written = _write(staging, formats, run, size, counts)
        images = make_test_images(config, size or model_size(config))
        for path, runner in written:
            score, heat = max_differences(runner, detector, images)
            say(
                f"{folder / path.name}: {path.stat().st_size / 1e6:.2f} MB. On {len(images)} random images, "
                f"scores differ from the run's by at most {score:.1e} (relative), heat maps by {heat:.1e}."
            )
            if not (score <= MAX_DIFFERENCE and heat <= MAX_DIFFERENCE):  # NaN is refused, too
                raise UserError(
                    f"{path.name}: differs from the run by more than {MAX_DIFFERENCE:g}, and was not "
                    f"written; try other versions of {path.suffix[1:]}'s packages (see locks/ in the "
                    "repository)"
                )
        _warn_of_others(folder, {path.name for path, _ in written})
    if config.data.tiles:
        say(
            f"Such a file scores one tile (config.data.tiles = {config.data.tiles}): the program that uses "
            "it cuts large images, and takes the largest score of an image's tiles; see docs/deploy.md."
        )
    return {name: folder / _file_name(name, counts[0]) for name in formats}


def make_test_images(config: Config, size: Size, count: int | None = None) -> np.ndarray:
    """Returns random images from nearly flat to pure noise, `[count, h, w, C]`, with the run's pixel type.

    Args:
        config: the configuration of the run.
        size: (height, width) of the images.
        count: how many images; None: 8, but fewer of large images, because they take much memory.
    """
    if count is None:
        count = min(max(MAX_TEST_PIXELS // (size[0] * size[1]), MIN_TEST_IMAGES), TEST_IMAGES)
    rng = np.random.default_rng(0)
    contrasts = np.linspace(0.02, 1, count)
    levels = rng.uniform(0, 1, count) * (1 - contrasts)
    _, stored_type, (low, high) = find_input(config)
    images = np.empty((count, *size, config.data.channels), stored_type)
    for image, level, contrast in zip(images, levels, contrasts):
        image[:] = low + (high - low) * (level + contrast * rng.random(image.shape))
    return images


def max_differences(runner: Runner, detector: Detector, images: np.ndarray) -> tuple[float, float]:
    """Returns the largest difference of scores, and of heat maps, between a file and the detector.

    Differences are relative, or absolute for values below 1. The images run as a batch, and the first image
    runs once more alone.

    Args:
        runner: runs the file.
        detector: scores the same images.
        images: `[N, h, w, C]`, of the type that `make_test_images` returns.
    """
    expected = detector.score(images)
    taken = images.astype(find_input(detector.config).pixel_type)
    together, alone = runner(taken), runner(taken[:1])
    worst = [_difference(together, expected), _difference(alone, detector.score(images[:1]))]
    score, heat = np.max(worst, axis=0)  # np.max returns NaN if a difference is NaN; Python's max need not
    return float(score), float(heat)


def _difference(found: dict[str, np.ndarray], expected: Detections) -> tuple[float, float]:
    pairs = ((found["score"], expected.scores), (found["heat"], expected.heat))
    score, heat = (float(np.max(np.abs(a - b) / np.maximum(1, np.abs(b)))) for a, b in pairs)
    return score, heat


def _choose_formats(formats: Sequence[str] | None) -> Sequence[str]:
    """Returns the formats to write, and names the extra that ONNX needs.

    Raises:
        UserError: an unknown format, or a format whose packages are missing.
    """
    problem = find_onnx_problem()
    remedy = "ONNX needs the extra export: pip install '.[export]' in a checkout of the repository"
    if formats is None:
        if problem:
            say(f"writing StableHLO only; {problem}; {remedy}")
        return [name for name in FORMATS if name != "onnx" or not problem]
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"--formats: {name!r} is unknown; give one or more of {','.join(FORMATS)}")
    if not formats:
        raise UserError(f"--formats: none was given; give one or more of {','.join(FORMATS)}")
    if "onnx" in formats and problem:
        raise UserError(f"--formats onnx: {problem}; {remedy}")
    return formats


def find_onnx_problem() -> str:
    """Returns why this installation cannot write ONNX: a package is missing or too old; "" if it can."""
    for package in ONNX_PACKAGES:
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is missing"
    version = importlib.metadata.version("jax2onnx")
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_JAX2ONNX:
        oldest = ".".join(map(str, OLDEST_JAX2ONNX))
        return f"the package jax2onnx {version} is too old, {oldest} or newer is needed"
    return ""


def _parse_batch_sizes(batch_sizes: Sequence[str]) -> list[int | None]:
    """Returns each number of images once; None stands for any number.

    Raises:
        UserError: the list is empty, or a word is neither `ANY` nor a number from 1 to `MAX_BATCH`.
    """
    counts: list[int | None] = []
    for word in batch_sizes:
        if word != ANY and not (word.isascii() and word.isdecimal() and 1 <= int(word[:9]) <= MAX_BATCH):
            raise UserError(f"--batch_sizes: {word!r} must be {ANY} or a number from 1 to {MAX_BATCH}")
        counts.append(None if word == ANY else int(word))
    if not counts:
        raise UserError(f"--batch_sizes: none was given; give {ANY}, or numbers such as 1,16")
    return list(dict.fromkeys(counts))


def _file_name(name: str, batch_size: int | None) -> str:
    return f"model.{name}" if batch_size is None else f"model-{batch_size}.{name}"


def _warn_of_others(folder: Path, written: set[str]) -> None:
    """Warns of models of an earlier export, because the new `model.json` does not describe them."""
    found: set[str] = set()
    with suppress(FileNotFoundError):  # in a bucket, a folder begins to exist with its first file
        found = {path.name for path in folder.iterdir()}
    models = {name for name in found if any(name.endswith(f".{each}") for each in FORMATS)}
    if others := sorted(models - written):
        warn(
            f"{folder}: {', '.join(others)} of an earlier export stay there, but the new model.json is not "
            "theirs; remove them, or export all formats and batch sizes in one command"
        )


def _write(
    folder: Path,
    formats: Sequence[str],
    run: CalibratedRun,
    size: Size | None,
    counts: Sequence[int | None],
) -> list[tuple[Path, Runner]]:
    """Writes the files into `folder`, and loads them again. Returns (file, runner) for each model."""
    config, calibration = run.config, run.calibration
    variables = jax.device_get(variables_of(run.state))
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    if parameters > MAX_PARAMETER_BYTES:
        raise UserError(
            f"the run has {parameters / 1e9:.1f} GB of parameters, but files of both formats hold at most "
            "2 GB"
        )
    about = metadata(run.label, config, calibration, size)
    written: list[tuple[Path, Runner]] = []
    files = {}
    for name in formats:
        for count in counts:
            path = folder / _file_name(name, count)
            if name == "stablehlo":
                path.write_bytes(to_stablehlo(variables, config, calibration, size, count))
                written.append((path, load_stablehlo(path)))
            else:
                path.write_bytes(to_onnx(variables, config, calibration, about, size, count))
                written.append((path, load_onnx(path)))
            files[path.name] = describe_file(path, count)
    described = folder / "model.json"
    described.write_text(json.dumps(about | {"files": files}, indent=2), encoding="utf-8")
    for path, _ in written:
        write_checksums(folder / f"{path.name}.sha256", path, described)
    return written


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """Yields a folder. Its files move into `folder` if the block ends without an error."""
    with explain_write_errors(folder, "give another --output"):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing_together(folder, "export") as staging:
            yield staging
