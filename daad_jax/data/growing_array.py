"""Writes an array to the disk row by row, if the number of rows is not known in advance."""

from pathlib import Path
from typing import Any

import numpy as np

from daad_jax.data.integrity import row_checksums


class GrowingArray:
    """An NPY file to which rows are appended. One thread at a time may use it.

    The rows are written, not mapped. If the disk is full, writing raises an OSError; a mapped file would end
    the process by a signal.

    Args:
        file: the new file.
        row_shape: the shape of each row.
        dtype: the type of the rows.
    """

    def __init__(self, file: Path, row_shape: tuple[int, ...], dtype: Any) -> None:
        self._path, self._row_shape, self._dtype = file, row_shape, np.dtype(dtype)
        self._file = file.open("wb")
        self._write_header(0)
        self._offset = self._file.tell()
        self.checksums: list[int] = []  # the CRC-32 of every row

    def append(self, rows: np.ndarray) -> int:
        """Writes rows `[n, *row_shape]`, and returns the number of the first one."""
        first = len(self.checksums)
        rows = np.ascontiguousarray(rows, self._dtype)
        self._file.write(rows.data)
        self.checksums += row_checksums(rows)
        return first

    def finish(self) -> np.memmap:
        """Writes the number of rows into the header, closes the file, and opens it read-only.

        Raises:
            OSError: the disk is full.
        """
        self._file.seek(0)
        self._write_header(len(self.checksums))
        assert self._file.tell() == self._offset  # NumPy leaves room for the number of rows
        self._file.close()
        return np.lib.format.open_memmap(self._path, "r")

    def close(self) -> None:
        """Closes the file, also after an error."""
        self._file.close()

    def _write_header(self, count: int) -> None:
        description = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (count, *self._row_shape),
        }
        np.lib.format.write_array_header_1_0(self._file, description)
