"""Writes into a bucket: objects that appear whole, several objects together, and files that grow."""

import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from daad_jax.buckets import blob, is_in_bucket, os_errors, read_small
from daad_jax.errors import UserError

LEFT_AFTER_S = 86_400.0  # an older upload belongs to a killed command
SYNC_S = 30.0  # files that grow are uploaded this often


def upload(file: Path, path: Path) -> None:
    """Writes a local file to a path in a bucket. Readers see the old object or the whole new object.

    Raises:
        OSError: the object cannot be written.
    """
    with os_errors(path):
        blob(path).upload_from_filename(str(file))


@contextmanager
def uploading(path: Path) -> Iterator[Path]:
    """Yields a temporary local file, which is uploaded to `path` when the block ends without an error."""
    with tempfile.TemporaryDirectory(prefix="daad_jax-") as folder:
        file = Path(folder) / path.name
        yield file
        upload(file, path)


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Yields a file with the content of `path`: a temporary copy of an object in a bucket, or `path` itself.

    Raises:
        OSError: the object cannot be read.
    """
    if not is_in_bucket(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="daad_jax-") as folder:
        file = Path(folder) / path.name
        with os_errors(path):
            blob(path).download_to_filename(str(file))
        yield file


@contextmanager
def uploading_together(folder: Path, name: str) -> Iterator[Path]:
    """Yields a local folder. When the block ends without an error, all its files go to `folder` in a bucket.

    The files are first uploaded below another name. Then the object `.NAME.complete` lists the files, and
    they are copied inside the bucket. If the command is killed during the copies, the next command copies the
    rest.
    """
    finish_uploading(folder, name)
    with tempfile.TemporaryDirectory(prefix="daad_jax-") as local:
        yield Path(local)
        staging = f".{name}.partial-{secrets.token_hex(8)}"
        files = sorted(file for file in Path(local).iterdir() if not file.name.startswith("."))
        for file in files:
            upload(file, folder / staging / file.name)
        journal = json.dumps({"staging": staging, "files": [file.name for file in files]})
        with os_errors(folder):
            while not create(folder / f".{name}.complete", journal):
                finish_uploading(folder, name)
    finish_uploading(folder, name)


def create(path: Path, text: str, generation: int = 0) -> int:
    """Writes an object if it still has the given generation. Generation 0 stands for a missing object.

    Returns:
        The new generation; 0 if another process has written the object in the meantime.
    """
    from google.api_core.exceptions import PreconditionFailed

    written = blob(path)
    try:
        written.upload_from_string(text, "application/json", if_generation_match=generation)
    except PreconditionFailed:
        return 0
    return int(written.generation)


def finish_uploading(folder: Path, name: str) -> None:
    """Finishes a killed `uploading_together`: copies the rest if all files were uploaded.

    Raises:
        UserError: the list of the files is damaged.
        OSError: the bucket cannot be used.
    """
    from google.api_core.exceptions import NotFound

    complete = folder / f".{name}.complete"
    with os_errors(folder):
        _remove_leftovers(folder, name)
        try:
            if (found := read_small(complete)) is None:
                return
            journal = json.loads(found.content)
            staging, files = (str(journal["staging"]), [Path(str(file)).name for file in journal["files"]])
            if not staging.startswith(f".{name}.partial-"):
                raise ValueError("it names another folder")
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{complete}: this object is damaged; remove it") from error
        for file in files:
            with suppress(NotFound):  # another command does the same
                source = blob(folder / staging / file)
                source.bucket.copy_blob(source, source.bucket, blob(folder / file).name)
        for path in (complete, *(folder / staging / file for file in files)):
            with suppress(NotFound):
                blob(path).delete()


def _remove_leftovers(folder: Path, name: str) -> None:
    """Removes the old uploads of killed commands."""
    from google.api_core.exceptions import NotFound

    staged = blob(folder / f".{name}.partial-")
    for found in staged.bucket.list_blobs(prefix=staged.name):
        if (datetime.now(UTC) - found.updated).total_seconds() > LEFT_AFTER_S:
            with suppress(NotFound):  # another command does the same
                found.delete()


class Mirror:
    """A local folder whose files are uploaded to `folder` again when they have changed.

    It serves files that grow, because an object in a bucket cannot grow. If `folder` is on this machine, the
    local folder is `folder` itself. At the end of a `with` block, the rest is uploaded and the local folder
    is removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._is_needed = is_in_bucket(folder)
        self.local = Path(tempfile.mkdtemp(prefix="daad_jax-")) if self._is_needed else folder
        self._uploaded: dict[Path, tuple[int, int]] = {}
        self._synced = time.monotonic()

    def sync(self) -> None:
        """Uploads new and changed files, but no hidden files, which are unfinished. Raises OSError."""
        for file in sorted(self.local.rglob("*")) if self._is_needed else []:
            if file.is_file() and not file.name.startswith("."):
                status = file.stat()
                stamp = status.st_size, status.st_mtime_ns
                if self._uploaded.get(file) != stamp:
                    upload(file, self.folder / file.relative_to(self.local).as_posix())
                    self._uploaded[file] = stamp
        self._synced = time.monotonic()

    def sync_if_due(self) -> None:
        """Calls `sync` if the last call was more than `SYNC_S` seconds ago. Raises OSError."""
        if time.monotonic() - self._synced > SYNC_S:
            self.sync()

    def remove(self) -> None:
        """Removes the local folder, unless it is `folder` itself."""
        if self._is_needed:
            shutil.rmtree(self.local, ignore_errors=True)

    def __enter__(self) -> "Mirror":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.sync()
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be written ({error.strerror or error}); the files are in {self.local}"
            ) from error
        self.remove()
