"""docs/results.md: a function of the stored results alone."""

import json
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daad_jax import config as config_lib
from daad_jax import files
from daad_jax.config import Config
from daad_jax.files import explain_write_errors
from reproduction import order, paper, pictures, results
from reproduction.cells import BASELINES, TITLES
from reproduction.results import Result, Stored
from reproduction.summary import Figure, over_seeds, over_subjects, told_by_brightness, trivial, trivial_mean

NONE = "–"
TOLD = (  # keys of a recipe that a page says elsewhere
    "data.height", "data.width", "data.channels", "data.source", "data.protocol", "data.fit",
    "data.limit_train", "data.limit_test", "model.base_width", "model.discriminator_width",
    "model.memory_items", "model.division", "train.steps", "train.batch_size",
)  # fmt: skip
HEAD = """# Results

Written by `python reproduce.py` from the figures in [results/](results); `python reproduce.py
--report_only` writes it again. Image AUROC, unless it says otherwise. Ours are of the last step, never of
a chosen one, with the threshold and all units from held-out normal images. No test label takes part in
any of these. Recipes are chosen without them, but what chooses was itself settled with MNIST's figures in
view, and twice a recipe was kept, with test figures known, against another of higher separation: MNIST's
width and poly-crystalline cells' division ([recipes.md](recipes.md)). `±` is the standard deviation over
seeds; "by more than seeds differ" means by more than the larger one of two. Times are medians, and of
several machines where they are a range; cells ran beside other work, so that they do not compare rows.
Many networks of what was measured up to 2026-11-26 began with jax.random's draws; NumPy's, which came in
use on that day, are others of the same distributions ([design.md](design.md)), and a row may have seeds of
both.

Every table begins with trivial scores, which need no network. *Mean intensity* is that of all pixels, in
whichever direction is better (max(AUROC, 1 - AUROC): the labels choose it, so it is what brightness could
reach at most). *Nearest image* is the distance to the nearest of all normal training images: 1 - cos after
smoothing with sigma = 1 pixel, or plain L2. **†** marks a figure of ours that is no better than the best
of these. The paper's figures stand in the paper's columns only; where it prints one figure of its method,
it is named DAAD.
"""


def write(docs: Path) -> None:
    """Draws the charts and writes results.md, whole or not at all.

    Raises:
        UserError: stored results that cannot be read, or a folder that cannot be written.
    """
    tables = results.tables_stored(docs)
    folder = docs / "results"
    with explain_write_errors(docs, "give another --docs"):
        folder.mkdir(parents=True, exist_ok=True)
        for stored in tables:
            pictures.histograms(stored, folder)
            pictures.curve(stored, folder)
        there = {path.name for path in folder.glob("*.png")}
        files.write_text(docs / "results.md", render(tables, there))


def render(tables: Sequence[Stored], there: set[str]) -> str:
    """The page.

    Args:
        tables: all of them, in their order.
        there: names of the pictures that exist.
    """
    run = [t for t in tables if t.results]
    not_run = [f"`{t.table.name}`" for t in tables if not t.results]
    parts = [HEAD, *(_section(t, there) for t in run)]
    if across := order.over_tables(run):
        parts.append(f"## Order over the tables\n\n{_prose(across)}\n")
    if not_run:
        parts.append(f"Not run: {', '.join(not_run)} (`python reproduce.py TABLE`).\n")
    return "\n".join(parts)


def _section(stored: Stored, there: set[str]) -> str:
    blocks = [f"## {stored.table.title}"]
    if stored.table.name == "granularity":
        blocks.append(_granularity(stored))
    else:
        blocks += [_main(stored), _prose(order.of_table(stored)), _by_subject(stored)]
    blocks += [_more_figures(stored), _notes(stored)]
    for what, text in (
        ("curve", "AUROC and reconstruction error over division rates"),
        ("scores", f"Scores of {stored.table.noun} {stored.table.shown}"),
        ("reconstructions", f"Reconstructions, {stored.table.noun} {stored.table.shown} normal"),
    ):
        name = pictures.name_of(stored.table, what)
        if name in there:
            blocks.append(f"![{text}](results/{name})")
    blocks += [_recipes(stored), _commands(stored)]
    return "\n\n".join(b for b in blocks if b) + "\n"


