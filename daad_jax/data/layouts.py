"""Decides from names alone what each file below a folder is for. Opens no file."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from daad_jax.data import folder_words
from daad_jax.data.folder_words import ANOMALOUS, MASK, NEUTRAL, NORMAL, Meaning
from daad_jax.data.layout_errors import refuse_several_sets, unknown_names_error
from daad_jax.data.name_patterns import Patterns, match_patterns, matches
from daad_jax.data.samples import GOOD, HELD_OUT, TEST, TRAIN

LOSSY_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")

# What a file is.
IMAGE, IS_MASK, LEFT_OUT = "image", "mask", "left out"
# Kinds and parts that are known only when the masks are read.
KIND_BY_MASK, PART_BY_KIND = "", ""

# Why a file is left out. The texts follow a count in messages.
NO_CLASS = "in a folder that does not say whether it is good"
OUTSIDE = "outside of the train, validation and test folders"
ANOMALOUS_IN_TRAINING = "anomalous in the training part"
ANOMALOUS_HELD_OUT = "anomalous in the validation part"
OTHER_SENSOR = "of another sensor, beside colour images"
NO_PATTERN = "not matched by config.data.normal or config.data.anomalous"


class Assignment(NamedTuple):
    """The role of a file.

    Attributes:
        role: `IMAGE`, `IS_MASK` or `LEFT_OUT`.
        part: the part of an image or mask: `TRAIN`, `HELD_OUT` or `TEST`; `PART_BY_KIND` if the folders name
            no part (good images then train, and anomalous ones are tested).
        kind: the kind of an image: `GOOD`, the kind of its defect, or `KIND_BY_MASK`.
        reason: why the file is left out.
        folders: the folders that tell images apart, in lower case; a mask is paired with an image by them.
        is_twin: whether the file counts as a mask only because each image has such a file beside it.
        needs_mask: whether an image of the kind `KIND_BY_MASK` is left out if it has no mask. It is not if
            masks lie in a folder inside the image's own, or no folder tells images apart.
    """

    role: str
    part: str = PART_BY_KIND
    kind: str = KIND_BY_MASK
    reason: str = ""
    folders: tuple[str, ...] = ()
    is_twin: bool = False
    needs_mask: bool = False


@dataclass
class _Folder:
    """The names with a meaning in the path of a folder; `before` and `after` lie above and below the part."""

    path: str
    part: str = ""
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    role: str = ""  # NORMAL or ANOMALOUS, by the deepest such name
    class_name: str = ""  # the name that gives `role`
    below_class: str = ""  # the first name with a meaning below `class_name`
    class_parent: str = ""  # the path of the folder that holds `class_name`
    mask_depth: int = -1  # how many folders lie above the folder of masks; -1 if there is none
    is_other_sensor: bool = False

    @property
    def telling(self) -> list[str]:
        return self.before + self.after


def assign_roles(names: Sequence[str], patterns: Patterns, root: str) -> list[Assignment]:
    """Decides what each file is for.

    Args:
        names: paths of the files that may be images, below the folder of the data, with "/".
        patterns: the folder names and patterns that the user gave.
        root: the name of the folder of the data, for errors.

    Returns:
        An assignment for each name.

    Raises:
        UserError: the names of the folders do not say which images are good, the folder holds several data
            sets, or a pattern matches nothing.
    """
    folders = _read_folders(names)
    of_name = [folders[_parent(name)] for name in names]
    masks = _find_masks(names, of_name, patterns)
    images = [i for i in range(len(names)) if i not in masks and not of_name[i].is_other_sensor]
    named = match_patterns(names, patterns, root)
    if patterns.normal or patterns.anomalous:
        decided = [_by_pattern(of_name[i], named[i]) for i in images]
    elif any(of_name[i].part for i in images):
        refuse_several_sets(Counter(_name_set(of_name[i]) for i in images if of_name[i].part), root)
        decided = _by_parts([of_name[i] for i in images], bool(masks), root)
    else:
        decided = _by_classes([of_name[i] for i in images], bool(masks), root)
    decided = _settle_parts(decided)
    assignments = [Assignment(LEFT_OUT, reason=OTHER_SENSOR)] * len(names)
    has_classes = any(of_name[i].role for i in images)
    with_masks_inside = {parent for i in masks for parent in _parents(of_name[i].path)}
    for i, assignment in zip(images, decided):
        folder = of_name[i]
        needs_mask = has_classes or bool(folder.telling and folder.path not in with_masks_inside)
        assignments[i] = assignment._replace(folders=_key(folder), needs_mask=needs_mask)
    for i, is_twin in masks.items():
        folder = of_name[i]
        assignments[i] = Assignment(IS_MASK, folder.part, folders=_key(folder), is_twin=is_twin)
    return assignments


def _name_set(folder: _Folder) -> tuple[str, ...]:
    """Names the data set: the folders above the part's folder whose names do not say good or anomalous."""
    meanings = ((name, folder_words.read_folder_name(name).role) for name in folder.before)
    return tuple(name for name, role in meanings if role not in (NORMAL, ANOMALOUS))


