"""Defines the options of a benchmark of one run, and stores its results."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from daad_jax import files
from daad_jax.detection.sources import list_images


def make_parser(name: str, description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Returns a parser with the options that benchmarks of a run share.

    Args:
        name: the name of the benchmark, after `python -m benchmarks`.
        description: the text for --help.
        rounds: the default of --rounds, the turns of each competitor.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", type=Path, required=True, help="the folder of a trained run")
    parser.add_argument("--images", type=Path, required=True, help="a folder of images, with sub-folders")
    parser.add_argument("--rounds", type=int, default=rounds, help="turns; default: %(default)s")
    parser.add_argument("--docs", type=Path, help="the folder of performance.json, to store the results")
    return parser


def find_images(folder: Path) -> list[Path]:
    """Returns the image files of a folder and of its sub-folders, in the order of their names."""
    return sorted({image.path for image in list_images([str(folder)])})


def store(docs: Path, section: str, workdir: Path, rows: Any, **facts: Any) -> None:
    """Stores the rows of a run and facts about it in a section of performance.json, and writes the page."""
    from benchmarks import performance_page

    stored = docs / "performance.json"
    records = json.loads(stored.read_text()) if stored.is_file() else {}
    versions = performance_page.versions() | {"load of the machine": f"{os.getloadavg()[0]:.0f}"}
    records.setdefault(section, {})[workdir.absolute().name] = {"rows": rows, "versions": versions} | facts
    files.write_text(stored, json.dumps(records, indent=1))
    performance_page.write(records, docs)
