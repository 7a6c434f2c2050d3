"""Errors about folders whose names do not say what their files are for."""

from collections import Counter

from daad_jax.errors import UserError

MAX_NAMED_FOLDERS = 10  # an error names this many folders, and counts the others


def refuse_several_sets(counts: Counter[tuple[str, ...]], root: str) -> None:
    """Raises UserError if a folder holds several data sets.

    Args:
        counts: the number of files of each data set, by the names of its folders.
        root: the name of the folder of the data.
    """
    if len(counts) > 1:
        raise UserError(
            f"{root}: this folder holds several data sets: {_list_counts(counts)}; give the folder of one of "
            "them, or set config.data.normal and config.data.anomalous to folder names or patterns"
        )


def unknown_names_error(counts: Counter[str], root: str) -> UserError:
    """Makes the error for folders whose names do not say which images are good.

    Args:
        counts: the number of files in each folder, by its path.
        root: the name of the folder of the data.
    """
    return UserError(
        f"{root}: the names of these folders do not say which images are good: {_list_counts(counts)}; set "
        "config.data.normal, and config.data.anomalous and config.data.masks if there are such, to folder "
        "names or patterns with commas between ('*' means all), for instance "
        f"--config.data.normal={next(iter(sorted(filter(None, counts))), '*')!r}"
    )


def _list_counts(counts: Counter) -> str:
    def spell(key: str | tuple[str, ...]) -> str:
        return (key if isinstance(key, str) else "/".join(key)) or "."

    listed = [f"{spell(key)} ({count})" for key, count in sorted(counts.items())[:MAX_NAMED_FOLDERS]]
    if len(counts) > len(listed):
        listed.append(f"and {len(counts) - len(listed)} more")
    return ", ".join(listed)
