"""Writes the table of scored images: `scores.csv` and `scores.jsonl`."""

import json
import os
from pathlib import Path
from typing import Any

from daad_jax.escaping import table_row
from daad_jax.files import explain_write_errors

COLUMNS = ("name", "score", "p_value", "R", "L", "verdict", "calibration", "overlay", "error")
REMEDY = "give another --out"
Row = dict[str, Any]  # the results of one image, by column


class ScoreTable:
    """Writes each row into both files at once. `scores.csv` gets its name at the end."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._partial = out / ".scores.csv.partial"
        out.mkdir(parents=True, exist_ok=True)
        # "x" fails if another command has begun to write into the same folder.
        self._jsonl = (out / "scores.jsonl").open("x", encoding="utf-8", buffering=1)
        self._file = self._partial.open("w", encoding="utf-8", newline="")
        self._file.write(table_row(COLUMNS))

    def __enter__(self) -> "ScoreTable":
        return self

    def write(self, row: Row) -> None:
        self._jsonl.write(json.dumps(row) + "\n")
        self._file.write(table_row(row.get(column, "") for column in COLUMNS))

    def __exit__(self, kind: Any, *_: Any) -> None:
        with explain_write_errors(self._out, REMEDY):
            self._jsonl.close()
            self._file.close()
            if kind is None:
                os.replace(self._partial, self._out / "scores.csv")
            else:
                self._partial.unlink(missing_ok=True)
