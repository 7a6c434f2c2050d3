"""The section of docs/performance.md about the TPU's compiler."""

from typing import Any, NamedTuple

Record = dict[str, Any]


class Chip(NamedTuple):
    """What a chip can do, as its maker states it (cloud.google.com/tpu/docs).

    `topology` is a slice of four chips, `products` the bfloat16 FLOP a second, `bandwidth` the bytes a second
    of its memory, and `memory` the bytes of its memory. `clock` is the cycles a second, which follow from
    `products`: a cycle multiplies 128 x 128 matrices, in four units (v5e) or eight (v4).
    """

    topology: str
    products: float
    bandwidth: float
    memory: float
    clock: float


CHIPS = {
    "v5e": Chip("v5e:2x2", 197e12, 819e9, 16 * 2**30, 1.5e9),
    "v4": Chip("v4:2x2x1", 275e12, 1228e9, 32 * 2**30, 1.05e9),
}
HEAD = (
    "program", "compiled in, s", "GFLOP", "GB", "GB of HBM", "MB an image", "products, ms", "bytes, ms",
    "estimate, ms", "bound by", "memory of the chip", "collectives",
)  # fmt: skip
COMPARED = {  # a title: the key in a row, its unit, and the digits to show
    "GB": ("bytes", 1e9, 2),
    "GB of HBM": ("main_memory_bytes", 1e9, 2),
    "temporary arrays, MiB": ("temporary", 2**20, 0),
    "estimate, ms": ("estimated_ms", 1, 2),
    "compiled in, s": ("compile_core_s", 1, 0),
}
# findings/tpu_compiler_counts_fast_memory.sh shows what *GB* counts.
ABOUT = (
    "No TPU took part: libtpu compiled our programs and counted their operations and the bytes that they "
    "access. All numbers count one chip and one call. *Compiled in* is the time of all cores together. "
    "*Products* is the time of the operations at the chip's bfloat16 rate, and *bytes* the time of the "
    "accesses at its bandwidth. *GB* also counts accesses to the chip's small fast memory (VMEM), and counts "
    "a copy to or from this memory four times. If the arrays of a program fit in there, *bytes* is therefore "
    "too long a time. *GB of HBM* counts only accesses to the main memory. *Estimate* is the sum of the "
    "compiler's own estimates for all operations; copies beside them, collectives and a few other operations "
    "have none. Scoring computes each product in six passes of bfloat16, for full precision; *products* "
    "counts all passes, *GFLOP* does not. *Memory of the chip* is the memory of arguments and temporary "
    "arrays."
)


def bound_of(row: Record) -> str:
    """What takes longer: "bytes" or "products"."""
    return "bytes" if row["bytes_ms"] > row["products_ms"] else "products"


def memory_share(row: Record) -> float:
    """The share of the chip's memory that arguments and temporary arrays take."""
    return float(row["arguments"] + row["temporary"]) / CHIPS[row["chip"]].memory


def compare_commits(rows: dict[str, Record], before: dict[str, Record]) -> str:
    """A table of the programs that were also compiled at an earlier commit: then, now and the quotient.

    Args:
        rows: see `make_section`.
        before: `commit`, and numbers of earlier programs as in `rows`, by program.
    """
    both = {name: (old, rows[name]) for name, old in before.items() if name in rows}
    if not both:
        return ""
    commit = next(iter(before.values()))["commit"]
    lines = [f"| commit {commit} → now | " + " | ".join(COMPARED) + " |", "|" + "---|" * (len(COMPARED) + 1)]
    for name, (old, new) in both.items():
        cells = [
            f"{old[key] / unit:.{digits}f} → {new[key] / unit:.{digits}f} ({new[key] / old[key]:.2f})"
            if old.get(key) and key in new
            else ""
            for key, unit, digits in COMPARED.values()
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Record, key: str, unit: float, digits: int) -> str:
    """A number of a row; empty if the row was stored before this number was."""
    return f"{row[key] / unit:.{digits}f}" if key in row else ""


def make_section(rows: dict[str, Record], before: dict[str, Record]) -> list[str]:
    """The heading, the text and the table; nothing without rows.

    Args:
        rows: what `tpu_compiler.compile_program` returned, with `chip` and `versions`, by program.
        before: see `compare_commits`.
    """
    if not rows:
        return []
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    for name, row in rows.items():
        cells = [
            name, _cell(row, "compile_core_s", 1, 0), f"{row['flop'] / 1e9:.1f}", f"{row['bytes'] / 1e9:.2f}",
            _cell(row, "main_memory_bytes", 1e9, 2), f"{row['bytes_per_image'] / 1e6:.2f}",
            f"{row['products_ms']:.2f}", f"{row['bytes_ms']:.2f}", _cell(row, "estimated_ms", 1, 2),
            bound_of(row), f"{memory_share(row):.1%}", str(row["collectives"]),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    used = sorted({f"{key} {value}" for row in rows.values() for key, value in row["versions"].items()})
    parts = [
        "# By the TPU's compiler",
        "    pip install '.[tpu-check]'\n    python -m benchmarks tpu",
        f"{ABOUT} ({', '.join(used)})",
        "\n".join(lines),
        compare_commits(rows, before),
    ]
    return [part for part in parts if part]
