"""The whole configuration: typed, validated, and to and from JSON (a checkpoint never runs code).

`configs/*.py` return a `Config`; command line overrides are assigned to it field by field; `validate`
then refuses impossible values in one line that names the key.
"""

import dataclasses
import json
import math
import os
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daad_jax.errors import UserError, nearest

PROTOCOLS = ("one_class", "leave_one_out", "inspection")
FITS = ("exact", "pad", "resize")
DISTANCES = ("l2", "squared", "cosine", "correlation")
ALIGNMENTS = ("l2", "layers")
PRECISIONS = ("float32", "bfloat16")
RESTORE = ("", "grey", "turns", "grey_turns")


@dataclass
class DataConfig:
    """What is normal, what is tested, and how an image becomes `[H, W, C]` uint8."""

    source: str = "tfds"  # "tfds" (a TFDS builder, by name) or "folder" (read in place)
    name: str = "cifar10"  # TFDS builder, e.g. "mnist", "solar_cells/mono", "mvtec_ad/bottle"
    path: str = ""  # folder: its path; mvtec_ad: the original data set (else $DAAD_MVTEC_DIR)
    data_dir: str = ""  # TFDS directory; empty: $TFDS_DATA_DIR, else ~/tensorflow_datasets
    cache_dir: str = ""  # decoded images; empty: $DAAD_CACHE_DIR, else ~/.cache/daad_jax
    # one_class: `normal_class` is normal, all others anomalous. leave_one_out: `normal_class` is the
    # anomalous one, all others normal. inspection: the source itself says normal / anomalous.
    protocol: str = "one_class"
    normal_class: str = "automobile"  # class name or number, for one_class and leave_one_out
    height: int = 32
    width: int = 32
    channels: int = 3  # 1 (grey) or 3 (RGB); images are converted
    fit: str = "exact"  # other sizes: "exact" refuses, "pad" keeps aspect and pads edges, "resize"
    calibration_fraction: float = 0.1  # of the normal training images, held out by seed
    on_bad_image: str = "stop"  # unreadable image: "stop", or "skip" (named and counted)
    mixed_channels: str = "convert"  # grey and colour files in one folder: "convert" or "stop"
    limit_train: int = 0  # first N after a seeded shuffle; 0: all (smoke runs)
    limit_test: int = 0  # as above, per label
    flip_horizontal: bool = False  # augmentation of training images, each with probability 1/2
    flip_vertical: bool = False
    shift: int = 0  # largest random shift in pixels, edges replicated

    @property
    def augments(self) -> bool:
        """Whether anything is done to training images."""
        return self.flip_horizontal or self.flip_vertical or self.shift > 0

    @property
    def cache_directory(self) -> Path:
        """Where what can be made again is kept; it may not exist yet."""
        chosen = self.cache_dir or os.environ.get("DAAD_CACHE_DIR") or "~/.cache/daad_jax"
        return Path(chosen).expanduser()


@dataclass
class ModelConfig:
    """Networks of the paper's Fig. 3. Scale 1 is the bottleneck, scales 2.. are the skips going up."""

    levels: int = 4  # 2x down-samplings
    base_width: int = 64  # channels at full resolution; doubled per level
    max_width: int = 512
    skips: tuple[bool, ...] = (
        True,
        True,
        True,
    )  # scales 2.. (1/8, 1/4, 1/2); full resolution has none
    memory_items: tuple[int, ...] = (500, 500, 500, 500)  # N per scale; 0: features pass unchanged
    # Cuts (r_h, r_w, r_c) per scale; 0 stands for the whole axis, so (0, 0, 1) is pixel-wise (MemAE).
    division: tuple[tuple[int, int, int], ...] = ((1, 1, 1), (1, 1, 1), (2, 2, 1), (4, 4, 1))
    temperature: float = 1.0  # softmax(cos / temperature); 1: the paper
    shrink: float = 0.0  # MemAE's hard-shrinkage threshold on the weights; 0: the paper
    discriminator_width: int = 64  # first convolution; doubled per down-sampling to max_width


@dataclass
class LossConfig:
    """L = reconstruction * E||x - x^|| + adversarial * L_adv + alignment * E||f(x) - f(x^)||."""

    reconstruction: float = 50.0
    adversarial: float = 1.0  # adversarial = alignment = 0: DAAD without "+", no discriminator
    alignment: float = 1.0
    distance: str = "squared"  # "squared" (mean square) or "l2" (the paper's plain norm)
    generator: str = "non_saturating"  # or "minimax" (the paper's log(1 - D(x^)))


