"""Has the image AUROCs that the paper prints (ICCV 2021, arXiv 2107.13118). No figure here is ours."""

from collections.abc import Sequence

MVTEC_COLUMNS = ("AE", "MemAE", "AE+Skip", "DAAD", "DAAD+")  # MemAE is the authors' own rerun
MVTEC = {
    "carpet": (0.411, 0.454, 0.385, 0.671, 0.866),
    "grid": (0.841, 0.946, 0.879, 0.975, 0.957),
    "leather": (0.615, 0.611, 0.570, 0.628, 0.862),
    "tile": (0.696, 0.630, 0.986, 0.825, 0.882),
    "wood": (0.961, 0.967, 0.977, 0.957, 0.982),
    "bottle": (0.955, 0.954, 0.713, 0.975, 0.976),
    "cable": (0.688, 0.694, 0.579, 0.720, 0.844),
    "capsule": (0.819, 0.831, 0.747, 0.866, 0.767),
    "hazelnut": (0.884, 0.891, 0.828, 0.893, 0.921),
    "metal_nut": (0.565, 0.537, 0.336, 0.552, 0.758),
    "pill": (0.882, 0.883, 0.853, 0.898, 0.900),
    "screw": (0.956, 0.992, 1.000, 1.000, 0.987),
    "toothbrush": (0.977, 0.972, 0.742, 0.989, 0.992),
    "transistor": (0.776, 0.793, 0.749, 0.814, 0.876),
    "zipper": (0.878, 0.871, 0.696, 0.906, 0.859),
}
MVTEC_MEAN = (0.794, 0.802, 0.736, 0.845, 0.895)

# The figure over all classes or categories, by table and method. If the paper prints only one figure of its
# own method, we call the method DAAD.
MEANS = {
    "mnist": {
        "VAE": 0.877, "AnoGAN": 0.937, "ADGAN": 0.947, "GANomaly": 0.928, "GeoTrans": 0.980,
        "OCGAN": 0.975, "MemAE": 0.975, "CAVGA-Du": 0.986, "DAAD": 0.990,
    },
    "cifar10": {
        "VAE": 0.581, "AnoGAN": 0.612, "ADGAN": 0.624, "GANomaly": 0.695, "GeoTrans": 0.656,
        "Skip-GANomaly": 0.732, "OCGAN": 0.656, "MemAE": 0.609, "CAVGA-Du": 0.737, "DAAD": 0.753,
    },
    "mvtec_ad": dict(zip(MVTEC_COLUMNS, MVTEC_MEAN)),
}  # fmt: skip

# The figure of one class or category, by table, class or category, and method.
SUBJECTS = {
    "mvtec_ad": {category: dict(zip(MVTEC_COLUMNS, aurocs)) for category, aurocs in MVTEC.items()},
}

CLAIMED_ORDER = ("AE+Skip", "AE", "MemAE", "DAAD", "DAAD+")  # from the worst to the best


def mean_auroc(table: str, method: str) -> float | None:
    """Returns the paper's figure over all classes or categories of a table; None if the paper has none."""
    return MEANS.get(table, {}).get(method)


def prints_subjects(table: str) -> bool:
    """Returns whether the paper prints a figure for each class or category of a table."""
    return table in SUBJECTS


def subject_auroc(table: str, subject: str, method: str) -> float | None:
    """Returns the paper's figure for one class or category; None if the paper has no figure."""
    return SUBJECTS.get(table, {}).get(subject, {}).get(method)


def mean_over(table: str, subjects: Sequence[str], method: str) -> float | None:
    """Returns the mean of the paper's figures for these subjects; None if the paper lacks a figure."""
    printed = [subject_auroc(table, subject, method) for subject in subjects]
    known = [auroc for auroc in printed if auroc is not None]
    return sum(known) / len(known) if known and len(known) == len(printed) else None


def other_methods(table: str) -> dict[str, float]:
    """Returns the methods of the paper's table that this project does not implement, with their figures."""
    return {k: v for k, v in MEANS.get(table, {}).items() if k not in CLAIMED_ORDER}
