"""Defines the whole configuration with its types, and converts it to and from JSON, which runs no code.

A recipe in `configs/` returns a `Config`. Options such as `--config.train.steps=100` then change single
values. `validation.validate` refuses impossible values.
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

MAX_PIXELS = 2**27  # 134 million; limits the memory that one untrusted file can take
MAX_BATCH = 2**20  # images; a larger number is surely a mistake
PIXEL_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")


@dataclass
class DataConfig:
    """The images: which are normal, which are tested, and how they become uint8 or uint16 `[H, W, C]`."""

    #: "tfds" (a TFDS data set, by name), "folder" (read in place) or "memory" (`train(..., data=...)`).
    source: str = "tfds"
    name: str = "cifar10"  #: TFDS data set, e.g. "mnist", "mvtec_ad/bottle", or any other with classes
    path: str = ""  #: the path of a folder, or of the original MVTec AD (else $DAAD_MVTEC_DIR)
    data_dir: str = ""  #: TFDS directory or gs://...; empty: $TFDS_DATA_DIR, else ~/tensorflow_datasets
    cache_dir: str = ""  #: folder of decoded images; empty: $DAAD_CACHE_DIR, else ~/.cache/daad_jax
    #: "one_class": `normal_class` is normal, and all other classes are anomalous. "leave_one_out": the
    #: reverse, `normal_class` is anomalous. "inspection": the source itself says which images are anomalous.
    protocol: str = "one_class"
    normal_class: str = "automobile"  #: class name or number, for one_class and leave_one_out
    height: int = 32  #: height of the images that the model gets, in pixels
    width: int = 32  #: width of these images
    channels: int = 3  #: 1 (grey) or 3 (RGB); images are converted
    #: Images of other sizes: "exact" refuses them, "pad" keeps their aspect and pads their edges, "resize"
    #: stretches them. "aspect" finds the size from the usual shape of the training images: the shorter side
    #: is `height` = `width`, and the longer one follows.
    fit: str = "exact"
    tiles: int = 0  #: side of the overlapping tiles into which large images are cut; 0: they are not cut
    normal: str = ""  #: folders or patterns of good images, with commas between; "*": all; empty: usual names
    anomalous: str = ""  #: as `normal`, for anomalous images
    masks: str = ""  #: as `normal`, for the masks that mark the defects of anomalous images
    test_fraction: float = 0.2  #: share of good images to test, if a folder has only anomalous ones to test
    calibration_fraction: float = 0.1  #: share of the normal training images to hold out, drawn by the seed
    #: Which images belong together: they all train, or they are all held out. "" (each image for itself),
    #: "folder", a regular expression with one group that is searched in the image's path, or FILE.csv:COLUMN.
    group: str = ""
    on_bad_image: str = "stop"  #: at an unreadable image: "stop", or "skip" (the image is named and counted)
    #: The pixel values that become 0 and 1. "auto": found from the training images. "type": the full range of
    #: the files' type. "LOW,HIGH": these values. "TYPE:LOW,HIGH": these values for files of that type
    #: (uint16, float32, ...); several types are joined by ";". Files of another type have the full range of
    #: their type.
    range: str = "auto"
    bits: int = 0  #: depth of prepared images: 8, 16, or 0 for 16 if training images have more than 8
    max_pixels: int = MAX_PIXELS  #: a larger image is refused before its memory is allocated
    mixed_channels: str = "convert"  #: if a folder has grey and colour files: "convert" or "stop"
    limit_train: int = 0  #: use N training images at most, drawn by the seed; 0: all
    limit_test: int = 0  #: as `limit_train`, for each label of the test images
    flip_horizontal: bool = False  #: flip each training image with a probability of 1/2
    flip_vertical: bool = False  #: as `flip_horizontal`, upside down
    shift: int = 0  #: largest random shift of training images in pixels; edges are continued

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """The pixel values that become 0 and 1, for each type of file; the key "" stands for every type.

        Files of a type without a key have the full range of their type.

        Raises:
            UserError: `range` is none of the forms above.
        """
        if self.range in ("auto", "type"):
            return {}
        ranges = {}
        for part in self.range.split(";"):
            name, colon, limits = part.rpartition(":")
            try:
                low, high = map(float, limits.split(","))
            except ValueError:
                low = high = math.nan
            if (
                not (math.isfinite(low) and math.isfinite(high) and low < high)
                or name in ranges
                or (name not in PIXEL_TYPES if colon else ";" in self.range)
            ):
                raise UserError(
                    f"config.data.range = {self.range!r}: must be 'auto', 'type', 'LOW,HIGH' or "
                    f"'TYPE:LOW,HIGH', with LOW below HIGH, and TYPE one of {', '.join(PIXEL_TYPES)}"
                )
            ranges[name] = (low, high)
        return ranges

    @property
    def prepared_type(self) -> str:
        """The type of prepared images, "uint8" or "uint16". Older runs without `bits` have uint8."""
        return "uint16" if self.bits == 16 else "uint8"

    @property
    def augments(self) -> bool:
        """True if training images are flipped or shifted."""
        return self.flip_horizontal or self.flip_vertical or self.shift > 0

    @property
    def cache_directory(self) -> Path:
        """The folder of the cache, which may not exist yet and is safe to delete.

        Raises:
            UserError: a URL was given.
        """
        chosen = self.cache_dir or os.environ.get("DAAD_CACHE_DIR") or "~/.cache/daad_jax"
        if "://" in chosen:
            raise UserError(
                f"{chosen}: config.data.cache_dir and DAAD_CACHE_DIR must name a folder of a mounted file "
                "system, not a URL"
            )
        return Path(chosen).expanduser()


@dataclass
class ModelConfig:
    """The networks and the memories. Scale 1 is the bottleneck; scales 2, 3, ... are the skips, upwards."""

    levels: int = 4  #: how often the generator halves the size of the map
    base_width: int = 64  #: channels at full resolution; each level has twice as many
    max_width: int = 512  #: the largest number of channels of a layer
    #: Whether scales 2 to `levels` (1/8, 1/4 and 1/2 of the size) have a skip; the full resolution has none.
    skips: tuple[bool, ...] = (True, True, True)
    #: Items of each scale; 0: features pass unchanged. With "coreset": at most, for each entry of `blocks`.
    memory_items: tuple[int, ...] = (500, 500, 500, 500)
    #: Blocks of each scale by height, width and channels. 0: the whole axis; (0, 0, 1) is pixel-wise (MemAE).
    division: tuple[tuple[int, int, int], ...] = ((1, 1, 1), (1, 1, 1), (2, 2, 1), (4, 4, 1))
    temperature: float = 1.0  #: the memories' weights are softmax(cos / temperature); 1: the paper
    shrink: float = 0.0  #: MemAE's hard-shrinkage threshold on the weights; 0: the paper
    discriminator_width: int = 64  #: channels of the first layer; each further layer has twice as many
    #: What the memories read: "" (pixels, the paper) or the features of a frozen network, a name of
    #: EXTRACTORS in `extractors/extractor.py`.
    features: str = ""
    feature_weights: str = ""  #: a file of weights or a name on a hub; "": the installed package of weights
    #: Layers of the frozen network, for each entry of `blocks`; empty: layers that suit the network, for all.
    feature_layers: tuple[tuple[int, ...], ...] = ()
    #: Whether the features of the whole image include standard deviations over all places, beside the means.
    spread: bool = True
    #: The unit of features: "raw", "standardised" (over the training images, each channel has mean 0 and
    #: standard deviation 1) or "whitened" (the channels are uncorrelated, too).
    feature_scaling: str = "standardised"
    neighbourhood: int = 1  #: side of the square over which each place of a map is averaged; odd
    #: The sides of the blocks in pixels, one per memory; 0 is the whole image. If the items are learned,
    #: there is one entry: the blocks are the places of the map that the generator reconstructs.
    blocks: tuple[int, ...] = (16,)
    #: "learned" together with the networks, or "coreset": blocks of the training images, spread evenly over
    #: all blocks. A coreset has no networks: each memory is compared with the features that it reads.
    items: str = "learned"
    nearest: int = 1  #: with "coreset": how many nearest items are read; the mean of their distances counts
    #: With "coreset": the distance between the upper and the lower edge of an image, in typical distances of
    #: two blocks. 0: the place of a block does not count. Below 0: 0 or 1, whichever finds more corruptions
    #: of training images.
    place_weight: float = 0.0


@dataclass
class LossConfig:
    """L = reconstruction * E||x - x^|| + adversarial * L_adv + alignment * E||f(x) - f(x^)||."""

    reconstruction: float = 50.0  #: weight of the distance between image and reconstruction
    adversarial: float = 1.0  #: weight of the adversarial loss
    alignment: float = 1.0  #: weight of the feature distance; both 0: no discriminator (DAAD without "+")
    distance: str = "squared"  #: "squared" (mean square) or "l2" (the paper's plain norm)
    generator: str = "non_saturating"  #: or "minimax" (the paper's log(1 - D(x^)))


@dataclass
class TrainConfig:
    """The optimisation, its log and its checkpoints."""

    steps: int = 2000  #: how many batches train the networks
    batch_size: int = 64  #: images of a batch, over all devices and processes
    learning_rate: float = 2e-4  #: learning rate of Adam, for both networks
    beta1: float = 0.5  #: Adam's decay of the mean of the gradients
    beta2: float = 0.999  #: Adam's decay of the mean of the squared gradients
    schedule: str = "constant"  #: the learning rate is "constant", or falls to zero ("cosine")
    warmup_steps: int = 0  #: how many steps the learning rate rises at the start
    #: Not in the paper: how the generator's input is degraded. The output must restore it. "grey" (no
    #: colour), "turns" (turned) or "grey_turns", see `method/restoration.py`; "": not degraded.
    restore: str = ""
    #: Precision of the products in the convolutions, in training: "float32" or "bfloat16". Memories, norms,
    #: losses and parameters are float32, but on a TPU memories multiply in this precision, too.
    #: `score.precision` is the precision in scoring.
    precision: str = "float32"
    steps_per_call: int = 1  #: steps in one call of the device; more than 1 is faster for small models
    log_every: int = 50  #: steps between two lines of the log
    checkpoint_every: int = 500  #: steps between two checkpoints
    max_to_keep: int = 3  #: how many checkpoints are kept
    devices: int = 0  #: local devices to use; 0: all


@dataclass
class ScoreConfig:
    """A(x) = gamma * R(x) + (1 - gamma) * L(x), each in units of held-out normal images."""

    gamma: float = 0.9  #: the weight of R, 0 to 1; the weight of L is the rest
    #: R, a name of DISTANCES in `scoring/distances.py`: "l2" (the paper), "squared", "cosine" (ignores the
    #: strength of the light) or "correlation" (ignores brightness and contrast).
    distance: str = "l2"
    #: L, a name of ALIGNMENTS there: "l2" (the paper, of f_D) or "layers" (ours: of all layers, relative).
    alignment: str = "l2"
    smoothing: float = 0.0  #: sigma in pixels of a Gaussian on both images before comparing
    #: Ours: R is the power mean of the squares of its heat map, with this exponent. 1 is the paper: all
    #: places count the same. With 8, nearly only the worst places count, which finds small defects.
    pooling: int = 1
    #: With "coreset": the weight of each memory in R; empty: all the same. Large blocks decide better whether
    #: an image has a defect.
    weights: tuple[float, ...] = ()
    heat_weights: tuple[float, ...] = ()  #: as `weights`, for the heat map; small blocks locate defects
    heat_smoothing: float = 0.02  #: sigma of the heat map's Gaussian, a share of the shorter side
    false_alarm_rate: float = 0.05  #: the threshold flags at most this share of normal images
    #: Precision of the networks' products in scoring: "float32" (the same scores on every device) or "device"
    #: (faster on a TPU or a GPU; the device rounds in its own way, in calibration, too).
    precision: str = "float32"
    #: Images that a device scores at once. 0 chooses 8, or more if images are small. On features, 0 chooses
    #: one image for every two cores of a CPU, at most 8.
    batch_size: int = 0


@dataclass
class Config:
    """The configuration of one run."""

    name: str = "default"  #: the default workdir is runs/ and this name
    seed: int = 0  #: draws the held-out images, the initial weights, the batches and the augmentation
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)

    @property
    def uses_coreset(self) -> bool:
        """True if the items are taken from the data, and nothing is learned."""
        return self.model.items == "coreset"

    @property
    def uses_discriminator(self) -> bool:
        """True if a loss of the discriminator has a weight."""
        if self.uses_coreset:
            return False
        return self.loss.adversarial > 0 or self.loss.alignment > 0


CHECKSUM = "sha256"  # the key of the checksum in a run's `config.json`


def to_json(config: Config) -> str:
    """Returns the configuration as JSON text, with all defaults."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(text: str) -> Config:
    """Reads a configuration from the text of `to_json`. `validation.validate` checks its values.

    A checksum in the text (`CHECKSUM`) is not compared, because users may edit a copy of `config.json`.

    Raises:
        UserError: the text is not JSON, or this version does not know a key, or a value has another type.
    """
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the stored configuration is not JSON: {error}") from error
    if isinstance(tree, dict):
        tree.pop(CHECKSUM, None)
    config: Config = _build(Config, tree, "config")
    check_types(config)
    return config


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested tables under dotted keys."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def all_keys() -> list[str]:
    """Returns the dotted keys of all values: "name", "data.height", ..."""
    return list(_keys(Config, ""))


def nearest_key(key: str) -> str:
    """Returns the known key that is most similar to `key`; "" if no key is similar."""
    return nearest(key, all_keys(), 0.5)


def _keys(cls: Any, prefix: str) -> typing.Iterator[str]:
    for name, hint in typing.get_type_hints(cls).items():
        yield prefix + name
        if dataclasses.is_dataclass(hint):
            yield from _keys(hint, f"{prefix}{name}.")


def _build(cls: Any, tree: Any, key: str) -> Any:
    """Makes an instance of the dataclass `cls` from `tree` (parsed JSON). Lists become tuples."""
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


def check_types(node: Any, key: str = "config") -> None:
    """Checks that every value has the type that its dataclass names.

    Raises:
        UserError: a value has another type. The message names the key of the first such value.
    """
    for name, hint in typing.get_type_hints(type(node)).items():
        value = getattr(node, name)
        if dataclasses.is_dataclass(hint):
            check_types(value, f"{key}.{name}")
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