@dataclass
class TrainConfig:
    """Optimisation, and what is written while it runs."""

    steps: int = 2000
    batch_size: int = 64  # global, over all devices and processes
    learning_rate: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    schedule: str = "constant"  # or "cosine" to zero
    warmup_steps: int = 0
    # Beyond the paper: what the generator's input loses and has to be restored, "grey" (its colour),
    # "turns" (its direction) or "grey_turns".
    restore: str = ""
    # Of the convolutions' products in training, "float32" or "bfloat16"; memories, norms, losses, parameters
    # and all of scoring are float32.
    precision: str = "float32"
    steps_per_call: int = 1  # taken by one call of the device; more keep Python out of a small model's way
    log_every: int = 50
    checkpoint_every: int = 500
    max_to_keep: int = 3
    devices: int = 0  # local devices to use; 0: all


@dataclass
class ScoreConfig:
    """A(x) = gamma * R(x) + (1 - gamma) * L(x), each in units of held-out normal images."""

    gamma: float = 0.9
    # R: "l2" (the paper), "squared", or relative: "cosine", and "correlation", blind to contrast too.
    distance: str = "l2"
    # L: "l2" (the paper, of f_D) or "layers" (ours: relative, of all layers of the extractor).
    alignment: str = "l2"
    smoothing: float = 0.0  # sigma in pixels of a Gaussian on both images before comparing
    # Ours: R is the power mean, of this exponent, of its heat map's squares. 1: the paper, every place
    # counts the same; 8: nearly only the worst places, for defects that are small.
    pooling: int = 1
    heat_smoothing: float = 0.02  # sigma of the heat map's Gaussian, a share of the shorter side
    false_alarm_rate: float = 0.05  # the threshold is the (1 - rate) quantile of held-out normals
    # Images a device scores at once; 0: 8, more where they are small; 1 answers one fastest.
    batch_size: int = 0


@dataclass
class Config:
    """One run."""

    name: str = "default"  # default workdir: runs/<name>
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)

    @property
    def uses_discriminator(self) -> bool:
        return self.loss.adversarial > 0 or self.loss.alignment > 0


def validate(config: Config) -> None:
    """Refuses impossible values.

    Raises:
        UserError: naming the key, its value and what it can be.
    """

    def need(ok: bool, key: str, remedy: str) -> None:
        if not ok:
            value: Any = config
            for part in key.split("."):
                value = getattr(value, part)
            raise UserError(f"config.{key} = {value!r}: {remedy}")

    def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
        near = nearest(str(value), allowed)
        hint = f" (did you mean {near!r}?)" if near else ""
        need(value in allowed, key, f"must be one of {', '.join(allowed)}{hint}")

    data, model, loss, train, score = (
        config.data, config.model, config.loss, config.train, config.score,
    )  # fmt: skip
    _check_types(config, "config")
    need(bool(config.name) and "\0" not in config.name, "name", "must not be empty")
    need(0 <= config.seed < 2**31, "seed", "must be between 0 and 2^31 - 1")
    one_of("data.source", data.source, ("tfds", "folder"))
    one_of("data.protocol", data.protocol, PROTOCOLS)
    one_of("data.fit", data.fit, FITS)
    one_of("data.on_bad_image", data.on_bad_image, ("stop", "skip"))
    one_of("data.mixed_channels", data.mixed_channels, ("convert", "stop"))
    need(data.channels in (1, 3), "data.channels", "must be 1 (grey) or 3 (RGB)")
    need(0 < data.calibration_fraction <= 0.5, "data.calibration_fraction", "must be in (0, 0.5]")
    need(data.shift >= 0, "data.shift", "must be 0 or more pixels")
    need(data.limit_train >= 0, "data.limit_train", "must be 0 (all) or more")
    need(data.limit_test >= 0, "data.limit_test", "must be 0 (all) or more")
    need(1 <= model.levels <= 8, "model.levels", "must be between 1 and 8")
    unit = 2**model.levels
    for key in ("height", "width"):
        value = getattr(data, key)
        near = max(unit, round(value / unit) * unit)
        need(
            0 < value <= 4096 and value % unit == 0,
            f"data.{key}",
            f"must be a multiple of 2^levels = {unit}, at most 4096; the nearest is {near} "
            "(data.fit = 'pad' or 'resize' brings images to that size)",
        )
    need(model.base_width >= 1, "model.base_width", "must be at least 1")
    need(model.max_width >= model.base_width, "model.max_width", "must be at least model.base_width")
    need(model.discriminator_width >= 1, "model.discriminator_width", "must be at least 1")
    need(
        len(model.skips) == model.levels - 1,
        "model.skips",
        f"needs levels - 1 = {model.levels - 1} entries, from 1/{unit // 2} to 1/2",
    )
    for key in ("memory_items", "division"):
        need(
            len(getattr(model, key)) == model.levels,
            f"model.{key}",
            f"needs levels = {model.levels} entries, bottleneck first",
        )
    need(all(n >= 0 for n in model.memory_items), "model.memory_items", "must be 0 or more each")
    need(
        all(len(d) == 3 and all(cuts >= 0 for cuts in d) for d in model.division),
        "model.division",
        "needs three numbers of 0 or more per scale: (r_h, r_w, r_c)",
    )
    need(model.temperature > 0, "model.temperature", "must be above 0")
    need(0 <= model.shrink < 1, "model.shrink", "must be in [0, 1)")
    for key in ("reconstruction", "adversarial", "alignment"):
        need(getattr(loss, key) >= 0, f"loss.{key}", "must be 0 or more")
    need(
        loss.reconstruction + loss.adversarial + loss.alignment > 0,
        "loss.reconstruction",
        "at least one loss weight must be above 0",
    )
    one_of("loss.distance", loss.distance, ("squared", "l2"))
    one_of("loss.generator", loss.generator, ("non_saturating", "minimax"))
    for key in ("steps", "batch_size", "steps_per_call", "log_every", "checkpoint_every", "max_to_keep"):
        need(getattr(train, key) >= 1, f"train.{key}", "must be at least 1")
    need(train.learning_rate > 0, "train.learning_rate", "must be above 0")
    need(0 <= train.beta1 < 1, "train.beta1", "must be in [0, 1)")
    need(0 <= train.beta2 < 1, "train.beta2", "must be in [0, 1)")
    one_of("train.schedule", train.schedule, ("constant", "cosine"))
    need(
        0 <= train.warmup_steps < train.steps,
        "train.warmup_steps",
        "must be 0 or more and below train.steps",
    )
    one_of("train.precision", train.precision, PRECISIONS)
    for key in ("steps", "log_every", "checkpoint_every"):
        need(
            getattr(train, key) % train.steps_per_call == 0,
            f"train.{key}",
            f"must be a multiple of train.steps_per_call = {train.steps_per_call}",
        )
    one_of("train.restore", train.restore, RESTORE)
    need(
        "turns" not in train.restore or data.height == data.width,
        "train.restore",
        "turns need square images (data.height = data.width)",
    )
    need(train.devices >= 0, "train.devices", "must be 0 (all) or more")
    need(0 <= score.gamma <= 1, "score.gamma", "must be in [0, 1]")
    need(
        config.uses_discriminator or score.gamma == 1,
        "score.gamma",
        "must be 1 where loss.adversarial = loss.alignment = 0 (no discriminator to score with)",
    )
    one_of("score.distance", score.distance, DISTANCES)
    one_of("score.alignment", score.alignment, ALIGNMENTS)
    need(0 <= score.smoothing <= 32, "score.smoothing", "must be between 0 and 32 pixels")
    need(1 <= score.pooling <= 64, "score.pooling", "must be between 1 (the mean) and 64")
    need(0 <= score.heat_smoothing <= 0.25, "score.heat_smoothing", "must be between 0 and 0.25")
    need(0 < score.false_alarm_rate < 1, "score.false_alarm_rate", "must be in (0, 1)")
    need(score.batch_size >= 0, "score.batch_size", "must be 0 (chosen by size) or more")


