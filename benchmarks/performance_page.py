"""Writes docs/performance.md and its plots from the stored measurements.

    python -m benchmarks.performance_page

writes the page again from docs/performance.json, without measuring anything. The page ends with the text of
benchmarks/design_measurements.md, which is edited by hand.
"""

import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import jax
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks import deployment_section, tpu_section
from daad_jax import files
from daad_jax.runtime import startup

mpl.use("Agg")

OURS = "daad_jax"
DESIGN_MEASUREMENTS = Path(__file__).with_name("design_measurements.md")
TITLES = {
    "step": "Training step, milliseconds",
    "memory": "Peak memory of a training process, MB",
    "score": "Scoring, milliseconds for all images",
    "latency": "Scoring one image, milliseconds",
    "start": "From the start of the process to the first step, milliseconds",
    "parts": "Cost of the parts of our step, milliseconds",
    "growth": "Growth of our step, milliseconds",
    "calls": "Several steps per call of the device (`train.steps_per_call`), milliseconds per step",
    "input": "Waiting for input, milliseconds of our step",
}
RACES = ("step", "score", "latency")  # pieces in which all engines do the same work
NOTES = {
    "step": "Share: the operations per second of the convolutions and matrix products of our step, divided "
    "by the operations per second of a float32 product of 2048^3 in the same run. The count has the "
    "operations that PyTorch makes; our step makes fewer.",
    "memory": "The programs were compiled before; each process loads them from the engine's cache.",
    "score": "Our scoring also makes heat maps and pictures; PyTorch's does not.",
    "latency": "",
    "start": "Eager PyTorch compiles nothing. PyTorch's processes import JAX too, for the constants of our "
    "models. Cold: nothing was compiled before. Again: with the engine's own cache of compiled programs.",
    "parts": "Each row leaves out more than the row before: first the discriminator, then the memories as "
    "well. The last row is the forward pass of the generator alone.",
    "growth": "The base case is 32 px, 16 images, width 32, 100 items and one device. Each row changes one "
    "of these. The devices of a processor are virtual and share its cores "
    "(`XLA_FLAGS=--xla_force_host_platform_device_count=2`).",
    "calls": "32 px, 64 images, width 16, 100 items, DAAD+.",
    "input": "Batches of 64 images of 32 px with flips and shifts, width 32. Waiting: the share of the time "
    "that the step waits for a batch.",
}
ON_GPU = (
    "The same command on a machine with a GPU. There, both engines use the GPU's own convolutions (cuDNN) "
    "and TF32 for float32 products. bfloat16 is `train.precision` in our engine and autocast in PyTorch."
)
ON_AVX512 = (
    "The same command on a processor with AVX-512. Its products are faster, so that sums and copies take a "
    "larger share of the time."
)
GPU_NOTES = {
    "step": "A round queues 30 steps and then waits for them. Peak: the GPU's memory for ours / torch / "
    "torch.compile.",
    "score": "The images come from the host's memory, and the results go there. Our scoring also makes heat "
    "maps and pictures; PyTorch's does not.",
}
Record = dict[str, Any]


def group() -> str:
    """The kind of this machine, which names its measurements: "cpu", "cpu_avx512" or "gpu"."""
    if jax.default_backend() == "gpu":
        return "gpu"
    return "cpu_avx512" if "AVX-512" in _vectors() else "cpu"


