"""Defines the tables of results and their cells.

A cell is one row of a table (a baseline or a variant) for one subject and one seed.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daad_jax import config as config_lib
from daad_jax.config import Config, LossConfig, ModelConfig, TrainConfig
from daad_jax.data.catalogue import DATA_SETS, DataSet
from daad_jax.errors import UserError, did_you_mean
from daad_jax.recipes import load_recipe
from daad_jax.validation import validate
from daad_jax.variants import PIXEL_VARIANTS, VARIANTS
from reproduction import inspection

# Scores without a network, see baselines.py. Every figure of a network has to beat these scores.
BASELINES = {
    "mean_intensity": "mean intensity",
    "nearest_cosine": "nearest image, cosine",
    "nearest_l2": "nearest image, L2",
}


@dataclass(frozen=True)
class Division:
    """A row of the granularity table. A feature map has `blocks` blocks along each axis.

    A map with fewer pixels has one block for each pixel. With `blocks` = 0, this holds for all maps.
    """

    title: str
    blocks: int


DIVISIONS = {
    "1x1": Division("one block", 1),
    "2x2": Division("2 x 2 blocks", 2),
    "4x4": Division("4 x 4 blocks", 4),
    "8x8": Division("8 x 8 blocks", 8),
    "pixels": Division("pixel-wise", 0),
}


@dataclass(frozen=True)
class Dirt:
    """A row of the table of dirty training sets.

    `percent` of the training and held-out images have a defect, and count as normal.
    """

    variant: str
    percent: int


# For each data set of the paper: rows below the rows of the paper. They read features of a frozen network
# that was trained on other images.
FEATURE_ROWS = {"cifar10": ("daad_features",)}

DIRT_PERCENTS = (0, 5, 10)  # ascending; the others are compared with the first one
DIRTY_VARIANTS = ("patchcore", "daad_features")
DIRTY = {f"{v}_{percent}": Dirt(v, percent) for v in DIRTY_VARIANTS for percent in DIRT_PERCENTS}

ROW_TITLES = {
    **BASELINES,
    **{name: variant.title for name, variant in VARIANTS.items()},
    **{name: division.title for name, division in DIVISIONS.items()},
    **{name: f"{VARIANTS[row.variant].title}, {row.percent} % defects" for name, row in DIRTY.items()},
}

# The recipe of a cell leaves out these keys. Most of them change no result: names, places, logging and
# checkpoints. The subject and the seed change the result, but a cell names them beside its recipe.
KEYS_OUTSIDE_RECIPE = (
    "name", "seed", "data.name", "data.normal_class", "data.path", "data.data_dir", "data.cache_dir",
    "train.log_every", "train.checkpoint_every", "train.max_to_keep", "train.devices",
)  # fmt: skip
# These keys of the model describe networks. Memories that are filled from the data have no networks.
NETWORK_KEYS = (
    "levels", "base_width", "max_width", "skips", "division", "shrink", "discriminator_width",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table of results of one data set, or of sets from several sources.

    Attributes:
        name: the name on the command line and of the file of results.
        title: the heading in docs/results.md.
        data_set: the data set. Its name is also the name of the recipe of all cells. If the table has parts
            from several sources, each part has its own recipe instead, see `inspection.PARTS`.
        default_subjects: the classes or parts that run if the user names no class or part.
        variants: the rows that train, in their order.
        baselines: the rows that need no training, in their order.
    """

    name: str
    title: str
    data_set: DataSet
    default_subjects: tuple[str, ...]
    variants: tuple[str, ...] = PIXEL_VARIANTS
    baselines: tuple[str, ...] = tuple(BASELINES)

    @property
    def rows(self) -> tuple[str, ...]:
        """The names of all rows: the baselines, then the variants."""
        return (*self.baselines, *self.variants)

    @property
    def noun(self) -> str:
        """The word for one subject, for instance "digit" or "category"."""
        return self.data_set.noun

    @property
    def subjects(self) -> tuple[str, ...]:
        """All classes or parts of the data set."""
        return self.data_set.subjects

    @property
    def picture_subject(self) -> str:
        """The subject whose reconstructions and scores are drawn; "" if the table has no pictures."""
        return "" if self.compares_dirt else self.data_set.default_subject

    @property
    def compares_divisions(self) -> bool:
        """Whether the rows are division rates instead of the paper's methods."""
        return self.variants == tuple(DIVISIONS)

    @property
    def compares_dirt(self) -> bool:
        """Whether the rows are shares of defects among the training images."""
        return self.variants == tuple(DIRTY)

    @property
    def feature_rows(self) -> tuple[str, ...]:
        """The rows below the paper's rows, which read features of a frozen network."""
        return FEATURE_ROWS.get(self.name, ())

    @property
    def has_many_sources(self) -> bool:
        """Whether the subjects come from several sources. Such a table also says what its rows cost."""
        return self.data_set in (inspection.INSPECTION, inspection.DIRTY)