def _main(stored: Stored) -> str:
    """Mean over the subjects, a line for each row, then methods that only the paper has."""
    is_mvtec = stored.table.name == "mvtec_ad"
    lines = []
    for row in stored.table.rows:
        title, printed = TITLES[row], paper.mean(stored.table.name, TITLES[row])
        found = over_subjects(stored, row, "auroc")
        if found is None and printed is None:
            continue
        count = _share(stored, found) if found else NONE
        best = trivial_mean(stored, found.subjects, "auroc") if found and row not in BASELINES else None
        line = [title, _printed(printed), _ours(found, best), count, *_pace(stored.of(row))]
        if is_mvtec:
            same = paper.mean_over("mvtec_ad", found.subjects, title) if found else None
            line.insert(2, _printed(same))
        lines.append(line)
    for title, printed in paper.others(stored.table.name).items():
        lines.append([title, _printed(printed), *[NONE] * 4])
    head = ["", "paper", "ours", f"{_plural(stored)} run", "time, a cell", "images/s"]
    if is_mvtec:
        head[1:2] = ["paper, all 15", "paper, those run"]
    return _grid(head, lines)


def _by_subject(stored: Stored) -> str:
    """A line for each subject: ours, and beside it the paper's where it prints one."""
    rows = [row for row in stored.table.rows if stored.of(row)]
    in_paper = [r for r in rows if stored.table.name == "mvtec_ad" and r not in BASELINES]
    head = [stored.table.noun]
    for row in rows:
        head += [TITLES[row]] + ["paper"] * (row in in_paper)
    lines = []
    for subject in stored.subjects:
        best, line = trivial(stored, subject, "auroc"), [subject]
        for row in rows:
            found = over_seeds(stored, row, subject, "auroc")
            line.append(_ours(found, None if row in BASELINES else best))
            if row in in_paper:
                line.append(_printed(paper.of_subject(stored.table.name, subject, TITLES[row])))
        lines.append(line)
    return _grid(head, lines)


def _granularity(stored: Stored) -> str:
    head = ["blocks at every scale", "AUROC", "error, held-out normal", "error, normal", "error, anomalous"]
    subject = stored.subjects
    best = trivial_mean(stored, subject, "auroc")
    lines = []
    for row in stored.table.rows:
        if not stored.of(row):
            continue
        figures = [
            over_subjects(stored, row, f) for f in ("held_out_error", "normal_error", "anomalous_error")
        ]
        auroc = _ours(over_subjects(stored, row, "auroc"), None if row in BASELINES else best)
        lines.append([TITLES[row], auroc, *(_number(f, "{:.4f}") for f in figures)])
    text = (
        "The paper's law: finer division reconstructs everything better, normal or not; between the "
        f"extremes the gap is largest. Variant DAAD of digit {', '.join(subject)}, only the division "
        "rates change: as many blocks along both axes of every scale as its map has pixels at most. "
        "Error: mean square, pixels in [0, 1]."
    )
    return f"{_prose(text)}\n\n{_grid(head, lines)}"


