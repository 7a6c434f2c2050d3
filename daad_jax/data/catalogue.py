"""The named data sets: what they are called, and what is in them. No file is opened to know it."""

import difflib

from daad_jax.errors import UserError

DIGITS = tuple(str(digit) for digit in range(10))
OBJECTS = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CELL_TYPES = ("mono", "poly")
SOLAR_CELLS = (*CELL_TYPES, "all")
CATEGORIES = (
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill",
    "screw", "tile", "toothbrush", "transistor", "wood", "zipper",
)  # fmt: skip
CLASSES = {"mnist": DIGITS, "cifar10": OBJECTS}  # of sets that do not say themselves what is good
NAMES = (
    *CLASSES,
    *(f"solar_cells/{cells}" for cells in SOLAR_CELLS),
    *(f"mvtec_ad/{category}" for category in CATEGORIES),
)


def classes_of(name: str) -> tuple[str, ...]:
    """The classes of a data set; none where the set itself says what is good.

    Raises:
        UserError: there is no such set; with the nearest known name, or the parts of one ("solar_cells").
    """
    if name in NAMES:
        return CLASSES.get(name, ())
    parts = [known for known in NAMES if known.startswith(f"{name.split('/')[0]}/")]
    near = difflib.get_close_matches(name, parts or NAMES, 1)
    guess = near and (not parts or "/" in name)
    hint = f"did you mean {near[0]!r}?" if guess else f"known: {', '.join(parts or NAMES)}"
    raise UserError(f"config.data.name = {name!r}: no such data set; {hint}")
