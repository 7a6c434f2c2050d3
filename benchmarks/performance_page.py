"""docs/performance.md and its plot, as a function of what was measured."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import jax
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from daad_jax import files
from daad_jax.runtime import startup

mpl.use("Agg")

OURS = "daad_jax"
TITLES = {
    "step": "Train step, milliseconds",
    "memory": "Peak memory of a process that takes train steps, MB",
    "score": "Scoring, milliseconds for all images",
    "latency": "Scoring one image, milliseconds",
    "start": "From the start of the process to the first step, milliseconds",
    "parts": "What the parts of our step cost, milliseconds",
    "growth": "What our step grows with, milliseconds",
    "calls": "Several steps a call of the device (`train.steps_per_call`), milliseconds a step",
    "input": "Our step and its input",
}
RACES = ("step", "score", "latency")  # pieces in which all engines do the same work
NOTES = {
    "step": "Share: convolutions and products of our step (as PyTorch counts them; ours makes fewer), in "
    "operations a second, over those of a float32 product of 2048^3 in the same run.",
    "memory": "What was compiled before is loaded from the engine's cache.",
    "score": "Ours makes heat maps and pictures too, which PyTorch's does not.",
    "latency": "",
    "start": "PyTorch alone compiles nothing; its processes import JAX too, for the constants of our "
    "models. Cold: nothing compiled before. Again: with the engine's own cache of compiled programs.",
    "parts": "",
    "growth": "32 px, 16 images, width 32, 100 items, one device, but for what the row says. A processor's "
    "devices are virtual ones, the same cores shared (`XLA_FLAGS=--xla_force_host_platform_device_count=2`).",
    "calls": "32 px, 64 images, width 16, 100 items, DAAD+.",
    "input": "Batches of 64 images of 32 px with flips and shifts, width 32; the share of the time that the "
    "step waits for a batch.",
}
ON_GPU = (
    "The same command on a machine with a GPU. There convolutions are the device's own (cuDNN), float32 "
    "products have TF32's digits in both, and bfloat16 is `train.precision` in ours and autocast in PyTorch."
)
GPU_NOTES = {
    "step": "30 steps are queued and waited for. Peak: of the GPU's memory, ours / torch / torch.compile.",
    "score": "From and to the host's memory. Ours makes heat maps and pictures too, PyTorch's does not.",
}
Record = dict[str, Any]


def versions() -> dict[str, str]:
    """What a figure depends on."""
    machine = f"{platform.machine()}{_vectors()}, {os.cpu_count()} cores"
    if jax.default_backend() == "gpu":
        machine = f"{jax.devices()[0].device_kind}, {machine}"
    found = {"machine": machine, "python": platform.python_version()}
    for package in ("jax", "torch"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _vectors() -> str:
    """The widest vectors of an x86 processor, which decide its speed most; "" where nothing says."""
    can = startup.instruction_sets().split()
    return " with AVX-512" if "avx512f" in can else " with AVX2" if "avx2" in can else ""


def write(records: Record, docs: Path) -> None:
    """The page and its plots in `docs`, from the records of every piece, of "cpu" and "gpu"."""
    parts = [
        "# Performance",
        "Ours beside PyTorch's own best: the same networks, losses and step (`benchmarks/torch_daad.py`), "
        "channels_last, fused Adam, eager and `torch.compile`. Engines take turns in one run, and medians "
        "count: compare within a row, not with another machine. Width 64, float32.",
        "Ours has large memory pages, as our commands ask for them by themselves (`daad_jax/runtime/`). "
        "PyTorch runs as it comes, and gains by them too where its user asks: `--large_pages` gives them to "
        "both.",
        "    pip install -r requirements-bench.txt\n    python -m benchmarks",
    ]
    on_cpu = records.get("cpu", {})
    for piece, title in TITLES.items():
        if piece in on_cpu:
            parts += _section(piece, title, on_cpu[piece])
        if piece == "growth" and _plot_growth(on_cpu, docs / "growth.png"):
            parts.append("![How the time of a step grows](growth.png)")
    if _plot(on_cpu, docs / "performance.png"):
        parts.insert(3, "![How many times as fast as the better of PyTorch's modes](performance.png)")
    if on_gpu := records.get("gpu", {}):
        parts += ["# On a GPU", ON_GPU]
    for piece, title in TITLES.items():
        if piece in on_gpu:
            parts += _section(piece, f"{title}, on a GPU", on_gpu[piece], on_gpu=True)
    files.write_text(docs / "performance.md", "\n\n".join(parts) + "\n")


def speedup(row: Record) -> float:
    """How many times as fast ours is as the better of the others."""
    return min(_median(of) for engine, of in row.items() if engine != OURS) / _median(row[OURS])


def summary(piece: str, row: Record) -> str:
    """A line for who watches."""
    unit = "MB" if piece == "memory" else "ms"
    each = [f"{engine} {_figure(piece, of):.1f} {unit}" for engine, of in row.items()]
    return "  ".join(each + ([f"waiting {row[OURS]['wait']:.2%}"] if piece == "input" else []))


def _section(piece: str, title: str, record: Record, on_gpu: bool = False) -> list[str]:
    rows = _rows(record)
    engines = list(next(iter(rows.values())))
    raced = piece in RACES and len(engines) > 1
    head = ["", *engines] + ["times as fast"] * raced
    head += ["share"] if piece == "step" and not on_gpu else []
    head += ["peak, MB"] if piece == "step" and on_gpu else []
    head += ["p99"] if piece == "latency" else []
    head += ["waiting"] if piece == "input" else []
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, row in rows.items():
        digits = 0 if piece == "memory" else 1
        cells = [name, *(f"{_figure(piece, row[e]):.{digits}f}" for e in engines)]
        if raced:
            cells.append(f"{speedup(row):.2f}")
        if piece == "step" and on_gpu:
            known = all("peak" in of for of in row.values())
            cells.append(" / ".join(f"{row[e]['peak'] / 1e6:.0f}" for e in engines) if known else "")
        elif piece == "step":
            operations = next((of["operations"] for of in row.values() if "operations" in of), None)
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


def _figure(piece: str, of: Record) -> float:
    """Megabytes or milliseconds."""
    return float(of["peak"]) / 1e6 if piece == "memory" else 1000 * _median(of)


def _median(of: Record) -> float:
    return float(np.median(of["seconds"]))


def _plot_growth(records: Record, path: Path) -> bool:
    """A panel for what is changed, both axes logarithmic."""
    panels: dict[str, dict[int, float]] = {}
    for name, row in _rows(records.get("growth", {})).items():
        (number,) = re.findall(r"\d+", name)
        panels.setdefault(name.replace(number, "").strip(), {})[int(number)] = 1000 * _median(row[OURS])
    if not panels:
        return False
    figure = Figure(figsize=(3 * len(panels), 2.6), layout="constrained")
    for axes, (what, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        at, took = list(points), list(points.values())
        axes.loglog(at, took, "o-", color="#2a6fb0")
        axes.set_xticks(at, [str(x) for x in at])
        axes.set_yticks(took, [f"{t:.0f}" for t in took])
        axes.minorticks_off()
        axes.set_xlabel(what)
        axes.set_ylabel("milliseconds a step")
    figure.savefig(path, dpi=110)
    return True


def _plot(records: Record, path: Path) -> bool:
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
