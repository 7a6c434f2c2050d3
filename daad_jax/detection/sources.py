"""Finds the files to score in the files, folders and patterns of the user, and keeps an account of them."""

import errno
import hashlib
import json
import os
import stat
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from daad_jax import buckets
from daad_jax.data.account import LEFT_OUT, UNREADABLE, Tally, shorten
from daad_jax.data.image_files import ImageFile, find_pages, list_pages
from daad_jax.data.samples import AccountRow, FileRecord
from daad_jax.data.walk import NOT_REGULAR, WalkedFile, classify, walk
from daad_jax.detection.patterns import expand
from daad_jax.errors import UserError
from daad_jax.training.workdir import DATA_FILE

TO_SCORE = "to score"


def find(sources: Sequence[str], leave_out: Path | None = None) -> Iterator[Path]:
    """Yields the image files of `sources`, in order.

    Args:
        sources: files, folders (with all their sub-folders) and patterns.
        leave_out: folders and patterns pass over the files below this folder.

    Raises:
        UserError: a source does not exist or has no images, or a folder cannot be listed.
    """
    return (file.path for _, file in list_files(sources, leave_out) if not file.reason)


def list_files(sources: Sequence[str], leave_out: Path | None = None) -> Iterator[tuple[str, WalkedFile]]:
    """Yields every file of `sources`, also files that are no images, while the caller iterates.

    A file that the user names counts as an image, even if its name has another ending. So does every file
    that a pattern matches, unless opening the file could wait for ever.

    Args:
        sources: see `find`.
        leave_out: see `find`.

    Yields:
        (the folder or pattern that names the file, the file).

    Raises:
        UserError: see `find`.
    """
    for source in sources:
        if not source:
            raise UserError("an image or folder has an empty name; give '.' for the current folder")
        path, reasons = buckets.open_place(source), Counter[str]()
        mode = _mode_of(path)
        if stat.S_ISDIR(mode):
            group, files = source, walk(path, leave_out)
        elif mode:
            if not stat.S_ISREG(mode):
                raise UserError(f"{source}: {NOT_REGULAR}; give files, folders or a pattern in quotes")
            group, files = str(path.parent), iter([WalkedFile(path, source)])
        else:
            group, files = source, _find_matches(source, leave_out)
        has_images = False
        for file in files:
            if file.reason:
                reasons[file.reason] += 1
            has_images |= not file.reason
            yield group, file
        if not has_images:
            what = f" ({describe_left_out(reasons)})" if reasons else ""
            raise UserError(
                f"{source}: this folder has no images{what}"
                if stat.S_ISDIR(mode)
                else f"{source}: there is no such file or folder, and no file matches this pattern{what}"
            )


def list_images(sources: Sequence[str], leave_out: Path | None = None) -> Iterator[ImageFile]:
    """Yields the images of `sources`, in order; a file may have several. Raises UserError, see `find`."""
    for path in find(sources, leave_out):
        yield from list_pages(path)


def _mode_of(path: Path) -> int:
    """Returns the mode of a file, as `os.stat` does; 0 if there is no such file.

    Raises:
        UserError: the system refuses access.
    """
    if buckets.is_in_bucket(path):
        with buckets.os_errors(path):
            return stat.S_IFDIR if path.is_dir() else stat.S_IFREG if path.exists() else 0
    try:
        return path.stat().st_mode
    except ValueError:  # no file can have this name
        return 0
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            return 0
        raise UserError(f"{path}: {error.strerror}; correct its permissions, or give another file") from error


def _find_matches(pattern: str, leave_out: Path | None) -> Iterator[WalkedFile]:
    if buckets.is_in_bucket(pattern):
        yield from _find_objects(pattern, leave_out)
        return
    excluded = leave_out and Path(os.path.realpath(leave_out))
    walked: set[Path] = set()
    for match in map(Path, expand(pattern)):
        if excluded and Path(os.path.realpath(match)).is_relative_to(excluded):
            continue
        if not walked.isdisjoint(match.parents):
            continue  # another match is a folder that it is in
        if match.is_dir():
            walked.add(match)
            yield from walk(match, leave_out)
        else:
            reason = "" if match.is_file() else classify(match)[0]
            yield WalkedFile(match, str(match), reason)


def _find_objects(pattern: str, leave_out: Path | None) -> Iterator[WalkedFile]:
    """Does the work of `_find_matches` in a bucket."""
    walked: set[Path] = set()
    for match in buckets.glob(pattern):
        if not walked.isdisjoint(match.parents):
            continue  # another match is a folder that it is in
        if match.is_dir():
            walked.add(match)
            yield from walk(match, leave_out)
        elif not (leave_out and match.is_relative_to(leave_out)):
            yield WalkedFile(match, str(match))


