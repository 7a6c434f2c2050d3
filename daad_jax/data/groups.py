"""Finds images that belong together, such as several photos of one part (`config.data.group`)."""

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

import numpy as np

from daad_jax.buckets import is_in_bucket, open_place, read_bytes
from daad_jax.config import DataConfig
from daad_jax.errors import UserError, did_you_mean

FOLDER = "folder"
TABLE = re.compile(r"(.+\.(?:csv|tsv)):(.+)", re.IGNORECASE | re.DOTALL)
NAME_COLUMNS = ("name", "file", "path")
DELIMITERS = ",;\t"
PAGE = re.compile(r"(.+)#\d+", re.DOTALL)  # the name of a page of a file that holds several images
EXAMPLES_IN_NOTE = 3


@dataclass(frozen=True)
class Groups:
    """The groups of N images.

    Attributes:
        numbers: images with equal numbers belong together, int64 `[N]`. Groups are numbered in the order in
            which they appear.
        is_found: False if `config.data.group` gives an image no group, bool `[N]`. Such an image is a group
            of its own.
        notes: sentences for the user.
    """

    numbers: np.ndarray
    is_found: np.ndarray
    notes: list[str]


@dataclass(frozen=True)
class Grouping:
    """A way to group images.

    Attributes:
        setting: `config.data.group`.
        find: returns the name of an image's group, given the image's name; None if there is no group.
        names: the images that a table names; None if there is no table.
    """

    setting: str
    find: Callable[[str], str | None]
    names: frozenset[str] | None = None

    def group(self, names: list[str]) -> Groups:
        """Groups N images by their names."""
        numbers_by_key: dict[tuple[bool, str], int] = {}
        numbers, is_found = np.zeros(len(names), np.int64), np.zeros(len(names), bool)
        for i, name in enumerate(names):
            found = self.find(name)
            is_found[i] = found is not None
            key = (True, found) if found is not None else (False, name)
            numbers[i] = numbers_by_key.setdefault(key, len(numbers_by_key))
        return Groups(numbers, is_found, self._note_rows_without_image(names))

    def _note_rows_without_image(self, names: list[str]) -> list[str]:
        if self.names is None:
            return []
        present = {key for name in names for key in _table_keys(name)}
        absent = sorted(self.names - present)
        if not absent:
            return []
        count = (
            "1 row names an image that is" if len(absent) == 1 else f"{len(absent)} rows name images that are"
        )
        return [f"config.data.group = {self.setting!r}: {count} not in the data: {_examples(absent)}."]


def open_grouping(config: DataConfig) -> Grouping | None:
    """Opens the grouping that `config.group` names; None if each image is for itself.

    Raises:
        UserError: a bad pattern, or a table that is missing or cannot be decided.
    """
    setting = config.group
    if not setting:
        return None
    if setting == FOLDER:
        return Grouping(setting, lambda name: str(PurePath(name).parent))
    if match := TABLE.fullmatch(setting):
        return _open_table(setting, _find_table(config.path, match[1]), match[2])
    return _open_pattern(setting)


def describe(
    groups: Groups, names: list[str], normal: np.ndarray, held_out: np.ndarray, setting: str
) -> list[str]:
    """Makes sentences about the groups of normal training images, and about images without a group.

    Args:
        groups: the groups of N images.
        names: the names of the N images.
        normal: indices of the normal training images.
        held_out: indices of the held-out ones among them.
        setting: `config.data.group`.

    Raises:
        UserError: none of the normal training images has a group.
    """
    alone = normal[~groups.is_found[normal]]
    if len(alone) == len(normal):
        raise UserError(
            f"config.data.group = {setting!r}: gives a group to none of the {len(normal)} normal training "
            f"images, such as {names[normal[0]]}; correct the pattern or the names in the table, or use "
            "'folder'"
        )
    _, sizes = np.unique(groups.numbers[normal], return_counts=True)
    held = len(np.unique(groups.numbers[held_out]))
    each = f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"
    notes = [
        f"config.data.group = {setting!r}: the {len(normal)} normal training images are in {len(sizes)} "
        f"groups of {each}; {held} {'group is' if held == 1 else 'groups are'} held out."
    ]
    if len(alone):
        shown = _examples([names[i] for i in alone])
        notes.append(
            f"config.data.group = {setting!r}: gives no group to {len(alone)} of these images, so each of "
            f"them counts as a group of its own: {shown}."
        )
    return notes + groups.notes