def _key(folder: _Folder) -> tuple[str, ...]:
    return tuple(name.lower() for name in folder.telling)


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _parents(path: str) -> list[str]:
    """Returns all folders that hold the folder `path`."""
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(len(parts))] if path else []


def _read_folders(names: Iterable[str]) -> dict[str, _Folder]:
    """Reads the path of every folder that has files."""
    paths = {_parent(name) for name in names}
    children: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        while path:
            parent, _, name = path.rpartition("/")
            children[parent].add(name)
            path = parent
    meanings = {p: folder_words.read_sibling_names(sorted(inside)) for p, inside in children.items()}
    return {path: _read_folder(path, meanings) for path in paths}


def _read_folder(path: str, meanings: dict[str, dict[str, Meaning]]) -> _Folder:
    """Reads the part, the role and the class of a folder from the names along its path."""
    folder, parent = _Folder(path), ""
    for name in path.split("/") if path else []:
        meaning, siblings = meanings[parent][name], meanings[parent]
        if meaning.part:
            folder.part = meaning.part
            folder.before, folder.after = folder.telling, []
        if meaning.role in (NORMAL, ANOMALOUS):
            folder.role, folder.class_name, folder.below_class = meaning.role, name, ""
            folder.class_parent = parent
        elif meaning.telling and folder.role:
            folder.below_class = folder.below_class or name
        if meaning.role == MASK and folder.mask_depth < 0:
            folder.mask_depth = parent.count("/") + 1 if parent else 0
        is_sensor = folder_words.fold(name) in folder_words.OTHER_SENSORS
        folder.is_other_sensor |= is_sensor and any(folder_words.fold(s) == "rgb" for s in siblings)
        if meaning.telling:
            folder.after.append(meaning.telling)
        parent = f"{parent}/{name}" if parent else name
    return folder


def _find_masks(names: Sequence[str], of_name: list[_Folder], patterns: Patterns) -> dict[int, bool]:
    """Returns the indices of the masks; True if a file is a mask only because every image has such a twin."""
    masks: dict[int, bool] = {}
    others: list[int] = []
    for i, name in enumerate(names):
        # A pattern for images counts here only if it matches the folder of masks, or a path in this folder.
        depth = of_name[i].mask_depth
        is_mask = depth >= 0 and not matches(name, patterns.of_images, depth)
        if is_mask or matches(name, patterns.masks):
            masks[i] = False
        else:
            others.append(i)
    # Masks that lie beside their images have names with a certain end.
    beside = {names[i].lower() for i in others} | {_stem(names[i]).lower() for i in others}
    words_in_use = set()
    bases = {}
    for i in others:
        folder, _, stem = _stem(names[i]).rpartition("/")
        base, word = folder_words.split_mask_stem(stem)
        if word:
            bases[i] = word
            if (f"{folder}/{base}" if folder else base).lower() in beside:
                words_in_use.add(word)
    for i, word in bases.items():
        if word in words_in_use and not matches(names[i], patterns.of_images, names[i].count("/")):
            masks[i] = False
    return masks or {i: True for i in _find_twins(names, others, of_name)}


def _find_twins(names: Sequence[str], indices: list[int], of_name: list[_Folder]) -> list[int]:
    """Returns the lossless files if they are twins of lossy files with the same stem: x.jpg beside x.png.

    Either every file has a twin, or only files in folders of defects have one (Real-IAD).
    """
    lossy: set[str] = set()
    lossless: dict[str, int] = {}
    for i in indices:
        stem = _stem(names[i]).lower()
        is_lossy = names[i].lower().endswith(LOSSY_SUFFIXES)
        if stem in (lossy if is_lossy else lossless):
            return []
        if is_lossy:
            lossy.add(stem)
        else:
            lossless[stem] = i
    are_of_defects = all(of_name[i].role == ANOMALOUS for i in lossless.values())
    has_good = any(of_name[i].role == NORMAL for i in indices)
    if lossy == set(lossless) or (are_of_defects and has_good and lossy > set(lossless)):
        return list(lossless.values())
    return []