def versions() -> dict[str, str]:
    """The machine and the versions of packages on which a measurement depends."""
    machine = f"{platform.machine()}{_vectors()}, {os.cpu_count()} cores"
    if jax.default_backend() == "gpu":
        machine = f"{jax.devices()[0].device_kind}, {machine}"
    result = {"machine": machine, "python": platform.python_version()}
    for package in ("jax", "torch"):
        try:
            result[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return result


def _vectors() -> str:
    """The widest vector instructions of an x86 processor, which decide its speed most; "" if unknown."""
    instruction_sets = startup.instruction_sets().split()
    if "avx512f" in instruction_sets:
        return " with AVX-512"
    return " with AVX2" if "avx2" in instruction_sets else ""


def write(records: Record, docs: Path) -> None:
    """Writes the page and its plots.

    Args:
        records: the measurements of every piece by `group`, of exported files ("deployments"), of the server
            ("serve"), and of programs by the compiler of "tpu", as performance.json stores them.
        docs: the folder.
    """
    parts = [
        "# Performance",
        "This page compares our engine with PyTorch at its best: the same networks, losses and step "
        "(`benchmarks/torch_daad.py`) with channels_last and fused Adam, eager and with `torch.compile`. "
        "The engines take turns in one run, and the tables show medians. Compare numbers within a row, not "
        "with another machine. Width 64, float32.",
        "Our engine has large memory pages, as in our commands (`daad_jax/runtime/startup.py`). "
        "PyTorch runs with its defaults. It gains from large pages, too: `--large_pages` gives them to both.",
        "    pip install '.[bench]'\n    python -m benchmarks",
    ]
    cpu_records = records.get("cpu", {})
    for piece, title in TITLES.items():
        if piece in cpu_records:
            parts += _section(piece, title, cpu_records[piece])
        if piece == "growth" and _plot_growth(cpu_records, docs / "growth.png"):
            parts.append("![How the time of a step grows](growth.png)")
    if _plot_speedups(cpu_records, docs / "performance.png"):
        parts.insert(3, "![Our speed, divided by the speed of the faster mode of PyTorch](performance.png)")
    for name, heading, suffix, about in (
        ("cpu_avx512", "On a processor with AVX-512", "with AVX-512", ON_AVX512),
        ("gpu", "On a GPU", "on a GPU", ON_GPU),
    ):
        measured = records.get(name, {})
        if measured:
            parts += [f"# {heading}", about]
        for piece, title in TITLES.items():
            if piece in measured:
                parts += _section(piece, f"{title}, {suffix}", measured[piece], on_gpu=name == "gpu")
    parts += deployment_section.make_deployments(records.get("deployments", {}))
    parts += deployment_section.make_serving(records.get("serve", {}))
    parts += tpu_section.make_section(records.get("tpu", {}), records.get("tpu_before", {}))
    parts.append(DESIGN_MEASUREMENTS.read_text(encoding="utf-8").strip())
    files.write_text(docs / "performance.md", "\n\n".join(parts) + "\n")


def speedup(row: Record) -> float:
    """Our speed, divided by the speed of the fastest other engine."""
    return min(_median(record) for engine, record in row.items() if engine != OURS) / _median(row[OURS])


def summary(piece: str, row: Record) -> str:
    """One line about a row, to print while the benchmark runs."""
    unit = "MB" if piece == "memory" else "ms"
    engines = [f"{engine} {_value(piece, record):.1f} {unit}" for engine, record in row.items()]
    return "  ".join(engines + ([f"waiting {row[OURS]['wait']:.2%}"] if piece == "input" else []))


def _section(piece: str, title: str, record: Record, on_gpu: bool = False) -> list[str]:
    """The heading, the table and the note of a piece."""
    rows = _rows(record)
    engines = list(next(iter(rows.values())))
    compares = piece in RACES and len(engines) > 1
    head = ["", *engines] + ["times as fast"] * compares
    head += ["share"] if piece == "step" and not on_gpu else []
    head += ["peak, MB"] if piece == "step" and on_gpu else []
    head += ["p99"] if piece == "latency" else []
    head += ["waiting"] if piece == "input" else []
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, row in rows.items():
        digits = 0 if piece == "memory" else 1
        cells = [name, *(f"{_value(piece, row[e]):.{digits}f}" for e in engines)]
        if compares:
            cells.append(f"{speedup(row):.2f}")
        if piece == "step" and on_gpu:
            has_peaks = all("peak" in measured for measured in row.values())
            cells.append(" / ".join(f"{row[e]['peak'] / 1e6:.0f}" for e in engines) if has_peaks else "")
        elif piece == "step":
            operations = next((r["operations"] for r in row.values() if "operations" in r), None)
            share = operations / _median(row[OURS]) / row[OURS]["matmul"] if operations else None
            cells.append("" if share is None else f"{share:.0%}")
        if piece == "latency":
            cells.append(" / ".join(f"{1000 * np.percentile(row[e]['seconds'], 99):.1f}" for e in engines))
        if piece == "input":
            cells.append(f"{row[OURS]['wait']:.2%}")
        lines.append("| " + " | ".join(cells) + " |")
    rounds = " and ".join(str(n) for n in sorted({len(row[OURS]["seconds"]) for row in rows.values()}))
    about = ", ".join([f"rounds {rounds}", *(f"{key} {value}" for key, value in record["versions"].items())])
    if speeds := [row[OURS]["matmul"] for row in rows.values() if "matmul" in row[OURS]]:
        about += f"; product of 2048^3: {np.median(speeds) / 1e9:.0f} GFLOP/s"
    note = GPU_NOTES.get(piece, NOTES[piece]) if on_gpu else NOTES[piece]
    return [f"## {title}", "\n".join(lines), f"{note} ({about})".strip()]


def _rows(record: Record) -> dict[str, Record]:
    return {name: row for name, row in record.items() if name != "versions"}


def _value(piece: str, measured: Record) -> float:
    """The main value of an engine, in megabytes or milliseconds."""
    return float(measured["peak"]) / 1e6 if piece == "memory" else 1000 * _median(measured)


def _median(measured: Record) -> float:
    return float(np.median(measured["seconds"]))


def _plot_growth(records: Record, path: Path) -> bool:
    """Draws one panel for each changed quantity, with logarithmic axes; False if there is nothing to draw."""
    panels: dict[str, dict[int, float]] = {}
    for name, row in _rows(records.get("growth", {})).items():
        (number,) = re.findall(r"\d+", name)
        panels.setdefault(name.replace(number, "").strip(), {})[int(number)] = 1000 * _median(row[OURS])
    if not panels:
        return False
    figure = Figure(figsize=(3 * len(panels), 2.6), layout="constrained")
    for axes, (quantity, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        values, times = list(points), list(points.values())
        axes.loglog(values, times, "o-", color="#2a6fb0")
        axes.set_xticks(values, [str(value) for value in values])
        axes.set_yticks(times, [f"{t:.0f}" for t in times])
        axes.minorticks_off()
        axes.set_xlabel(quantity)
        axes.set_ylabel("milliseconds a step")
    figure.savefig(path, dpi=110)
    return True


def _plot_speedups(records: Record, path: Path) -> bool:
    """Draws our speed relative to PyTorch for every race; False if there is nothing to draw."""
    bars = {
        f"{piece}: {name}": speedup(row)
        for piece in RACES
        for name, row in _rows(records.get(piece, {})).items()
        if len(row) > 1
    }
    if not bars:
        return False
    figure = Figure(figsize=(8, 0.35 * len(bars) + 1), layout="constrained")
    axes = figure.subplots()
    colours = ["#2a6fb0" if times >= 1 else "#d9601a" for times in bars.values()]
    axes.barh(list(bars), list(bars.values()), color=colours)
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as the better of PyTorch's modes")
    figure.savefig(path, dpi=110)
    return True


if __name__ == "__main__":
    docs_folder = Path("docs")
    write(json.loads((docs_folder / "performance.json").read_text(encoding="utf-8")), docs_folder)
