"""The sections of docs/performance.md about exported files in other libraries, and about the server."""

from typing import Any

Record = dict[str, Any]
ABOUT_DEPLOYMENTS = (
    "Real images in files of `daad-jax export`. *Difference* is the largest relative difference of a "
    "score from `Detector`'s, and *verdicts* is how many are others. Each library and `Detector` took turns; "
    "times are medians, of prepared images, with the heat map. *Times* is the median of the quotients: above "
    "1, `Detector` is faster. An empty cell: the library fails with so many images."
)
ABOUT_UNTRAINED = (
    "The weights of a run called *untrained* are random, which changes no time. A threshold is the score of "
    "a held-out image. The untrained runs and *folder-features* score this image, too, and rounding can "
    "change its verdict."
)
ABOUT_SERVING = (
    "Clients of one process, each with one connection, send image files to `daad-jax serve` on the same "
    "machine, and share its cores with it. In turns with them, `Detector.score` runs in a loop: 64 files a "
    "call for the rate, one file a call for p50 and p99. *Share* is the rate divided by the loop's."
)


def make_deployments(runs: dict[str, Record]) -> list[str]:
    """Makes the heading, the text and the tables about exported files; nothing without runs.

    Args:
        runs: the record of each run, by its name. A record has `rows`, which `deployments.measure` returned,
            and `versions`, and it may have `size`: height and width of the images, in pixels. Runs of small
            images come first.
    """
    if not runs:
        return []
    parts = [
        "# Exported files in other libraries",
        "    daad-jax export --workdir RUN\n"
        "    python -m benchmarks deployments --workdir RUN --images FOLDER --web DIST --python PYTHON...",
        ABOUT_DEPLOYMENTS,
        *[ABOUT_UNTRAINED] * any("untrained" in name for name in runs),
    ]
    for name, record in sorted(runs.items(), key=lambda run: run[1].get("size", [0])):
        rows = record["rows"]
        counts = sorted({count for row in rows for count in row.get("ms", {})}, key=int)
        size = f", {' x '.join(map(str, record['size']))} px" if "size" in record else ""
        head = [f"{name}{size}", "difference", "verdicts"]
        for count in counts:
            head += [f"{count} image{'s' * (count != '1')}, ms", "`Detector`, ms", "times"]
        lines = [_row(head), "|" + "---|" * len(head)]
        for row in rows:
            if "error" in row:
                lines.append(_row([row["error"], *[""] * (len(head) - 1)]))
                continue
            cells = [row["version"], f"{row['difference']:.1e}", f"{row['verdicts']} of {row['images']}"]
            for count in counts:
                if count not in row.get("ms", {}):
                    cells += [""] * 3
                    continue
                times = (row["ms"][count], row["detector_ms"][count])
                cells += [*(f"{ms:.1f}" for ms in times), f"{row['ratio'][count]:.2f}"]
            lines.append(_row(cells))
        parts += ["\n".join(lines), _about(record)]
    return parts


def make_serving(runs: dict[str, Record]) -> list[str]:
    """Makes the heading, the text and the table about the server's load test; nothing without runs.

    Args:
        runs: the record of each run, by its name. A record has `rows`, which `serving_load.summarise`
            returned, and `versions`.
    """
    if not runs:
        return []
    head = ["", "images/s", "p50, ms", "p99, ms", "share"]
    parts = [
        "# The server under load",
        "    python -m benchmarks serve --workdir RUN --images FOLDER",
        ABOUT_SERVING,
    ]
    for name, record in runs.items():
        rows = record["rows"]
        lines = [_row([name, *head[1:]]), "|" + "---|" * len(head)]
        for who, row in rows.items():
            title = "`Detector.score` in a loop" if who == "loop" else f"{who} client{'s' * (who != '1')}"
            cells = [f"{row[key]:.1f}" for key in ("rate", "p50", "p99")]
            lines.append(_row([title, *cells, f"{row['rate'] / rows['loop']['rate']:.2f}"]))
        parts += ["\n".join(lines), _about(record)]
    return parts


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _about(record: Record) -> str:
    about = [f"{key} {value}" for key, value in record["versions"].items()]
    if record.get("steady"):
        about.append("mean times of calls without pauses")
    return "(" + ", ".join(about) + ")"