def _more_figures(stored: Stored) -> str:
    """Pixel figures, and scores of images brought to one mean intensity, where there are any."""
    kinds = {
        "pixel_auroc": "pixel AUROC",
        "aupro": "AUPRO",
        "levelled_auroc": "image AUROC, brightness-corrected",
    }
    kinds = {k: t for k, t in kinds.items() if any(k in r.figures for r in stored.results)}
    if not kinds:
        return ""
    rows = [row for row in stored.table.rows if any(set(r.figures) & set(kinds) for r in stored.of(row))]
    lines = []
    for subject in stored.subjects:
        for figure, title in kinds.items():
            line = [subject, title]
            best = trivial(stored, subject, figure)
            for row in rows:
                line.append(
                    _ours(over_seeds(stored, row, subject, figure), None if row in BASELINES else best)
                )
            lines.append(line)
    text = (
        "Brightness-corrected: every test image is scaled to the training images' mean intensity before it "
        "is scored, so that brightness alone tells nothing."
    )
    if told := told_by_brightness(stored):
        text += (
            f" **Mean intensity alone tells the test set of {', '.join(told)} apart: there image AUROC says "
            f"nothing of defects, and {'the pixel figures and ' * ('aupro' in kinds)}the "
            "brightness-corrected one count.**"
        )
    head = [stored.table.noun, "figure", *(TITLES[r] for r in rows)]
    orders = [order.of_table(stored, f, kinds[f]) for f in ("pixel_auroc", "aupro") if f in kinds]
    return "\n\n".join([_prose(text), _grid(head, lines), *(_prose(said) for said in orders if said)])


def _notes(stored: Stored) -> str:
    """How it was measured."""
    trained = [r for r in stored.results if r.step]
    every = stored.results
    normal, anomalous = (_range(r.images[k] for r in every) for k in ("normal", "anomalous"))
    limits = {stored.recipes[r.recipe]["data"]["limit_test"] for r in every}
    full = "Full test sets" if limits == {0} else "**Test sets cut short for a smoke run**"
    notes = [f"{full}: {normal} normal and {anomalous} anomalous images."]
    if trained:
        seeds = sorted({r.seed for r in trained if r.seed is not None})
        notes.append(
            f"Last step ({_range(r.step for r in trained)}), seed{'s' * (len(seeds) > 1)} "
            f"{', '.join(map(str, seeds))}, {_range(r.images['train'] for r in trained)} images to train on, "
            f"{_range(r.images['held_out'] for r in trained)} held out."
        )
        rows = {r.row for r in trained}
        whole = len(rows) * len(seeds) * len({r.subject for r in trained})
        if len(trained) < whole:
            notes.append(f"**Not finished: {len(trained)} of {whole} cells have run.**")
    old = len(every) - len(stored.current(smoke=limits != {0}).results)
    if old:
        notes.append(f"**Of recipes that are no longer in configs/: {old} of {len(every)} figures.**")
    absent = [s for s in stored.table.usual if s not in stored.subjects]
    if absent:
        notes.append(f"Not run: {', '.join(absent)}.")
    if not stored.table.free:
        notes.append("The images are CC BY-NC-SA 4.0 and not shown; reconstructions are in the run's folder.")
    dates = sorted({r.date for r in every})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return _prose(f"{' '.join(notes)} Measured {when} on {_environments(stored)}.")


def _environments(stored: Stored) -> str:
    texts = []
    for tree in stored.environments.values():
        packages = ", ".join(f"{name} {version}" for name, version in tree["packages"].items())
        texts.append(f"{tree['device']} (Python {tree['python']}, {packages})")
    return "; ".join(sorted(set(texts)))


def _recipes(stored: Stored) -> str:
    """What says most of the configurations, and in what else they differ from the defaults."""
    rows = {row: [_recipe(stored.recipes[r.recipe]) for r in stored.of(row)] for row in stored.table.variants}
    rows = {row: used for row, used in rows.items() if used}
    if not rows:
        return ""
    columns = list(next(iter(rows.values()))[0])
    lines = [
        [TITLES[row], *(" / ".join(dict.fromkeys(of[column] for of in used)) for column in columns)]
        for row, used in rows.items()
    ]
    where = f"[results/{stored.table.name}.json](results/{stored.table.name}.json)"
    about = f"Recipes, bottleneck first; whole configurations are in {where}."
    if any(config_lib.flat(tree).get("train.restore") for tree in stored.recipes.values()):
        about += (
            " Trained to restore what their input lost (`train.restore`), which is ours, not the paper's: "
            "these figures are not of the paper's method alone."
        )
    return f"{_prose(about)}\n\n{_grid(['', *columns], lines)}"


