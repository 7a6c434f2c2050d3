"""Keeps the scores and thumbnails of a folder in a file, so that the next review starts at once.

You may delete the file between reviews: the next review scores the images again.
"""

import math
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from daad_jax.errors import UserError
from daad_jax.terminal import warn

FORMAT = 1
MAX_THUMBNAIL_BYTES = 2**31  # of all thumbnails; further thumbnails are made each time they are shown
TABLES = """
    CREATE TABLE IF NOT EXISTS about (key TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS scores (
        id TEXT PRIMARY KEY, stamp TEXT NOT NULL, reconstruction REAL NOT NULL, alignment REAL NOT NULL,
        clipped INTEGER NOT NULL, sha256 TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS thumbnails (id TEXT PRIMARY KEY, stamp TEXT NOT NULL, content BLOB NOT NULL);
"""


class StoredScore(NamedTuple):
    """The distances R and L of an image, which do not depend on a calibration.

    Attributes:
        reconstruction: R.
        alignment: L.
        clipped: whether pixels lay outside the range of the run.
        sha256: the SHA-256 of the image's file, hexadecimal.
    """

    reconstruction: float
    alignment: float
    clipped: bool
    sha256: str


class ScoreStore:
    """Keeps scores and thumbnails by the id and the stamp of their image. Any thread may call any method.

    Args:
        file: the SQLite file. A file that is damaged, or that belongs to another model, is emptied.
        key: a text that differs between models with different distances.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, file: Path, key: str) -> None:
        self._lock, self._file, self._key = threading.Lock(), file, f"{FORMAT} {key}"
        try:
            self._connection = self._open()
        except sqlite3.Error as error:
            warn(f"{file}: cannot be used ({error}); the images are scored again")
            for each in (file, file.with_name(file.name + "-journal")):
                with suppress(OSError):
                    each.unlink()
            try:
                self._connection = self._open()
            except sqlite3.Error as again:
                raise UserError(f"{file}: cannot be written ({again}); give another --out") from again

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file, check_same_thread=False)
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            # A power cut can damage the file now. This is no loss: the images are scored again.
            connection.execute("PRAGMA synchronous = OFF")
            connection.executescript(TABLES)
            keys = connection.execute("SELECT key FROM about").fetchall()
            if keys != [(self._key,)]:
                connection.executescript("DELETE FROM about; DELETE FROM scores; DELETE FROM thumbnails;")
                connection.execute("INSERT INTO about VALUES (?)", (self._key,))
            connection.commit()
            _read_scores(connection)  # a file with damaged rows is emptied, too
            self._bytes = connection.execute("SELECT TOTAL(LENGTH(content)) FROM thumbnails").fetchone()[0]
        except BaseException:
            connection.close()
            raise
        return connection

    def read_scores(self) -> dict[tuple[str, str], StoredScore]:
        """Returns all scores, by id and stamp."""
        with self._lock:
            return _read_scores(self._connection)

    def write_scores(self, scores: Iterable[tuple[str, str, StoredScore]]) -> None:
        """Keeps (id, stamp, score) of images. Raises UserError if the file cannot be written."""
        rows: list[tuple[object, ...]] = [(id_, stamp, *score) for id_, stamp, score in scores]
        self._write("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?)", rows)

    def read_thumbnail(self, id_: str, stamp: str) -> bytes | None:
        """Returns the thumbnail of an image; None if none is kept for this stamp, or the file is damaged."""
        with self._lock, suppress(sqlite3.Error):
            found = self._connection.execute(
                "SELECT content FROM thumbnails WHERE id = ? AND stamp = ?", (id_, stamp)
            ).fetchone()
            if found and isinstance(found[0], bytes):
                return found[0]
        return None

    def write_thumbnail(self, id_: str, stamp: str, content: bytes) -> None:
        """Keeps a thumbnail, unless all thumbnails would take over `MAX_THUMBNAIL_BYTES`."""
        with self._lock:
            if self._bytes + len(content) > MAX_THUMBNAIL_BYTES:
                return
            self._bytes += len(content)
            with suppress(sqlite3.Error):  # `write_scores` then raises the same error
                self._connection.execute(
                    "INSERT OR REPLACE INTO thumbnails VALUES (?, ?, ?)", (id_, stamp, content)
                )

    def _write(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        with self._lock:
            try:
                self._connection.executemany(statement, rows)
                self._connection.commit()
            except sqlite3.Error as error:
                raise UserError(
                    f"{self._file}: cannot be written ({error}); make room there, "
                    "or delete this file, and start the review again"
                ) from error

    def close(self) -> None:
        with self._lock, suppress(sqlite3.Error):
            self._connection.commit()
            self._connection.close()


def _read_scores(connection: sqlite3.Connection) -> dict[tuple[str, str], StoredScore]:
    """Returns all scores, by id and stamp. Raises sqlite3.Error if a row cannot be one of ours."""
    scores = {}
    for id_, stamp, reconstruction, alignment, clipped, sha256 in connection.execute(
        "SELECT id, stamp, reconstruction, alignment, clipped, sha256 FROM scores"
    ):
        try:
            distances = float(reconstruction), float(alignment)
        except (TypeError, ValueError):
            distances = math.nan, math.nan
        if not all(map(math.isfinite, distances)):
            raise sqlite3.DatabaseError(f"the score of {id_!r} is no number")
        scores[id_, stamp] = StoredScore(*distances, bool(clipped), sha256)
    return scores
