"""The layout of the library: which folder may import which, and that no name is used twice."""

import ast
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "daad_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# What each part of the package may import of the others. Files at the top are parts of their own; `__init__`,
# `__main__`, `entry` and `commands` put everything together.
MAY_IMPORT = {
    "errors": set(),
    "held_signals": set(),
    "escaping": set(),
    "buckets": {"errors"},
    "uploads": {"buckets", "errors"},
    "terminal": {"escaping"},
    "config": {"errors"},
    "files": {"buckets", "errors", "uploads"},
    "variants": {"config", "errors"},
    "recipes": {"config", "errors"},
    "models": {"config", "errors"},
    "extractors": {"config", "errors", "files"},
    "method": {"extractors", "models", "config", "errors"},
    "runtime": {"config", "endings", "errors", "terminal"},
    "scoring": {"extractors", "method", "models", "runtime", "config", "errors"},
    "validation": {"extractors", "method", "scoring", "config", "errors"},
    "data": {"buckets", "config", "errors", "escaping", "files", "terminal"},
    "training": {
        "buckets",
        "uploads",
        "data",
        "extractors",
        "method",
        "runtime",
        "scoring",
        "validation",
        "config",
        "errors",
        "escaping",
        "files",
        "terminal",
    },
    "detection": {
        "buckets",
        "uploads",
        "data",
        "method",
        "runtime",
        "scoring",
        "training",
        "config",
        "errors",
        "escaping",
        "files",
        "terminal",
    },
    "evaluation": {
        "buckets",
        "data",
        "detection",
        "runtime",
        "scoring",
        "training",
        "config",
        "errors",
        "escaping",
        "files",
        "terminal",
    },
    "serving": {"data", "detection", "scoring", "config", "errors", "terminal"},
    "reviewing": {
        "data",
        "detection",
        "scoring",
        "serving",
        "training",
        "buckets",
        "config",
        "errors",
        "escaping",
        "files",
        "terminal",
    },
    "selection": {"data", "method", "scoring", "training", "config", "errors", "terminal"},
    "export": {
        "data",
        "detection",
        "extractors",
        "method",
        "models",
        "scoring",
        "training",
        "validation",
        "config",
        "errors",
        "files",
        "terminal",
    },
    "run_commands": {
        "buckets",
        "reviewing",
        "serving",
        "detection",
        "evaluation",
        "export",
        "training",
        "cli",
        "config",
        "errors",
        "terminal",
    },
    "endings": {"buckets", "errors", "escaping"},
    "cluster_options": {"runtime", "errors"},
    "cli": {"buckets", "recipes", "runtime", "config", "endings", "errors", "held_signals"},
}
ABOVE_ALL = {"__init__", "__main__", "commands", "entry"}
NOT_OF_THE_LIBRARY = {"reproduction", "benchmarks", "configs", "examples", "maintenance", "tests"}


def part_of(path: Path) -> str:
    """The folder of the package that a file is in, or its own name if the file is at the top."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports_of(path: Path, top_level_only: bool = False) -> set[str]:
    """The dotted names of all modules that a file imports, also inside functions unless `top_level_only`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def parts_imported(path: Path) -> set[str]:
    parts = {part_of(p) for p in FILES}
    modules = {name.split(".")[1] for name in imports_of(path) if name.startswith("daad_jax.")}
    return modules & parts - {part_of(path)}


def test_every_part_has_a_rule():
    assert {part_of(path) for path in FILES} == set(MAY_IMPORT) | ABOVE_ALL


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_its_rule_allows(part):
    for path in FILES:
        if part_of(path) == part:
            assert parts_imported(path) <= MAY_IMPORT[part], path.relative_to(ROOT)


def test_the_rules_have_no_circle():
    order: list[str] = []
    while left := [part for part in MAY_IMPORT if part not in order]:
        free = [part for part in left if MAY_IMPORT[part] <= set(order)]
        assert free, f"a circle among {left}"
        order += free


def test_the_library_imports_nothing_of_the_repository():
    for path in FILES:
        top = {name.split(".")[0] for name in imports_of(path)}
        assert not top & NOT_OF_THE_LIBRARY, path.relative_to(ROOT)


def test_orbax_has_one_door():
    importing = [path for path in FILES if any(n.split(".")[0] == "orbax" for n in imports_of(path))]
    assert importing == [PACKAGE / "training" / "checkpoint.py"]


def test_data_knows_no_jax():
    for path in FILES:
        if part_of(path) == "data":
            assert not any(n.split(".")[0] in ("jax", "flax") for n in imports_of(path)), path


def test_scoring_models_and_method_know_no_files():
    for path in FILES:
        if part_of(path) in ("models", "method", "scoring"):
            assert not imports_of(path) & {"pathlib", "os", "shutil", "io", "tempfile"}, path


def test_what_runs_before_the_start_up_flags_imports_no_jax():
    """JAX reads the flags of `runtime/startup.py` when it is imported."""
    code = "import sys, daad_jax.commands; daad_jax.load_recipe('mnist:8'); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_no_file_name_is_used_twice():
    stems = [path.stem for path in FILES if path.stem not in ("__init__", "__main__")]
    scripts = [path.stem for path in ROOT.glob("*.py")]
    outside = [p.stem for d in ("reproduction", "benchmarks", "maintenance") for p in (ROOT / d).glob("*.py")]
    names = sorted([*stems, *scripts, *(name for name in outside if not name.startswith("__"))])
    assert [a for a, b in pairwise(names) if a == b] == []


def test_files_fit_a_reader():
    for path in [*FILES, *(ROOT / "reproduction").glob("*.py")]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 360, path