def _recipe(tree: dict[str, Any]) -> dict[str, str]:
    model, train = tree["model"], tree["train"]
    judged = tree["loss"]["adversarial"] > 0 or tree["loss"]["alignment"] > 0
    shown = {
        "image": "{height} x {width} x {channels}".format(**tree["data"]),
        "width": str(model["base_width"]),
        "discriminator": str(model["discriminator_width"]) if judged else NONE,
        "memory items": ", ".join(map(str, model["memory_items"])),
        "division": ", ".join(
            "x".join(map(str, cuts)) if items else NONE
            for cuts, items in zip(model["division"], model["memory_items"])
        ),
        "steps": str(train["steps"]),
        "batch": str(train["batch_size"]),
    }
    default = config_lib.flat(json.loads(config_lib.to_json(Config())))
    rest = [
        f"{key} = {json.dumps(value)}"
        for key, value in config_lib.flat(tree).items()
        if key not in TOLD and value != default.get(key)
    ]
    return shown | {"else": ", ".join(rest) or NONE}


def _commands(stored: Stored) -> str:
    table, subjects = stored.table, stored.subjects
    rows = [row for row in table.rows if stored.of(row)]
    words = ["python reproduce.py", table.name]
    if any(stored.recipes[r.recipe]["data"]["limit_test"] for r in stored.results):
        words.append("--smoke")
    seeds = sorted({r.seed for r in stored.results if r.seed is not None})
    if seeds:
        words.append(f"--seeds={','.join(map(str, seeds))}")
    if set(subjects) != set(table.usual):
        words.append(f"--only={','.join(subjects)}")
    if set(rows) != set(table.rows):
        words.append(f"--variants={','.join(rows)}")
    return f"    {' '.join(words)}"


def _ours(found: Figure | None, best: float | None) -> str:
    """A figure with its spread over seeds, and a dagger where it is no better than `best`."""
    if found is None:
        return NONE
    spread = "" if found.spread is None else f" ± {found.spread:.3f}"
    return f"{found.mean:.3f}{spread}{' †' * (best is not None and found.mean <= best)}"


def _number(found: Figure | None, form: str) -> str:
    return form.format(found.mean) if found else NONE


def _share(stored: Stored, found: Figure) -> str:
    """How many subjects, and of how many where they are not all."""
    missing = set(stored.table.usual) - set(found.subjects)
    return f"{len(found.subjects)} of {len(stored.table.usual)}" if missing else f"{len(found.subjects)}"


def _printed(figure: float | None) -> str:
    return NONE if figure is None else f"{figure:.3f}"


def _pace(found: list[Result]) -> tuple[str, str]:
    """Median wall time of a cell and median of the training's images/s: from the least to the most that a
    machine's are, where cells ran on several."""
    if not found:
        return NONE, NONE
    machines = [[r for r in found if r.environment == e] for e in dict.fromkeys(r.environment for r in found)]
    times = _range(round(statistics.median(r.wall_s for r in of)) for of in machines)
    rates = [round(statistics.median(r.images_per_s for r in of)) for of in machines if of[0].step]
    return f"{times} s", _range(rates) if rates else NONE


def _range(numbers: object) -> str:
    values = sorted(set(numbers))  # type: ignore[call-overload]
    return f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _plural(stored: Stored) -> str:
    nouns = {"class": "classes", "category": "categories"}
    return nouns.get(stored.table.noun, f"{stored.table.noun}s")


def _prose(text: str) -> str:
    return textwrap.fill(text, 105, break_long_words=False, break_on_hyphens=False)


def _grid(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
