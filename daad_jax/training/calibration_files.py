"""The files of later calibrations: `WORKDIR/calibrations/ID.json`, and `in_use.json` beside them.

Each calibration has its own file, which is written whole and never changes. `in_use.json` names the
calibration in use. Without this file, the calibration of the training is in use, which is in the checkpoint.
docs/scoring.md describes both files.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daad_jax.buckets import is_in_bucket, size_of
from daad_jax.data.samples import NormalImage
from daad_jax.errors import UserError
from daad_jax.files import exclusive, explain_write_errors, write_text
from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.training import lease
from daad_jax.training.checksums import digest

FOLDER, IN_USE_FILE, LOCK = "calibrations", "in_use.json", ".lock"
OF_TRAINING = "training"  # names the calibration of the training for --use
FORMAT = 1
ID_DIGITS = 8
MAX_FILE_BYTES = 2**28
KEYS = {
    "format", "id", "created", "step", "checkpoint", "rate", "confidence", "folders", "with_held_out",
    "calibration", "images", "outliers", "left_out", "drift", "sha256",
}  # fmt: skip


@dataclass(frozen=True)
class CalibrationLabel:
    """Names the calibration that a verdict belongs to.

    Attributes:
        id: 8 hexadecimal digits.
        created: the time in UTC, "2026-11-28T09:15:00Z"; "" for the calibration of the training.
        images: the number of images.
        groups: the number of groups of images; 0 if each image is for itself.
        step: the step of the checkpoint.
    """

    id: str
    created: str
    images: int
    groups: int
    step: int

    @classmethod
    def of_training(cls, calibration: Calibration, step: int) -> "CalibrationLabel":
        return cls(fingerprint(calibration, step)[:ID_DIGITS], "", *_count(calibration), step)

    def describe(self) -> str:
        """For people: "3fa81c02 (2026-11-28, 212 images)"."""
        of_groups = f" of {self.groups} groups" if self.groups else ""
        made = self.created[:10] or f"of the training, step {self.step}"
        return f"{self.id} ({made}, {self.images} images{of_groups})"


@dataclass(frozen=True)
class StoredCalibration:
    """The content of the file of a calibration that was made after the training.

    Attributes:
        label: names the calibration.
        calibration: the calibration itself.
        checkpoint: the fingerprint of the checkpoint that the calibration belongs to.
        rate: the false-alarm rate that the user asked for, in (0, 1).
        confidence: the true rate is at most `rate` with this confidence, in (0, 1); None: on average.
        folders: the folders of the images, as the user typed them.
        with_held_out: whether `images` contains images that the training held out.
        images: the images of the calibration.
        outliers: names of images with scores far above the others'.
        left_out: why images were not used, and how many for each reason.
        drift: the sentence about a drift from the calibration before; "" if there is none.
    """

    label: CalibrationLabel
    calibration: Calibration
    checkpoint: str
    rate: float
    confidence: float | None
    folders: tuple[str, ...]
    with_held_out: bool
    images: tuple[NormalImage, ...]
    outliers: tuple[str, ...] = ()
    left_out: Mapping[str, int] | None = None
    drift: str = ""


def make(
    of_training: Calibration,
    step: int,
    calibration: Calibration,
    *,
    rate: float,
    confidence: float | None,
    folders: Sequence[str],
    with_held_out: bool,
    images: Sequence[NormalImage],
    outliers: Sequence[str] = (),
    left_out: Mapping[str, int] | None = None,
    drift: str = "",
) -> StoredCalibration:
    """Makes a new calibration of a run, without storing it; see `StoredCalibration`.

    Args:
        of_training: the calibration in the checkpoint.
        step: the step of the checkpoint.
        calibration: the new calibration.
        rate, confidence, folders, with_held_out, images, outliers, left_out, drift: see `StoredCalibration`.
    """
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    belongs_to = fingerprint(of_training, step)
    content = [created, belongs_to, calibration.to_json(), *(image.checksum for image in images)]
    label = CalibrationLabel(digest({"content": content})[:ID_DIGITS], created, *_count(calibration), step)
    return StoredCalibration(
        label, calibration, belongs_to, rate, confidence, tuple(folders), with_held_out, tuple(images),
        tuple(outliers), dict(left_out or {}), drift,
    )  # fmt: skip


def store(workdir: Path, stored: StoredCalibration) -> Path:
    """Writes a calibration into the folder of its run, and puts it into use.

    Writing `in_use.json` puts it into use in one step. A command that is killed earlier leaves the old
    calibration in use, perhaps with the new one beside it.

    Raises:
        UserError: the folder cannot be written, or another process calibrates this run.
    """
    label = stored.label
    about: dict[str, Any] = {
        "format": FORMAT,
        "id": label.id,
        "created": label.created,
        "step": label.step,
        "checkpoint": stored.checkpoint,
        "rate": stored.rate,
        "confidence": stored.confidence,
        "folders": list(stored.folders),
        "with_held_out": stored.with_held_out,
        "calibration": stored.calibration.to_json(),
        "images": [asdict(image) for image in stored.images],
        "outliers": list(stored.outliers),
        "left_out": dict(stored.left_out or {}),
        "drift": stored.drift,
    }
    file = workdir / FOLDER / f"{label.id}.json"
    with _writing(workdir):
        _write(file, about)
        _write_in_use(workdir, label.id)
    return file


def put_into_use(workdir: Path, id_: str | None) -> None:
    """Makes `in_use.json` name a stored calibration; None: the calibration of the training.

    Raises:
        UserError: see `store`.
    """
    if id_ is None and not (workdir / FOLDER).is_dir():
        return
    with _writing(workdir):
        if id_ is None:
            (workdir / FOLDER / IN_USE_FILE).unlink(missing_ok=True)
        else:
            _write_in_use(workdir, id_)


def _write_in_use(workdir: Path, id_: str) -> None:
    _write(workdir / FOLDER / IN_USE_FILE, {"format": FORMAT, "id": id_})


def fingerprint(calibration: Calibration, step: int) -> str:
    """Returns a digest that only this checkpoint has: its held-out images' scores depend on every weight."""
    return digest({"step": step, "calibration": calibration.to_json()})


