"""Scores images with an exported StableHLO program; the folder of the run is not needed."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from daad_jax import config as config_lib
from daad_jax.config import Config
from daad_jax.detection.detections import Detections
from daad_jax.errors import UserError
from daad_jax.export.formats import PLATFORMS
from daad_jax.export.graph import outputs_of
from daad_jax.files import sha256_of
from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.scoring.scorer import choose_batch_size
from daad_jax.terminal import warn
from daad_jax.training.calibration_files import CalibrationLabel
from daad_jax.validation import validate

OLDEST_FORMAT = 3  # of model.json; older files have no p-values
REMEDY = "export the run again"


class ExportedDetector:
    """Scores prepared images with `model.stablehlo` and the `model.json` beside it, as `Detector` does.

    The program does not return R and L, so `Detections.reconstruction` and `Detections.alignment` are NaN.

    Args:
        path: the StableHLO file.
        batch_size: how many images are scored at once. None: as many as the file takes; if it takes any
            number, as many as a `Detector` of the run.

    Raises:
        UserError: a file is missing, damaged, too old, or made by a newer JAX. Or the program takes tiles, or
            images of another size or type than the run prepares. Or the file has another batch size.
    """

    def __init__(self, path: Path, batch_size: int | None = None) -> None:
        _compare_checksums(path)
        about = _read_metadata(path.with_name("model.json"))
        try:
            self.config = config_lib.from_json(json.dumps(about["config"]))
            validate(self.config)
            self.calibration = _calibration_of(about, self.config)
            self.step, self.threshold = int(about["step"]), float(about["threshold"])
            if not math.isfinite(self.threshold):
                raise ValueError(f"the threshold is {self.threshold}")
            label = about["calibration"]
            groups = self.calibration.group_count if self.calibration.group_sizes else 0
            self.calibration_label = CalibrationLabel(
                str(label["id"]), str(label["created"]), len(self.calibration.scores), groups, self.step
            )
            taken = (int(about["height"]), int(about["width"]), str(about["input_type"]))
        except (AttributeError, KeyError, TypeError, ValueError, UserError) as error:
            raise UserError(f"{path.with_name('model.json')}: damaged ({error}); {REMEDY}") from error
        data = self.config.data
        if data.tiles or taken != (data.height, data.width, "uint8"):
            raise UserError(
                f"{path}: takes tiles, deep pixels or images that are not scaled yet, which cannot be served "
                "from an exported file; serve the run (--workdir), or export it without --height and --width"
            )
        self._call, fixed = _load_program(path, (data.height, data.width, data.channels), self.config)
        if fixed and batch_size not in (None, fixed):
            raise UserError(f"--batch_size={batch_size}: {path} takes {fixed} images at once; leave it out")
        at_once = choose_batch_size(self.config, jax.default_backend())
        self.batch_size: int = fixed or batch_size or at_once

    def score_prepared(self, images: Any) -> Iterator[Detections]:
        """Scores prepared images, uint8 `[N, H, W, C]`, batch by batch."""
        return self.judge(images[i : i + self.batch_size] for i in range(0, len(images), self.batch_size))

    def score(self, images: Any) -> Detections:
        """Refuses images in tiles, because an exported program scores one tile.

        Raises:
            UserError: always.
        """
        raise UserError("an exported program takes no images in tiles; serve the run (--workdir)")

    def judge(
        self, batches: Iterable[np.ndarray], name_of: Callable[[int], str] = "image {}".format
    ) -> Iterator[Detections]:
        """Yields the detections of every batch of prepared images, see `Detector.judge`.

        Raises:
            UserError: a score is not finite; the message names the image.
        """
        count = 0
        for images in batches:
            missing = self.batch_size - len(images)
            filled = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images
            found = {name: values[: len(images)] for name, values in self._call(filled).items()}
            finite = np.isfinite(found["score"]) & np.isfinite(found["heat"]).all(axis=(1, 2))
            if not finite.all():
                name = name_of(count + int(np.argmin(finite)))
                raise UserError(
                    f"{name}: its score or its heat map is not finite, so there is no verdict; the exported "
                    f"model is of no use: {REMEDY}"
                )
            count += len(images)
            yield self._detections(images, found)

    def _detections(self, images: np.ndarray, found: dict[str, np.ndarray]) -> Detections:
        nothing = np.full(len(images), np.nan)
        return Detections(
            scores=found["score"].astype(np.float64),
            anomalous=found["anomalous"],
            p_values=found["p_value"].astype(np.float64),
            reconstruction=nothing,
            alignment=nothing,
            heat=found["heat"],
            images=images,
            reconstructions=found.get("reconstruction"),
            clipped=np.zeros(len(images), bool),
            calibration=self.calibration_label.id,
        )


def _compare_checksums(path: Path) -> None:
    """Raises UserError if the model or `model.json` is missing, or if `path`.sha256 has another checksum."""
    sums = path.with_name(f"{path.name}.sha256")
    for file in (path, path.with_name("model.json")):
        if not file.is_file():
            raise UserError(f"{file}: no such file; give the .stablehlo file that export wrote")
    if not sums.is_file():
        warn(f"{sums} is missing, so damage of the model may go unnoticed")
        return
    lines = (line.partition("  ") for line in sums.read_text("utf-8", "replace").splitlines())
    expected = {name: digest for digest, _, name in lines}
    for file in (path, path.with_name("model.json")):
        if expected.get(file.name) != sha256_of(file):
            raise UserError(f"{file}: damaged, {sums} has another checksum; {REMEDY}")


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        version = int(about["format"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {REMEDY}") from error
    if version < OLDEST_FORMAT:
        raise UserError(f"{path}: of an older version of this package, without p-values; {REMEDY}")
    return about  # type: ignore[no-any-return]


def _calibration_of(about: dict[str, Any], config: Config) -> Calibration:
    """Makes the calibration from `model.json`. Raises UserError, KeyError, TypeError or ValueError."""
    tree = dict(about["units"])
    tree |= {"scores": about["held_out_scores"], "group_sizes": about["group_sizes"]}
    return Calibration.from_json(tree | {"false_alarm_rate": config.score.false_alarm_rate})


def _load_program(
    path: Path, shape: tuple[int, int, int], config: Config
) -> tuple[Callable[[np.ndarray], dict[str, np.ndarray]], int | None]:
    """Returns the program, and how many images it takes; None: any number.

    Raises:
        UserError: the file cannot be loaded here, or is no program of this package.
    """
    try:
        exported = jax_export.deserialize(bytearray(path.read_bytes()))
        call = jax.jit(exported.call)
        (images,) = exported.in_avals
        names = jax.tree.unflatten(exported.out_tree, [0] * len(exported.out_avals))
        count = images.shape[0] if isinstance(images.shape[0], int) else None
        is_ours = (
            images.shape[1:] == shape and images.dtype == np.uint8 and set(names) == set(outputs_of(config))
        )
    except Exception as error:  # a damaged program can make its reader raise any error
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path}: JAX {jax.__version__} cannot load this program ({first}); {REMEDY} with this version "
            "of JAX, or with --batch_sizes and a number, which more versions read"
        ) from error
    if not is_ours:
        raise UserError(f"{path}: no program that scores images of this model.json; {REMEDY}")
    if jax.default_backend().replace("gpu", "cuda") not in PLATFORMS:
        raise UserError(
            f"{path}: cannot run on {jax.default_backend()}; set JAX_PLATFORMS=cpu (the program runs on "
            f"{', '.join(PLATFORMS)})"
        )
    return lambda batch: jax.device_get(call(batch)), count
