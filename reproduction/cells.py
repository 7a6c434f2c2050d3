"""What a table is made of: a cell is one row (a trivial score, a variant) of one subject with one seed."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daad_jax import config as config_lib
from daad_jax.config import Config, ModelConfig
from daad_jax.data.catalogue import CATEGORIES, CELL_TYPES, DIGITS, OBJECTS, SOLAR_CELLS
from daad_jax.errors import UserError, did_you_mean
from daad_jax.recipes import load_recipe
from daad_jax.validation import validate
from daad_jax.variants import VARIANTS

# Scores without a network, that a figure of ours has to beat: see baselines.py.
BASELINES = ("mean_intensity", "nearest_cosine", "nearest_l2")
# Blocks along both axes of every scale, as far as its map has pixels.
DIVISIONS = {"1x1": 1, "2x2": 2, "4x4": 4, "8x8": 8, "pixels": 0}
TITLES = {
    "mean_intensity": "mean intensity",
    "nearest_cosine": "nearest image, cosine",
    "nearest_l2": "nearest image, L2",
    **{name: variant.title for name, variant in VARIANTS.items()},
    "1x1": "one block",
    "2x2": "2 x 2 blocks",
    "4x4": "4 x 4 blocks",
    "8x8": "8 x 8 blocks",
    "pixels": "pixel-wise",
}

# What does not change a result: how it is called, where things lie, what is watched. The subject and
# the seed stand beside a recipe.
NOT_OF_RECIPE = (
    "name", "seed", "data.name", "data.normal_class", "data.path", "data.data_dir", "data.cache_dir",
    "train.log_every", "train.checkpoint_every", "train.max_to_keep", "train.devices",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table of results.

    `subjects` are its classes or categories (each one is a `noun`), `usual` those that run unless others
    are asked for, `shown` the one whose pictures are shown. Images of sets that may not be spread
    (`free` is False) appear in no picture beside the results.
    """

    name: str
    recipe_name: str
    title: str
    noun: str
    subjects: tuple[str, ...]
    usual: tuple[str, ...]
    shown: str
    variants: tuple[str, ...] = tuple(VARIANTS)
    free: bool = True

    @property
    def rows(self) -> tuple[str, ...]:
        return (*BASELINES, *self.variants)