def to_json(config: Config) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(text: str) -> Config:
    """Inverse of `to_json`.

    Raises:
        UserError: not JSON, or keys or types that this version does not know.
    """
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise UserError(f"the stored configuration is not JSON: {error}") from error
    config = _build(Config, tree, "config")
    validate(config)
    return config


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested tables under dotted keys."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def nearest_key(key: str) -> str:
    """The known dotted key that looks most like `key` ('' where none does)."""
    return nearest(key, _keys(Config, ""), 0.5)


def _keys(cls: Any, prefix: str) -> typing.Iterator[str]:
    for name, hint in typing.get_type_hints(cls).items():
        yield prefix + name
        if dataclasses.is_dataclass(hint):
            yield from _keys(hint, f"{prefix}{name}.")


def _build(cls: Any, tree: Any, key: str) -> Any:
    """`tree` (parsed JSON) as an instance of the dataclass `cls`; lists become tuples."""
    if not isinstance(tree, dict):
        raise UserError(f"{key}: expected a table, found {type(tree).__name__}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(tree) - set(hints))
    if unknown:
        raise UserError(f"{key}.{unknown[0]}: unknown key; made by another version of daad_jax?")

    def value(name: str, hint: Any) -> Any:
        if dataclasses.is_dataclass(hint):
            return _build(hint, tree[name], f"{key}.{name}")
        return _tuples(tree[name])

    return cls(**{name: value(name, hint) for name, hint in hints.items() if name in tree})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _check_types(node: Any, key: str) -> None:
    for name, hint in typing.get_type_hints(type(node)).items():
        value = getattr(node, name)
        if dataclasses.is_dataclass(hint):
            _check_types(value, f"{key}.{name}")
        elif not _fits(value, hint):
            shown = getattr(hint, "__name__", str(hint)) if hint in (str, int, float, bool) else str(hint)
            raise UserError(f"{key}.{name} = {value!r}: must be of type {shown}")


def _fits(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is tuple:
        args = typing.get_args(hint)
        if not isinstance(value, tuple):
            return False
        if args[-1] is Ellipsis:
            return all(_fits(v, args[0]) for v in value)
        return len(value) == len(args) and all(_fits(v, a) for v, a in zip(value, args))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)