def _open_pattern(setting: str) -> Grouping:
    """Groups by a regular expression. Raises UserError if the expression is wrong, or has not one group."""
    known = "'folder', a regular expression with one group in parentheses, or FILE.csv:COLUMN"
    if setting.lower().endswith((".csv", ".tsv")):
        raise UserError(
            f"config.data.group = {setting!r}: names no column of the table; give FILE.csv:COLUMN"
        )
    try:
        pattern = re.compile(setting)
    except re.error as error:
        raise UserError(
            f"config.data.group = {setting!r}: not a regular expression ({error}); give {known}"
        ) from error
    if pattern.groups != 1:
        raise UserError(
            f"config.data.group = {setting!r}: has {pattern.groups} groups in parentheses, but must have "
            f"one; give {known}; (?:...) is no group"
        )

    def find(name: str) -> str | None:
        match = pattern.search(PurePath(name).as_posix())
        return match[1] if match else None

    return Grouping(setting, find)


def _find_table(folder: str, table: str) -> Path:
    """Returns the file of a table. A relative path begins at the folder of the images."""
    if is_in_bucket(table):
        return open_place(table)
    return open_place(folder).expanduser() / Path(table).expanduser()


def _open_table(setting: str, file: Path, column: str) -> Grouping:
    """Groups by a table. Raises UserError if the table cannot be read, or contradicts itself."""
    where = f"config.data.group = {setting!r}: {file}"
    try:
        # A file's name may be no valid text. "surrogateescape" keeps its bytes.
        content = io.BytesIO(read_bytes(file))
        text = io.TextIOWrapper(content, encoding="utf-8-sig", errors="surrogateescape").read()
    except FileNotFoundError as error:
        raise UserError(
            f"{where}: this file does not exist; give its path relative to config.data.path, or an absolute "
            "path"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: cannot be read ({error}); give a readable table") from error
    try:
        group_of = _read_rows(text, column)
    except (UserError, csv.Error) as error:
        raise UserError(f"{where}: {error}") from error

    def find(name: str) -> str | None:
        return next((group_of[key] for key in _table_keys(name) if key in group_of), None)

    return Grouping(setting, find, frozenset(group_of))


def _read_rows(text: str, column: str) -> dict[str, str]:
    """Reads the group of every image that a table names.

    Raises:
        UserError: a column is missing or there are several for the names, a row is too short or has an empty
            cell, or two rows give one image different groups.
        csv.Error: the text is no table.
    """
    first_line = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=first_line.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = [cell.strip() for cell in next(rows, [])]
    if column not in header:
        raise UserError(f"has no column {column!r}; {did_you_mean(column, header)}")
    if header.count(column) > 1:
        raise UserError(f"has {header.count(column)} columns {column!r}; rename all but one")
    group_at = header.index(column)
    name_at = [i for i, cell in enumerate(header) if cell.lower() in NAME_COLUMNS and i != group_at]
    if len(name_at) != 1:
        raise UserError(
            f"has {len(name_at)} columns for the images' paths, but must have one, called "
            f"{', '.join(NAME_COLUMNS[:-1])} or {NAME_COLUMNS[-1]}"
        )
    group_of: dict[str, str] = {}
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        cells = [row[i].strip() if i < len(row) else "" for i in (name_at[0], group_at)]
        if not all(cells):
            raise UserError(
                f"line {rows.line_num} has no {'group' if cells[0] else 'path of an image'}; complete or "
                "remove it"
            )
        name = _normalise(cells[0])
        if group_of.setdefault(name, cells[1]) != cells[1]:
            raise UserError(
                f"line {rows.line_num} puts {name} into group {cells[1]!r}, an earlier line into "
                f"{group_of[name]!r}; remove one of them"
            )
    if not group_of:
        raise UserError("has no rows below its header; add one row for every image")
    return group_of


def _table_keys(name: str) -> list[str]:
    """Returns the names that a table may use for an image: its own name, or the file's name of a page."""
    match = PAGE.fullmatch(name)
    return [_normalise(name), *([_normalise(match[1])] if match else [])]


def _normalise(path: str) -> str:
    """Rewrites a relative path of any system with slashes: ".\\a\\b.png" becomes "a/b.png"."""
    return str(PurePosixPath(path.replace("\\", "/")))


def _examples(names: list[str]) -> str:
    more = [f"and {len(names) - EXAMPLES_IN_NOTE} more"] if len(names) > EXAMPLES_IN_NOTE else []
    return ", ".join([*names[:EXAMPLES_IN_NOTE], *more])
