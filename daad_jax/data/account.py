"""The account of a data set: the role of each file, how many images are used, and why others are not."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from daad_jax.data import samples
from daad_jax.data.samples import Account, AccountRow, FileRecord
from daad_jax.escaping import for_terminal

# The roles of files. Files of the first four roles hold images.
TRAINING, HELD_OUT, TEST_GOOD, TEST_ANOMALOUS = "training", "held out", "test, good", "test, anomalous"
MASK, LEFT_OUT = "mask", "left out"
IMAGE_ROLES = (TRAINING, HELD_OUT, TEST_GOOD, TEST_ANOMALOUS)
ROLES = (*IMAGE_ROLES, MASK, LEFT_OUT)
# Why images are not used, besides the reasons in the records of the files.
UNREADABLE = "unreadable"
LIMITED = "beyond config.data.limit_train or limit_test"
NOT_NORMAL_OR_LIMITED = "not normal, unreadable, or beyond a limit"

COLUMNS = ("role", "folder", "files", "images", "masks", "used", "left out")
MAX_ROWS = 11
MAX_REASONS = 4  # reasons that a row names; it counts the files with other reasons together
MAX_FOLDER_WIDTH = 40  # characters on the terminal


@dataclass
class Tally:
    """A row of the account while files are counted."""

    files: int = 0
    images: int = 0
    masks: int = 0
    used: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def to_row(self, role: str, folder: str) -> AccountRow:
        return AccountRow(role, folder, self.files, self.images, self.masks, self.used, dict(+self.left_out))


def role_of(part: str, is_good: bool) -> str:
    """Returns the role of an image in a part."""
    if part != samples.TEST:
        return HELD_OUT if part == samples.HELD_OUT else TRAINING
    return TEST_GOOD if is_good else TEST_ANOMALOUS


def of_files(
    files: Sequence[FileRecord],
    skipped: Mapping[str, list[str]],
    used: Counter[str],
    reasons: Mapping[str, str],
) -> Account:
    """Makes the account of a folder.

    Args:
        files: the record of each file.
        skipped: why images could not be read, by the name of their file.
        used: how many images of a file train, are held out or are tested, by the name of the file.
        reasons: why other images of a file are not used, by its name; `LIMITED` if there is no reason.
    """
    tallies: dict[tuple[str, str], Tally] = defaultdict(Tally)
    explained = []
    for file in files:
        tally = tallies[file.role, file.name.rpartition("/")[0] or "."]
        tally.files += 1
        if file.role in IMAGE_ROLES:
            unread = skipped.get(file.name, [])
            tally.images += file.images
            tally.masks += file.masks
            tally.used += used[file.name]
            tally.left_out[UNREADABLE] += len(unread)
            rest = file.images - used[file.name] - len(unread)
            why = reasons.get(file.name, LIMITED)
            tally.left_out[file.reason.partition(": ")[2] or why] += rest
            file = replace(file, reason=_explain(file, unread, used[file.name], why))
        elif file.reason:
            tally.left_out[file.reason] += 1
        else:
            tally.used += 1
        explained.append(file)
    in_order = sorted(tallies.items(), key=lambda item: (ROLES.index(item[0][0]), item[0][1]))
    return Account(shorten([tally.to_row(*key) for key, tally in in_order]), explained)


def _explain(file: FileRecord, unread: list[str], used: int, why: str) -> str:
    """Says why images of a file are not used; "" if all are."""
    if unread:
        return unread[0] if file.images == 1 else f"{len(unread)} of its {file.images} images: {unread[0]}"
    return file.reason or ("" if used else why)


def of_parts(rows: Iterable[tuple[str, str, int, int]]) -> Account:
    """Makes the account of a source without files of its own.

    Args:
        rows: (role, part, number of images, number of used images).
    """
    return Account(
        [
            AccountRow(
                role, part, None, images, 0, used, dict(+Counter({NOT_NORMAL_OR_LIMITED: images - used}))
            )
            for role, part, images, used in rows
        ],
        [],
    )


def shorten(rows: Sequence[AccountRow]) -> list[AccountRow]:
    """Shortens a table to MAX_ROWS rows, by joining all rows of a role.

    The role with the most rows comes first. If two roles have equally many rows, the later role comes first.
    """
    rows = _put_together(rows, LEFT_OUT)
    while len(rows) > MAX_ROWS:
        role, count = Counter(row.role for row in reversed(rows)).most_common(1)[0]
        if count == 1:
            break
        rows = _put_together(rows, role)
    return rows


def _put_together(rows: Sequence[AccountRow], role: str) -> list[AccountRow]:
    """Joins the rows of a role, which follow each other, to one row."""
    own = [row for row in rows if row.role == role]
    if len(own) < 2:
        return list(rows)
    files = [row.files for row in own if row.files is not None]
    reasons: Counter[str] = Counter()
    for row in own:
        reasons.update(row.left_out)
    merged = AccountRow(
        role,
        f"{len(own)} folders",
        sum(files) if files else None,
        sum(row.images for row in own),
        sum(row.masks for row in own),
        sum(row.used for row in own),
        dict(reasons),
    )
    first = next(number for number, row in enumerate(rows) if row.role == role)
    return [*rows[:first], merged, *(row for row in rows[first:] if row.role != role)]


def to_tree(account: Account) -> dict[str, Any]:
    """Returns the account in the form that is stored as JSON."""
    return {"rows": [asdict(row) for row in account.rows], "files": [asdict(f) for f in account.files]}


def count_reasons(reasons: Mapping[str, int]) -> str:
    """Lists reasons with their counts, the commonest first: "10 not an image (.txt), 2 hidden"."""
    commonest = Counter(reasons).most_common()
    listed = [f"{count} {reason}" for reason, count in commonest[:MAX_REASONS]]
    if rest := sum(count for _, count in commonest[MAX_REASONS:]):
        listed.append(f"{rest} for other reasons")
    return ", ".join(listed)


def cells_of(row: AccountRow) -> tuple[str, ...]:
    """Returns the texts of a row, a text for each of `COLUMNS`."""
    numbers = (row.files, row.images or None, row.masks or None, row.used)
    texts = ("-" if number is None else str(number) for number in numbers)
    return row.role, row.folder, *texts, count_reasons(row.left_out)


def format_table(rows: Sequence[AccountRow]) -> str:
    """Formats rows as lines for the terminal, below a line with the names of the columns."""
    lines = [COLUMNS, *(_fit_folder(cells_of(row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    is_text = {0, 1, len(COLUMNS) - 1}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in is_text else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )


def _fit_folder(cells: tuple[str, ...]) -> tuple[str, ...]:
    """Cuts the beginning of a long path."""
    role, folder, *others = map(for_terminal, cells)
    is_long = len(folder) > MAX_FOLDER_WIDTH
    return role, "..." + folder[3 - MAX_FOLDER_WIDTH :] if is_long else folder, *others