def make_tables(data_sets: Iterable[DataSet]) -> dict[str, Table]:
    """Makes a table for each data set, and then a table for each further question. Returns them by name."""
    tables = [
        Table(
            d.name,
            d.title,
            d,
            d.default_subjects or d.subjects,
            (*PIXEL_VARIANTS, *FEATURE_ROWS.get(d.name, ())),
        )
        for d in data_sets
    ]
    mnist = DATA_SETS["mnist"]
    granularity = Table("granularity", "Granularity", mnist, (mnist.default_subject,), tuple(DIVISIONS))
    parts, dirty = inspection.INSPECTION, inspection.DIRTY
    questions = (
        granularity,
        Table(parts.name, parts.title, parts, parts.subjects, tuple(VARIANTS)),
        Table(dirty.name, dirty.title, dirty, dirty.subjects, tuple(DIRTY), baselines=()),
    )
    return {table.name: table for table in (*tables, *questions)}


TABLES = make_tables(DATA_SETS.values())


@dataclass(frozen=True)
class Cell:
    """One number of a table, before its measurement. `seed` is None for baselines, which are not random."""

    table: Table
    subject: str
    row: str
    seed: int | None
    config: Config

    @property
    def key(self) -> tuple[str, str, int]:
        """The key of the cell's `Result`: subject, row, and seed (-1 for a baseline)."""
        return self.subject, self.row, -1 if self.seed is None else self.seed

    @property
    def label(self) -> str:
        """The cell in words: "mnist 8 daad seed 0"."""
        words = [self.table.name, self.subject, self.row]
        return " ".join(words + [f"seed {self.seed}"] * (self.seed is not None))

    @property
    def recipe(self) -> str:
        """A digest of all values that the result depends on, except the subject and the seed.

        The digest covers only values that differ from the defaults. A new key of the configuration therefore
        changes no digest if its default changes no result.
        """
        default = config_lib.flat(make_recipe(dataclasses.replace(self, config=Config())))
        changed = {k: v for k, v in config_lib.flat(make_recipe(self)).items() if v != default[k]}
        return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:10]

    def folder(self, out: Path) -> Path:
        """Returns the folder of the cell's run, inside `out`."""
        return cell_folder(out, self.table, self.subject, self.row, self.seed, self.recipe)


def cell_folder(out: Path, table: Table, subject: str, row: str, seed: int | None, recipe: str) -> Path:
    """Returns the folder of a cell's run. Another recipe has another folder."""
    words = [subject, row, *([] if seed is None else [f"seed{seed}"]), recipe]
    return out / table.name / "-".join(words)


def make_recipe(cell: Cell) -> dict[str, Any]:
    """Returns the part of a cell's configuration that its result depends on, as nested dictionaries."""
    # Drop the keys that change no result.
    config = cell.config
    if config.uses_coreset:  # nothing is learned, so the keys of networks and of training change nothing
        unused = {key: getattr(ModelConfig, key) for key in NETWORK_KEYS}
        model = dataclasses.replace(config.model, **unused)
        config = dataclasses.replace(config, model=model, loss=LossConfig(), train=TrainConfig())
    tree = json.loads(config_lib.to_json(config))  # a recipe is stored as JSON
    for key in KEYS_OUTSIDE_RECIPE:
        node, _, leaf = key.rpartition(".")
        del (tree[node] if node else tree)[leaf]

    # A scale without a memory does not divide its map and reads no items.
    network = tree["model"]
    if not config.uses_coreset:
        network["division"] = [
            cuts if items else [1, 1, 1] for cuts, items in zip(network["division"], network["memory_items"])
        ]
    if not any(network["memory_items"]):
        network |= {"temperature": ModelConfig.temperature, "shrink": ModelConfig.shrink}

    # A baseline has no network. Its result depends only on the data and on the smoothing of its heat map.
    if cell.row in BASELINES:
        tree = {"data": tree["data"], "score": {"heat_smoothing": tree["score"]["heat_smoothing"]}}
    return tree