def describe_left_out(reasons: Counter[str]) -> str:
    """Says how many files are left out, and why: "3 files were left out: 2 hidden, 1 empty file"."""
    count = sum(reasons.values())
    listed = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
    return f"{count} file{' was' if count == 1 else 's were'} left out: {listed}"


class Account:
    """Counts the files to score, and writes a record of each file into `data.json`.

    A record is a line, and is written as soon as its file is scored or left out. Millions of files therefore
    need no memory.
    """

    def __init__(self, sources: Sequence[str], leave_out: Path) -> None:
        """Counts the files.

        Args:
            sources: files, folders and patterns.
            leave_out: a folder whose files are passed over.

        Raises:
            UserError: see `find`.
        """
        self._sources, self._leave_out = sources, leave_out
        self._tallies: dict[str, Tally] = defaultdict(Tally)
        names = hashlib.sha256()
        for group, file in list_files(sources, self._leave_out):
            names.update(os.fsencode(f"{file.path}\0{file.reason}\0"))
            tally = self._tallies[group]
            tally.files += 1
            images = 0 if file.reason else find_pages(file.path)
            tally.images += images
            tally.used += images
            tally.left_out[file.reason] += bool(file.reason)
        self.digest = names.hexdigest()  # the SHA-256 of the names of all files
        # The thread that lists files fills both queues; the thread that writes empties them.
        self._groups: deque[str] = deque()
        self._left_out: deque[FileRecord] = deque()
        self._errors: list[str] = []  # the errors of one file's pages, until its last page

    @property
    def count(self) -> int:
        """The number of images to score."""
        return sum(tally.images for tally in self._tallies.values())

    @property
    def rows(self) -> list[AccountRow]:
        """A row for each folder or pattern of `sources`."""
        return shorten([tally.to_row(TO_SCORE, group) for group, tally in self._tallies.items()])

    @property
    def left_out(self) -> Counter[str]:
        """The number of files that are left out, for each reason."""
        reasons: Counter[str] = Counter()
        for tally in self._tallies.values():
            reasons.update({reason: n for reason, n in tally.left_out.items() if n and reason != UNREADABLE})
        return reasons

    def find(self) -> Iterator[ImageFile]:
        """Yields the images to score, and notes the files that are left out."""
        for group, file in list_files(self._sources, self._leave_out):
            if file.reason:
                self._left_out.append(FileRecord(str(file.path), LEFT_OUT, images=0, reason=file.reason))
            else:
                for image in list_pages(file.path):
                    self._groups.append(group)
                    yield image

    @contextmanager
    def recording(self, out: Path) -> Iterator[None]:
        """Writes `data.json` into `out`, for a block that calls `write` for each image.

        Raises:
            OSError: the file cannot be written.
        """
        partial = out / f".{DATA_FILE}.partial"
        try:
            with partial.open("w", encoding="utf-8") as self._file:
                self._file.write('{"files": [')
                self._separator = "\n"
                yield
                self._write_left_out()
                rows = [asdict(row) for row in self.rows]
                self._file.write(f'\n],\n"rows": {json.dumps(rows)}\n}}\n')
            os.replace(partial, out / DATA_FILE)
        finally:
            partial.unlink(missing_ok=True)

    def write(self, image: ImageFile, error: str, sha256: str) -> None:
        """Notes the next image, which was scored or is unreadable. All images of a file share one record.

        Args:
            image: the image.
            error: why the image could not be read; "" if it was scored.
            sha256: the SHA-256 of the file, hexadecimal.
        """
        self._write_left_out()
        tally = self._tallies[self._groups.popleft()]
        if error:
            tally.used -= 1
            tally.left_out[UNREADABLE] += 1
            self._errors.append(error)
        if image.page + 1 < image.pages:
            return
        reason = self._errors[0] if self._errors else ""
        if reason and image.pages > 1:
            reason = f"{len(self._errors)} of its {image.pages} images: {reason}"
        self._errors = []
        self._write_record(FileRecord(str(image.path), TO_SCORE, image.pages, reason=reason, sha256=sha256))

    def _write_left_out(self) -> None:
        while self._left_out:
            self._write_record(self._left_out.popleft())

    def _write_record(self, record: FileRecord) -> None:
        self._file.write(self._separator + json.dumps(asdict(record)))
        self._separator = ",\n"
