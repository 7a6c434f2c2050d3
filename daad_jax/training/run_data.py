"""The images of a run: `data.json` in its workdir remembers where they are, and which of them trained."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from daad_jax.config import Config
from daad_jax.data import datasets
from daad_jax.data.account import to_tree
from daad_jax.data.history import CALIBRATED, TRAINED, ContentIndex, History
from daad_jax.data.locations import absolute_locations, locate
from daad_jax.data.samples import Account, NormalImage, Split, Splits
from daad_jax.errors import UserError
from daad_jax.files import explain_write_errors, write_text
from daad_jax.training.checksums import digest
from daad_jax.training.workdir import DATA_FILE, saved_step

FORMAT = 2  # the first format with a checksum
KEYS = ("format", "normal_images", "normal_digest", "paths", "images", "trained_earlier", "rows", "files")
REMEDY = "bring back the images of its training, or train a new run in another --workdir"


@dataclass(frozen=True)
class RunData:
    """The content of `data.json`: the history of `count` normal images, and absolute `paths` of the data."""

    history: History
    count: int
    paths: Mapping[str, str]


def read(workdir: Path) -> RunData | None:
    """Reads `data.json`; None if the run has no such file, or has not trained yet and is bound to no images.

    Raises:
        UserError: the file is damaged.
    """
    file = workdir / DATA_FILE
    if not saved_step(workdir) or not file.is_file():
        return None
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        if not _is_whole(stored):
            raise ValueError("its checksum differs")
        images = None
        if "images" in stored:
            images = tuple(NormalImage(**image) for image in stored["images"])
        earlier = tuple(NormalImage(**image) for image in stored.get("trained_earlier", ()))
        paths = {str(key): str(path) for key, path in stored.get("paths", {}).items()}
        history = History(str(stored["normal_digest"]), images, earlier)
        return RunData(history, int(stored["normal_images"]), paths)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: this file is damaged; remove it to go on without its check") from error


def _is_whole(stored: Mapping[str, Any]) -> bool:
    """Compares the checksum of our keys. A file of an earlier version has no format and no checksum."""
    has_checksum = "format" in stored or "sha256" in stored
    return not has_checksum or stored.get("sha256") == _digest(stored)


def _digest(stored: Mapping[str, Any]) -> str:
    """Returns the checksum of our keys; others may have added keys."""
    return digest({key: stored.get(key) for key in KEYS})


def load_splits(
    workdir: Path, config: Config, given: Any = None, typed_now: bool = False, check: bool = False
) -> Splits:
    """Loads the splits of the run in a workdir. All code that needs the images of a run calls this function.

    The same images give the same splits as in the last training. If there are other images now, those that
    have trained are not held out, see `History.cut`.

    Args:
        workdir: the folder of the run; it need not exist yet.
        config: the configuration of the run, with paths as the user typed them.
        given: the images, if they are given in Python, see `datasets.load_from_memory`.
        typed_now: see `locate`.
        check: see `datasets.load`.

    Raises:
        UserError: see `read`, `locate`, `datasets.load` and `datasets.load_from_memory`.
    """
    known = read(workdir)
    history = known.history if known else None
    if given is not None:
        return datasets.load_from_memory(given, config, history)
    return datasets.load(_located(config, known, typed_now), history, check)


def _located(config: Config, known: RunData | None, typed_now: bool) -> Config:
    """Replaces the paths in the configuration by the paths at which the images are now."""
    return replace(config, data=locate(config.data, known.paths, typed_now)) if known else config


def require_same_size(workdir: Path, stored: Config, config: Config) -> None:
    """Raises UserError if the size that was found for these images is not the size of the checkpoint."""
    before, now = ((data.height, data.width) for data in (stored.data, config.data))
    if before != now:
        raise UserError(
            f"{workdir}: was trained on images of {before[0]} x {before[1]} pixels, and the shape of the "
            f"present images asks for {now[0]} x {now[1]} (config.data.fit = 'aspect'); {REMEDY}"
        )


def load_held_out(workdir: Path, config: Config) -> Split:
    """Loads the held-out images of the run in a workdir.

    Raises:
        UserError: see `load_splits`; or the images differ from the training images, and it is not known
            which of them have trained.
    """
    splits, known = load_splits(workdir, config), read(workdir)
    if known and known.history.images is None and known.history.digest != splits.normal_digest:
        raise UserError(
            f"{workdir}: was trained on other images, and {DATA_FILE} does not say which of them were held "
            f"out; {REMEDY}"
        )
    return splits.calibration


def claim_data(workdir: Path, config: Config, splits: Splits, fresh_hold_out: bool) -> str:
    """Binds a workdir to its images, or checks that it was trained on these images.

    The threshold comes from images that were held out. Images that have trained the model must never be held
    out: they would make the threshold too low.

    Args:
        workdir: a claimed workdir.
        config: the configuration of the run.
        splits: the images that `load_splits` returned for this command.
        fresh_hold_out: whether the run may go on with other images.

    Returns:
        A sentence about images that are new in this run; "" if there are none.

    Raises:
        UserError: the run was trained on other images, and `fresh_hold_out` is False or cannot help.
    """
    known = read(workdir)
    history = known.history if known else History("", ())
    are_others = bool(known) and history.digest != splits.normal_digest
    if known and are_others:
        _require_fresh_hold_out(
            workdir, config, known, len(splits.train) + len(splits.calibration), fresh_hold_out
        )
    elif fresh_hold_out and not known and saved_step(workdir):
        raise UserError(
            f"{workdir / DATA_FILE}: this file is missing, so nobody knows which images have trained; put it "
            "back, or give a new --workdir"
        )
    _refuse_trained(workdir, history, splits)
    updated = history.extend(splits.normal, splits.normal_digest)
    _write(workdir / DATA_FILE, _located(config, known, typed_now=True), updated, splits.account)
    return _describe_new_images(history, splits) if are_others else ""


def _require_fresh_hold_out(
    workdir: Path, config: Config, known: RunData, count: int, fresh_hold_out: bool
) -> None:
    """Raises UserError unless a run can go on although its images have changed since the last training."""
    step = saved_step(workdir)
    others = f"{workdir}: was trained on other images ({known.count} good images there, {count} now)"
    if config.uses_coreset:
        raise UserError(
            f"{others}, and its memories are filled only once; give a new --workdir to train on the present "
            "images, or set the threshold of this run from more good images with calibrate"
        )
    if not fresh_hold_out:
        raise UserError(
            f"{others}, and its threshold comes from images that were held out then; give a new --workdir to "
            "train on the present images from the start, or --fresh_hold_out and config.train.steps above "
            f"{step} to go on with them"
        )
    if known.history.images is None:
        raise UserError(
            f"{workdir / DATA_FILE}: this file does not say which images have trained, because an earlier "
            "version wrote it; run the same command once with the images of the training, or give a new "
            "--workdir"
        )
    if step >= config.train.steps:
        raise UserError(
            f"{workdir}: is trained to step {step}, and a threshold from new held-out images is set only "
            f"when the training goes on; raise config.train.steps above {step}"
        )


def _refuse_trained(workdir: Path, history: History, splits: Splits) -> None:
    """Raises UserError if an image is held out that has trained before."""
    trained, held_out = ContentIndex(history.trained), ContentIndex(history.held_out)
    for image in splits.normal:
        # Two images can have the same content: one has trained, and the other was held out.
        if image.role == CALIBRATED and image in trained and image not in held_out:
            raise UserError(
                f"{workdir}: {image.name} has trained this run, so it cannot be held out for the threshold; "
                "hold out other images, or give a new --workdir"
            )


def _describe_new_images(history: History, splits: Splits) -> str:
    known = ContentIndex([*history.trained, *history.held_out])
    roles = [image.role for image in splits.normal if image not in known]
    return (
        f"The images differ from the images of the last training: {len(roles)} are new to this run. "
        f"{roles.count(TRAINED)} of them train, and {roles.count(CALIBRATED)} are held out. No image that "
        "has trained is held out."
    )


def _write(file: Path, config: Config, history: History, account: Account) -> None:
    """Writes our keys into the file, and keeps all other keys."""
    before = ""
    stored: dict[str, Any] = {}
    if file.is_file():
        with contextlib.suppress(ValueError, TypeError):  # `read` refuses a damaged file of a trained run
            before = file.read_text(encoding="utf-8")
            stored = dict(json.loads(before))
    stored |= {
        "normal_images": len(history.trained_now) + len(history.held_out),
        "normal_digest": history.digest,
        "paths": absolute_locations(config.data),
        "images": [asdict(image) for image in history.images or ()],
        "trained_earlier": [asdict(image) for image in history.earlier],
        **to_tree(account),
        "format": FORMAT,
    }
    stored["sha256"] = _digest(stored)
    text = json.dumps(stored, indent=1)
    if text != before:
        with explain_write_errors(file.parent, "give another --workdir"):
            write_text(file, text)