def _stem(name: str) -> str:
    """Returns a path without the suffix of its file."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + (file.rpartition(".")[0] or file)


def _by_pattern(folder: _Folder, role: str) -> Assignment:
    if not role:
        return Assignment(LEFT_OUT, reason=NO_PATTERN)
    kind = GOOD if role == NORMAL else _name_kind(folder)
    return Assignment(IMAGE, folder.part, kind)


def _by_parts(folders: list[_Folder], has_masks: bool, root: str) -> list[Assignment]:
    """Assigns roles if there are train, validation or test folders."""
    has_train = any(folder.part == TRAIN for folder in folders)
    has_classes = any(folder.role for folder in folders)
    train_names = {folder.after[0] for folder in folders if folder.part == TRAIN and folder.after}
    with_good = {folder.part or TRAIN for folder in folders if folder.role == NORMAL}
    training = [f for f in folders if f.part == TRAIN or not (f.part or has_train)]
    unnamed = {"/".join(f.telling) for f in training if not f.role and f.telling}
    if len(unnamed) > 1 and TRAIN not in with_good and not (has_masks and not has_classes):
        raise unknown_names_error(Counter(f.path for f in training), root)

    def decide(folder: _Folder) -> Assignment:
        part = folder.part or TRAIN
        if not folder.part and (has_train or folder.role == ANOMALOUS):
            return Assignment(LEFT_OUT, reason=OUTSIDE)
        if folder.role:
            return Assignment(IMAGE, part, GOOD if folder.role == NORMAL else _name_kind(folder))
        is_kind = part == TEST and folder.after and folder.after[0] not in train_names
        if has_masks and not has_classes and not is_kind:
            return Assignment(IMAGE, part, KIND_BY_MASK)
        if not folder.after:
            if part == TEST:
                return Assignment(IMAGE, part) if has_masks else Assignment(LEFT_OUT, reason=NO_CLASS)
            return Assignment(IMAGE, part, GOOD)
        is_good = part != TEST and part not in with_good
        return Assignment(IMAGE, part, GOOD if is_good else _name_kind(folder))

    return [decide(folder) for folder in folders]


def _by_classes(folders: list[_Folder], has_masks: bool, root: str) -> list[Assignment]:
    """Assigns roles if there are no train, validation and test folders."""
    homes = {folder.class_parent for folder in folders if folder.role == NORMAL}
    if len(homes) > 1:
        refuse_several_sets(Counter(tuple(f.class_parent.split("/")) for f in folders if f.role), root)
    if not homes:
        telling = Counter("/".join(folder.telling) for folder in folders)
        if has_masks:
            return [Assignment(IMAGE, kind=_name_kind(f) if f.role else KIND_BY_MASK) for f in folders]
        if len(telling) > 1 or any(folder.role for folder in folders):
            raise unknown_names_error(Counter(f.path for f in folders), root)
        return [Assignment(IMAGE, kind=GOOD)] * len(folders)
    (home,) = homes

    def decide(folder: _Folder) -> Assignment:
        if folder.role:
            return Assignment(IMAGE, kind=GOOD if folder.role == NORMAL else _name_kind(folder))
        inside = folder.path.removeprefix(home).strip("/") if _is_below(folder.path, home) else ""
        name = inside.split("/")[0]
        if not name or folder_words.read_folder_name(name).role == NEUTRAL:
            return Assignment(LEFT_OUT, reason=NO_CLASS)
        return Assignment(IMAGE, kind=name)

    return [decide(folder) for folder in folders]


def _is_below(path: str, folder: str) -> bool:
    return not folder or path == folder or path.startswith(f"{folder}/")


def _name_kind(folder: _Folder) -> str:
    """Names the kind of a defect: the folder below "defects", or the first folder with a meaning."""
    if folder.role == ANOMALOUS:
        return folder.below_class or folder.class_name
    return next((name for name in (*folder.after, *folder.before)), ANOMALOUS)


def _settle_parts(decided: list[Assignment]) -> list[Assignment]:
    """Leaves out anomalous images that cannot be tested, and tests a labelled validation part."""
    images = [a for a in decided if a.role == IMAGE]
    has_test = any(a.part == TEST for a in images)
    is_test = not has_test and any(a.part == HELD_OUT and a.kind not in (GOOD, KIND_BY_MASK) for a in images)

    def settle(a: Assignment) -> Assignment:
        if a.part == HELD_OUT and is_test:
            return a._replace(part=TEST)
        return settle_kind(a)

    return [settle(a) if a.role == IMAGE else a for a in decided]


def settle_kind(assignment: Assignment) -> Assignment:
    """Returns the assignment of an image whose kind is known: its part, or why the image is left out."""
    if assignment.kind == KIND_BY_MASK:
        return assignment
    part = assignment.part or (TRAIN if assignment.kind == GOOD else TEST)
    if assignment.kind != GOOD and part != TEST:
        reason = ANOMALOUS_IN_TRAINING if part == TRAIN else ANOMALOUS_HELD_OUT
        return assignment._replace(role=LEFT_OUT, reason=reason)
    return assignment._replace(part=part)


def has_training_part(names: Iterable[str]) -> bool:
    """Whether some of the files are in a folder whose name says that its images are for training."""
    return any(folder.part == TRAIN for folder in _read_folders(names).values())
