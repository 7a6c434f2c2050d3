"""Reads from the text of a program what the cost analysis of the TPU's compiler leaves out."""

import math
import re
from collections.abc import Iterator

BITS = {"pred": 8, "bf16": 16}  # other types have their bits in their names: f32, u8
ARRAY = re.compile(r"\b(pred|bf16|[fsu]\d+)\[([\d,]*)\](\{[^}]*\})?")
INSTRUCTION = re.compile(r"\s*(?:ROOT )?%([\w.\-]+) = (.*?) ([\w\-]+)\((.*?)\)")
# These access nothing: they name arrays, or end a copy whose bytes its start has.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy-done", "all-reduce-done"}
LAYOUT = re.compile(r"\{([\d,]*):T\(([\d,]+)\)")  # the axes from the innermost on, and the tile
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
MAX_CYCLES = 2**50  # days: the compiler writes 2^62 - 1 for an operation that it cannot estimate


def main_memory_bytes(text: str) -> int:
    """Counts the bytes that a program reads from and writes to the chip's main memory (HBM).

    The compiler marks arrays in other memories by S(n) in their layouts: VMEM is S(1).
    """
    total, types = 0, dict[str, str]()
    for name, result, operation, operands in _entry_instructions(text):
        types[name] = result
        if operation in FREE:
            continue
        read = [types.get(operand, "") for operand in re.findall(r"%([\w.\-]+)", operands)]
        if operation == "copy-start":  # the result is (copy, original, handle)
            result = ARRAY.search(result)[0]  # type: ignore[index]
        total += sum(_main_bytes(array) for array in [result, *read])
    return total


def estimated_cycles(text: str) -> int:
    """Adds up the cycles that the compiler estimates for the operations.

    Operations that run beside others, such as copies to VMEM, have no estimate, and wait for nothing here.
    Operations that the compiler cannot estimate count nothing, either.
    """
    # A convolution inside a fusion repeats the estimate of the fusion.
    lines = (line for line in text.splitlines() if " convolution(" not in line)
    cycles = (int(match[1]) for line in lines if (match := CYCLES.search(line)))
    return sum(count for count in cycles if count < MAX_CYCLES)


def _entry_instructions(text: str) -> Iterator[tuple[str, ...]]:
    """Yields name, type of the result, operation and operands of each instruction of the main computation."""
    entry = text[text.index("\nENTRY") :]
    return (match.groups() for line in entry.splitlines() if (match := INSTRUCTION.match(line)))


def _main_bytes(types: str) -> int:
    """Counts the bytes of all arrays in the main memory, with the empty parts of their tiles."""
    total = 0
    for kind, listed, layout in ARRAY.findall(types):
        if "S(" in layout:
            continue
        sides = [int(side) for side in listed.split(",") if side]
        if found := LAYOUT.match(layout):
            axes = [int(axis) for axis in found[1].split(",") if axis]
            for axis, tile in zip(axes, reversed(found[2].split(","))):
                sides[axis] = math.ceil(sides[axis] / int(tile)) * int(tile)
        bits = BITS.get(kind) or int(kind[1:])
        total += math.prod(sides) * bits // 8
    return total