def source_of(table: Table, subject: str) -> tuple[str, str]:
    """Returns the recipe and the word for the images of a subject, for instance ("mvtec_ad", "bottle")."""
    if not table.has_many_sources:
        return table.data_set.name, subject
    part = inspection.PARTS[subject]
    return part.recipe, part.word or subject


def table_named(name: str) -> Table:
    """Returns the table. Raises UserError with the most similar name if there is no such table."""
    _check_names("table", [name], tuple(TABLES))
    return TABLES[name]


def make_cell(table: Table, subject: str, row: str, seed: int | None, smoke: bool) -> Cell:
    """Makes a cell with the configuration of the table's recipe in configs/.

    Args:
        table: the table.
        subject: one of the table's subjects.
        row: one of the table's rows. A row of the granularity table is the variant daad with other division
            rates. A baseline has the data of the variant daad. A row of the dirty table is a variant;
            `dirt.mix_in` adds the defects to its training images later.
        seed: the seed of the cell; None for a baseline.
        smoke: whether to shrink the configuration, so that a cell takes seconds.

    Raises:
        UserError: the recipe does not exist, or its configuration is impossible.
    """
    variant = DIRTY[row].variant if row in DIRTY else row if row in VARIANTS else "daad"
    if table.has_many_sources:
        config = inspection.make_config(subject, variant, smoke)
    else:
        words = ",".join([subject, variant] + ["smoke"] * smoke)
        config = load_recipe(f"{table.data_set.name}:{words}")
    if row in DIVISIONS:
        config.model.division = make_division(config, DIVISIONS[row].blocks)
    config.seed = seed or 0
    validate(config)
    return Cell(table, subject, row, seed, config)


def make_division(config: Config, blocks: int) -> tuple[tuple[int, int, int], ...]:
    """Returns the division rates (r_h, r_w, r_c) of every scale, bottleneck first.

    Args:
        config: the configuration, which has the image size and the number of scales.
        blocks: the number of blocks along both axes. If a map has fewer pixels, it has one block for each
            pixel.
            0: every map has one block for each pixel.
    """
    data, levels = config.data, config.model.levels
    rates = []
    for scale in range(levels):
        height, width = (size // 2 ** (levels - scale) for size in (data.height, data.width))
        rates.append((min(blocks or height, height), min(blocks or width, width), 1))
    return tuple(rates)


def choose(
    table: Table, only: Sequence[str], rows: Sequence[str], seeds: Sequence[str], smoke: bool
) -> list[Cell]:
    """Chooses the cells to run.

    The baselines come first, then all cells of the first seed, then all cells of the next seed. If the run
    stops early, the table is complete for the first seeds.

    Args:
        table: the table.
        only: the subjects; empty for the table's default subjects.
        rows: the names of the rows; empty for all rows.
        seeds: the seeds, as decimal numbers.
        smoke: as in `make_cell`.

    Raises:
        UserError: a name is unknown (the message has the most similar one), or a seed is impossible.
    """
    chosen_subjects = list(dict.fromkeys(only)) or list(table.default_subjects)
    chosen_rows = list(dict.fromkeys(rows)) or list(table.rows)
    _check_names(table.noun, chosen_subjects, table.subjects)
    _check_names("variant", chosen_rows, table.rows)
    numbers = list(dict.fromkeys(_parse_seed(seed) for seed in seeds))
    if not numbers:
        raise UserError("--seeds is empty; for instance --seeds=0,1,2")

    pairs = [(subject, row) for subject in chosen_subjects for row in chosen_rows]
    without_seed = [(subject, row, None) for subject, row in pairs if row in BASELINES]
    with_seed = [(subject, row, n) for n in numbers for subject, row in pairs if row not in BASELINES]
    return [make_cell(table, *key, smoke) for key in (*without_seed, *with_seed)]


def _parse_seed(text: str) -> int:
    if not (text.strip().isdecimal() and int(text) < 2**31):
        raise UserError(f"--seeds: {text!r} is not a whole number between 0 and 2^31 - 1")
    return int(text)


def _check_names(noun: str, names: Sequence[str], known: tuple[str, ...]) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{name!r}: no such {noun}; {did_you_mean(name, known)}")
