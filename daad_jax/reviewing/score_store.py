"""The scores and small pictures of a folder, kept in a file so that a review starts again at once.

The file may be deleted at any time: the images are then scored anew.
"""

import sqlite3
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from daad_jax.errors import UserError
from daad_jax.terminal import warn

FORMAT = 1
MAX_THUMBNAIL_BYTES = 2**31  # of all thumbnails together; further ones are made whenever they are shown
TABLES = """
    CREATE TABLE IF NOT EXISTS about (key TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS scores (
        id TEXT PRIMARY KEY, stamp TEXT NOT NULL, reconstruction REAL NOT NULL, alignment REAL NOT NULL,
        clipped INTEGER NOT NULL, sha256 TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS thumbnails (id TEXT PRIMARY KEY, stamp TEXT NOT NULL, content BLOB NOT NULL);
"""


class StoredScore(NamedTuple):
    """The distances R and L of an image, which need no calibration; `sha256` is that of its file."""

    reconstruction: float
    alignment: float
    clipped: bool
    sha256: str


class ScoreStore:
    """Scores and thumbnails by the id and the stamp of their image. Any thread may call any method.

    Args:
        file: the SQLite file. A damaged one is made anew, and so is one that belongs to another model.
        key: tells the model whose distances they are.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, file: Path, key: str) -> None:
        self._lock, self._file, self._key = threading.Lock(), file, f"{FORMAT} {key}"
        try:
            self._connection = self._open()
        except sqlite3.Error as error:
            warn(f"{file}: cannot be used ({error}); the images are scored anew")
            for each in (file, file.with_name(file.name + "-journal")):
                with suppress(OSError):
                    each.unlink()
            try:
                self._connection = self._open()
            except sqlite3.Error as again:
                raise UserError(f"{file}: cannot be written ({again}); give another --out") from again
        self._bytes = self._connection.execute("SELECT TOTAL(LENGTH(content)) FROM thumbnails").fetchone()[0]

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file, check_same_thread=False)
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            # After a lost machine the file may be damaged, and is then made anew.
            connection.execute("PRAGMA synchronous = OFF")
            connection.executescript(TABLES)
            keys = connection.execute("SELECT key FROM about").fetchall()
            if keys != [(self._key,)]:
                connection.executescript("DELETE FROM about; DELETE FROM scores; DELETE FROM thumbnails;")
                connection.execute("INSERT INTO about VALUES (?)", (self._key,))
            connection.commit()
        except BaseException:
            connection.close()
            raise
        return connection

    def read_scores(self) -> dict[tuple[str, str], StoredScore]:
        """All scores, by id and stamp."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT id, stamp, reconstruction, alignment, clipped, sha256 FROM scores"
            ).fetchall()
        return {(row[0], row[1]): StoredScore(row[2], row[3], bool(row[4]), row[5]) for row in rows}

    def write_scores(self, scores: Iterable[tuple[str, str, StoredScore]]) -> None:
        """Keeps scores: ids, stamps and distances. Raises UserError if the disk takes no more."""
        rows: list[tuple[object, ...]] = [(id_, stamp, *score) for id_, stamp, score in scores]
        self._write("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?)", rows)

    def read_thumbnail(self, id_: str, stamp: str) -> bytes | None:
        """The thumbnail of an image in this state, if it is kept."""
        with self._lock:
            found = self._connection.execute(
                "SELECT content FROM thumbnails WHERE id = ? AND stamp = ?", (id_, stamp)
            ).fetchone()
        return bytes(found[0]) if found else None

    def write_thumbnail(self, id_: str, stamp: str, content: bytes) -> None:
        """Keeps a thumbnail with the next scores, if there is room for it."""
        with self._lock:
            if self._bytes + len(content) > MAX_THUMBNAIL_BYTES:
                return
            self._bytes += len(content)
            with suppress(sqlite3.Error):  # `write_scores` says so
                self._connection.execute(
                    "INSERT OR REPLACE INTO thumbnails VALUES (?, ?, ?)", (id_, stamp, content)
                )

    def _write(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        with self._lock:
            try:
                self._connection.executemany(statement, rows)
                self._connection.commit()
            except sqlite3.Error as error:
                raise UserError(f"{self._file}: cannot be written ({error}); make room there") from error

    def close(self) -> None:
        with self._lock, suppress(sqlite3.Error):
            self._connection.commit()
            self._connection.close()
