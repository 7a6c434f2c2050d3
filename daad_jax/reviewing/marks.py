"""Keeps the marks of the inspector in `labels.csv`, a line for each mark.

The file only grows, and a line is on the disk before the next mark. The last line of an image counts. An
undone mark adds a line, too. The marks are in no other place.
"""

import csv
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from daad_jax.errors import UserError
from daad_jax.escaping import table_row
from daad_jax.files import explain_write_errors
from daad_jax.terminal import warn

GOOD, DEFECT, UNSURE, NO_MARK = "good", "defect", "unsure", "none"
MARKS = (GOOD, DEFECT, UNSURE, NO_MARK)
MARK, UNDO = "mark", "undo"
COLUMNS = ("time", "action", "mark", "name", "score", "calibration", "id", "sha256")
MAX_FILE_BYTES = 2**30
REMEDY = "make room or correct its permissions, and mark the image again"
FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)  # O_BINARY: no "\r\n" on Windows
_ID = re.compile(r"i[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Line(NamedTuple):
    """The cells of a line of `labels.csv` that are read again."""

    action: str
    mark: str
    id: str
    sha256: str


class About(NamedTuple):
    """Facts about an image that a line repeats beside the mark.

    Attributes:
        name: the name of the image.
        sha256: the SHA-256 of the image's file, hexadecimal.
        score: the anomaly score.
        calibration: the id of the calibration behind the score.
    """

    name: str
    sha256: str
    score: float
    calibration: str


class Marked(NamedTuple):
    """The id of an image, and its new mark (`NO_MARK`: none)."""

    id: str
    mark: str


class Marks:
    """The marks of a folder, in memory and in `labels.csv`. Any thread may call any method.

    Args:
        file: `labels.csv`; the first mark makes the file.

    Raises:
        UserError: the file cannot be read, is no list of marks, or is larger than 1 GiB.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, threading.Lock()
        self._marks: dict[str, str] = {}
        self._sha256: dict[str, str] = {}
        self._done: list[Marked] = []  # for `undo`: the image of each mark, with its earlier mark
        self._changes: list[Marked] = []  # all marks and undos of this session, in their order
        self._size = 0
        if file.exists():
            self._read()

    def get(self, id_: str, sha256: str) -> str:
        """Returns the mark of an image; `NO_MARK` if the file had other content when it was marked."""
        with self._lock:
            mark = self._marks.get(id_, NO_MARK)
            return mark if self._sha256.get(id_) == sha256 else NO_MARK

    def is_of_other_content(self, id_: str, sha256: str) -> bool:
        """Whether the mark of an image does not count, because its file has changed since."""
        with self._lock:
            return self._marks.get(id_, NO_MARK) != NO_MARK and self._sha256[id_] != sha256

    @property
    def change_count(self) -> int:
        """How many marks and undos this session has seen."""
        return len(self._changes)

    def changes_since(self, count: int) -> list[Marked]:
        """The marks and undos of this session after the first `count`, in their order."""
        return self._changes[count:]

    def mark(self, id_: str, mark: str, about: About, shown: str | None = None) -> Marked:
        """Marks an image. The mark is on the disk when this method returns.

        Args:
            id_: the id of the image.
            mark: one of `MARKS`.
            about: the other cells of the line.
            shown: the mark that the page shows; None: the mark is not compared.

        Raises:
            UserError: the image has neither the mark that the page shows nor this one, or the line could not
                be written. The mark then does not count.
        """
        with self._lock:
            before = self._marks.get(id_, NO_MARK) if self._sha256.get(id_) == about.sha256 else NO_MARK
            if shown not in (None, before) and before != mark:
                was_done = f"marked {before}" if before != NO_MARK else "unmarked"
                raise UserError(
                    f"In another window, this image was {was_done}. Your mark is not saved; press the key "
                    "again to save it."
                )
            self._append(MARK, id_, mark, about)
            self._done.append(Marked(id_, before))
            return Marked(id_, mark)

    def undo(self, about: Callable[[str], About | None], change_count: int | None = None) -> Marked | None:
        """Gives the image that was marked last its earlier mark.

        Args:
            about: returns the other cells of an image's line, given its id; None if the image is not in the
                folder. A mark stays as it is if its image is not there, or has changed.
            change_count: how many changes the page has seen; None: the count is not compared.

        Returns:
            The image and its mark now; None if there is nothing to undo.

        Raises:
            UserError: the page has not seen the last change; or see `mark`.
        """
        with self._lock:
            if change_count not in (None, len(self._changes)):
                raise UserError(
                    "In another window, images were marked since. Nothing is taken back; press the key again "
                    "to take the last of these marks back."
                )
            while self._done:
                id_, before = self._done[-1]
                found = about(id_)
                if found and found.sha256 == self._sha256[id_]:
                    self._append(UNDO, id_, before, found)
                    return self._done.pop()
                self._done.pop()
            return None

    def _append(self, action: str, id_: str, mark: str, about: About) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        cells = [now, action, mark, about.name, about.score, about.calibration, id_, about.sha256]
        line = table_row(cells)
        self._write(line if self._size else table_row(COLUMNS) + line)
        self._marks[id_], self._sha256[id_] = mark, about.sha256
        self._changes.append(Marked(id_, mark))

    def _write(self, text: str) -> None:
        """Appends a text to the file, and waits until the disk has the text."""
        is_new = not self._size
        content = text.encode("utf-8")
        with explain_write_errors(self._file, REMEDY):
            descriptor = os.open(self._file, FLAGS)
            try:
                if os.fstat(descriptor).st_size != self._size:
                    raise UserError(
                        f"{self._file}: another program has changed this file; close that program, and start "
                        "the review again"
                    )
                try:
                    if os.write(descriptor, content) != len(content):
                        raise OSError("the disk took only a part of the line")
                    os.fsync(descriptor)
                except OSError:
                    os.ftruncate(descriptor, self._size)
                    raise
            finally:
                os.close(descriptor)
            if is_new:
                _sync_folder(self._file.parent)
        self._size += len(content)

    def _read(self) -> None:
        """Reads the lines of earlier reviews, and repairs a last line that a kill has cut."""
        content = _repair(self._file)
        self._size = len(content)
        if not content:
            return
        header, *lines = content.decode("utf-8-sig", "replace").rstrip("\n").split("\n")
        if all(tuple(cells) != COLUMNS for cells in _split(header)):
            raise UserError(
                f"{self._file}: is no list of marks (its columns are others); move this file away"
            )
        problems = []
        for number, text in enumerate(lines, 2):
            if line := _parse(text):
                self._replay(line)
            elif text.strip():
                problems.append(f"line {number}")
        if problems:
            warn(
                f"{self._file}: {len(problems)} line(s) are no marks and do not count, such as {problems[0]}"
            )

    def _replay(self, line: Line) -> None:
        if line.action == UNDO:
            if self._done and self._done[-1].id == line.id:
                self._done.pop()
        else:
            is_same = self._sha256.get(line.id) == line.sha256
            self._done.append(Marked(line.id, self._marks[line.id] if is_same else NO_MARK))
        self._marks[line.id], self._sha256[line.id] = line.mark, line.sha256


def _split(text: str) -> Iterator[list[str]]:
    """Yields the cells of a line by both delimiters, because a spreadsheet may have saved the file."""
    for delimiter in ",;":
        with suppress(csv.Error):
            yield next(csv.reader([text.rstrip("\r")], delimiter=delimiter), [])


def _parse(text: str) -> Line | None:
    """Makes a `Line` from a text; returns None if `Marks` cannot have written it."""
    for row in _split(text):
        if len(row) == len(COLUMNS):
            cells: Mapping[str, str] = dict(zip(COLUMNS, row))
            line = Line(cells["action"], cells["mark"], cells["id"], cells["sha256"])
            is_known = line.action in (MARK, UNDO) and line.mark in MARKS
            if is_known and _ID.fullmatch(line.id) and _SHA256.fullmatch(line.sha256):
                return line
    return None


def _repair(file: Path) -> bytes:
    """Returns the content of `labels.csv`, and repairs its last line if the line has no end.

    A whole line gets its end; a cut line is removed. No mark is lost that the page reported as saved: the
    page reports a mark only when its whole line is on the disk.
    """
    with explain_write_errors(file, "correct its permissions"), file.open("r+b") as opened:
        if os.fstat(opened.fileno()).st_size > MAX_FILE_BYTES:
            raise UserError(f"{file}: this file is too large for a list of marks; move it away")
        content = opened.read()
        if not content or content.endswith(b"\n"):
            return content
        start = content.rfind(b"\n") + 1
        torn = content[start:].decode("utf-8", "replace")
        if start and _parse(torn):
            content += b"\n"
            opened.seek(0, os.SEEK_END)
            opened.write(b"\n")
        else:
            warn(f"{file}: its last line was cut when a review was killed, and is removed: {torn[:200]!r}")
            content = content[:start]
            opened.truncate(start)
        opened.flush()
        os.fsync(opened.fileno())
    return content


def _sync_folder(folder: Path) -> None:
    """Waits until the entry of a new file in this folder is on the disk. Only POSIX systems need this."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
