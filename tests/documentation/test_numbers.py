"""A measured number on a page comes from a stored figure, or its section says when it was measured."""

import json
import re
from statistics import median

import pytest

from tests.documentation import pages

STORED = "".join((pages.DOCS / name).read_text(encoding="utf-8") for name in ("results.md", "performance.md"))
FIGURE = r"(?<![\d.])[01]?\.\d{3,4}\b"  # an AUROC, for instance
MEASURED = rf"{FIGURE}|\b\d[\d,.]* (?:ms|s|MB|GB|seconds|minutes|hours|images (?:a|per) second)\b"
DATE = r"20\d\d-\d\d-\d\d"
# Bounds of the program, and arithmetic of statistics: nobody has measured these.
TOLERANCES = {"0.0001", "0.001"}  # of exported files
ENGINES = ("daad_jax", "torch", "torch.compile")
NOT_MEASURED = {
    "reliability.md": "limits of time that the program keeps",
    "serving.md": "limits of the server, and an answer with invented numbers",
    "buckets.md": "limits of time that the program keeps",
    "pod.md": "limits of time that the program keeps",
    "scoring.md": "examples of thresholds, and limits that follow from the numbers of images",
    "commands.md": "examples of options",
    "configuration.md": "examples of options",
    "threshold.md": "examples of options",
    "add_score.md": "examples of options",
    "CONTRIBUTING.md": "the limit of time for a fast test",
}
WRITTEN = [page for page in pages.PAGES if page.name not in NOT_MEASURED and page.name not in pages.GENERATED]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_a_measured_number_is_stored_or_dated(page):
    text = page.read_text(encoding="utf-8")
    head, *sections = re.split(r"^##+ ", text, flags=re.MULTILINE)
    for section in (head, *sections):
        if re.search(DATE, head if section is not head else "") or re.search(DATE, section):
            continue
        for number in re.findall(MEASURED, section):
            assert number in TOLERANCES or number in STORED, (
                f"{number} in {section.splitlines()[0]!r}: add the date and the machine"
            )


@pytest.mark.parametrize(("vectors", "group"), [("AVX2", "cpu"), ("AVX-512", "cpu_avx512")])
def test_the_readme_has_the_speeds_that_are_stored(vectors, group):
    stored = json.loads((pages.DOCS / "performance.json").read_text(encoding="utf-8"))[group]
    text = (pages.ROOT / "README.md").read_text(encoding="utf-8")
    claim = re.search(
        rf"{vectors}, .*?([\d.]+) to ([\d.]+) times .*?one image ([\d.]+) to ([\d.]+) times", text, re.S
    )
    ratios = {"step": [], "latency": []}
    for piece, found in ratios.items():
        for record in stored[piece].values():
            if isinstance(record, dict) and set(ENGINES) <= set(record):
                seconds = {engine: median(record[engine]["seconds"]) for engine in ENGINES}
                found.append(min(seconds["torch"], seconds["torch.compile"]) / seconds["daad_jax"])
    expected = [f"{edge(ratios[piece]):.1f}" for piece in ratios for edge in (min, max)]
    assert list(claim.groups()) == expected


@pytest.mark.parametrize("path", sorted((pages.ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_the_figures_of_a_recipe_are_stored(path):
    docstring = path.read_text(encoding="utf-8").split('"""')[1]
    for figure in re.findall(FIGURE, docstring):
        assert figure in STORED, figure