def _count(calibration: Calibration) -> tuple[int, int]:
    return len(calibration.scores), calibration.group_count if calibration.group_sizes else 0


def stored_ids(workdir: Path) -> list[str]:
    """The ids of all stored calibrations of a run, also of damaged ones, in order."""
    names = (path.stem for path in (workdir / FOLDER).glob("*.json"))
    return sorted(name for name in names if _is_id(name))


def _is_id(name: object) -> bool:
    return isinstance(name, str) and len(name) == ID_DIGITS and set(name) <= set("0123456789abcdef")


def read_in_use(workdir: Path) -> str | None:
    """Returns the id of the calibration in use; None if the calibration of the training is in use.

    Raises:
        UserError: the file that names it is damaged.
    """
    file = workdir / FOLDER / IN_USE_FILE
    if not file.exists():
        return None
    about = _read_file(file, {"format", "id", "sha256"})
    if not _is_id(about["id"]):
        raise _damaged(file, "it names no calibration")
    return str(about["id"])


def read(workdir: Path, id_: str) -> StoredCalibration:
    """Reads a stored calibration. Raises UserError if the file is missing or has changed."""
    file = workdir / FOLDER / f"{id_}.json"
    about = _read_file(file, KEYS)
    try:
        calibration = Calibration.from_json(about["calibration"])
        label = CalibrationLabel(
            str(about["id"]), str(about["created"]), *_count(calibration), int(about["step"])
        )
        confidence = about["confidence"]
        stored = StoredCalibration(
            label=label,
            calibration=calibration,
            checkpoint=str(about["checkpoint"]),
            rate=float(about["rate"]),
            confidence=None if confidence is None else float(confidence),
            folders=tuple(map(str, about["folders"])),
            with_held_out=bool(about["with_held_out"]),
            images=tuple(NormalImage(**image) for image in about["images"]),
            outliers=tuple(map(str, about["outliers"])),
            left_out={str(reason): int(count) for reason, count in about["left_out"].items()},
            drift=str(about["drift"]),
        )
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(file, str(error)) from error
    if label.id != id_:
        raise _damaged(file, f"it is calibration {label.id}")
    return stored


def _read_file(file: Path, keys: set[str]) -> dict[str, Any]:
    """Reads a JSON file with a checksum. Raises UserError if the file is missing or has changed."""
    try:
        if size_of(file) > MAX_FILE_BYTES:
            raise _damaged(file, "it is too large")
        about = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _damaged(file, "it is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file, "it cannot be read") from error
    if isinstance(about, dict) and isinstance(about.get("format"), int) and about["format"] > FORMAT:
        raise _damaged(file, f"a newer version of daad_jax made it (format {about['format']})")
    if not isinstance(about, dict) or set(about) != keys or about["format"] != FORMAT:
        raise _damaged(file, "it is no calibration")
    if digest({key: value for key, value in about.items() if key != "sha256"}) != about["sha256"]:
        raise _damaged(file, "it has changed since it was written")
    return about


def _damaged(file: Path, reason: str) -> UserError:
    return UserError(
        f"{file}: this calibration cannot be used ({reason}); bring the file back, or go back to the "
        f"calibration of the training with calibrate --workdir {file.parent.parent} --use {OF_TRAINING}"
    )


def _write(file: Path, about: dict[str, Any]) -> None:
    write_text(file, json.dumps({**about, "sha256": digest(about)}, indent=1))


@contextmanager
def _writing(workdir: Path) -> Iterator[None]:
    """Lets only one process at a time run a block that writes calibrations."""
    folder = workdir / FOLDER
    busy_message = f"{folder}: another process calibrates this run; try again later"
    if is_in_bucket(folder):
        with lease.holding(folder / LOCK, busy_message):
            yield
        return
    with explain_write_errors(folder, "make room there, or give --workdir a copy that can be written"):
        folder.mkdir(exist_ok=True)
        (folder / LOCK).touch()
        with exclusive(folder / LOCK, busy_message):
            yield