TABLES = {
    table.name: table
    for table in (
        Table("mnist", "mnist", "MNIST", "digit", DIGITS, DIGITS, "8"),
        Table("cifar10", "cifar10", "CIFAR-10", "class", OBJECTS, OBJECTS, "automobile"),
        Table("mvtec_ad", "mvtec_ad", "MVTec AD", "category", CATEGORIES, CATEGORIES, "bottle", free=False),
        Table("solar_cells", "solar_cells", "Solar cells", "kind", SOLAR_CELLS, CELL_TYPES, "mono", free=False),  # noqa: E501
        Table("granularity", "mnist", "Granularity", "digit", DIGITS, ("8",), "8", tuple(DIVISIONS)),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One number of a table before it is known. `seed` is None where nothing is random."""

    table: Table
    subject: str
    row: str
    seed: int | None
    config: Config

    @property
    def key(self) -> tuple[str, str, int]:
        """As that of its `Result`."""
        return self.subject, self.row, -1 if self.seed is None else self.seed

    @property
    def label(self) -> str:
        """For people: "mnist 8 daad seed 0"."""
        words = [self.table.name, self.subject, self.row]
        return " ".join(words + [f"seed {self.seed}"] * (self.seed is not None))

    @property
    def recipe(self) -> str:
        """A digest of all that the result depends on, beside the subject and the seed.

        It is that of the values that differ from the defaults, so a key that is added later, and off by
        default, leaves it as it is.
        """
        default = config_lib.flat(recipe_of(dataclasses.replace(self, config=Config())))
        changed = {k: v for k, v in config_lib.flat(recipe_of(self)).items() if v != default[k]}
        return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:10]

    def folder(self, out: Path) -> Path:
        """Where the cell lives."""
        return folder_of(out, self.table, self.subject, self.row, self.seed, self.recipe)


def folder_of(out: Path, table: Table, subject: str, row: str, seed: int | None, recipe: str) -> Path:
    """A folder for each cell, another one for each recipe."""
    words = [subject, row, *([] if seed is None else [f"seed{seed}"]), recipe]
    return out / table.name / "-".join(words)


def recipe_of(cell: Cell) -> dict[str, Any]:
    """The configuration without what does not change a result; a baseline depends on its data alone."""
    tree = json.loads(config_lib.to_json(cell.config))  # as it will be stored
    for key in NOT_OF_RECIPE:
        node, _, leaf = key.rpartition(".")
        del (tree[node] if node else tree)[leaf]
    model = tree["model"]  # nothing is divided or addressed where nothing is remembered
    model["division"] = [
        cuts if items else [1, 1, 1] for cuts, items in zip(model["division"], model["memory_items"])
    ]
    if not any(model["memory_items"]):
        model |= {"temperature": ModelConfig.temperature, "shrink": ModelConfig.shrink}
    if cell.row in BASELINES:
        tree = {"data": tree["data"], "score": {"heat_smoothing": tree["score"]["heat_smoothing"]}}
    return tree


def table_named(name: str) -> Table:
    """Raises UserError with the nearest name where there is none of this one."""
    (name,) = _known("table", [name], tuple(TABLES))
    return TABLES[name]


def make_cell(table: Table, subject: str, row: str, seed: int | None, smoke: bool) -> Cell:
    """A cell as its file in configs/ has it; a division of the granularity table is of variant daad."""
    variant = row if row in VARIANTS else "daad"
    words = ",".join([subject, variant] + ["smoke"] * smoke)
    config = load_recipe(f"{table.recipe_name}:{words}")
    if row in DIVISIONS:
        config.model.division = divided(config, DIVISIONS[row])
    config.seed = seed or 0
    validate(config)
    return Cell(table, subject, row, seed, config)


def divided(config: Config, blocks: int) -> tuple[tuple[int, int, int], ...]:
    """Division rates of at most `blocks` along both axes at every scale, bottleneck first; 0: pixel-wise."""
    data, levels = config.data, config.model.levels
    rates = []
    for scale in range(levels):
        height, width = (size // 2 ** (levels - scale) for size in (data.height, data.width))
        rates.append((min(blocks or height, height), min(blocks or width, width), 1))
    return tuple(rates)


def choose(
    table: Table, only: Sequence[str], rows: Sequence[str], seeds: Sequence[str], smoke: bool
) -> list[Cell]:
    """The cells to run: all of the first seed, then all of the next, so that an early end leaves a table.

    Args:
        table: of which.
        only: subjects; empty: the usual ones.
        rows: of the table; empty: all.
        seeds: decimal numbers.
        smoke: in seconds instead of minutes, to see that it works.

    Raises:
        UserError: an unknown name (with the nearest one), or an impossible seed.
    """
    subjects = _known(table.noun, only, table.subjects) if only else list(table.usual)
    wanted = _known("variant", rows, table.rows) if rows else list(table.rows)
    numbers = list(dict.fromkeys(_seed(seed) for seed in seeds))
    if not numbers:
        raise UserError("--seeds is empty; for instance --seeds=0,1,2")
    still = [(s, r, None) for s in subjects for r in wanted if r in BASELINES]
    random = [(s, r, n) for n in numbers for s in subjects for r in wanted if r not in BASELINES]
    return [make_cell(table, *cell, smoke) for cell in (*still, *random)]


def _seed(text: str) -> int:
    if not (text.strip().isdecimal() and int(text) < 2**31):
        raise UserError(f"--seeds: {text!r} is no number between 0 and 2^31 - 1")
    return int(text)


def _known(noun: str, names: Sequence[str], known: tuple[str, ...]) -> list[str]:
    for name in names:
        if name not in known:
            raise UserError(f"{name!r}: no such {noun}; {did_you_mean(name, known)}")
    return list(dict.fromkeys(names))
