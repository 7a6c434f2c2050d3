"""The built-in recipes: the files of `configs/`, which an installed package carries inside."""

import importlib.util
from pathlib import Path

from daad_jax.config import Config
from daad_jax.errors import UserError, did_you_mean


def folder() -> Path:
    """The folder of the built-in recipes: in the installed package, or `configs/` of a checkout."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "configs"


def names() -> tuple[str, ...]:
    """The names of the built-in recipes, in alphabetical order."""
    return tuple(sorted(path.stem for path in folder().glob("*.py") if path.stem != "__init__"))


def find(name: str) -> Path:
    """The file of a recipe.

    Args:
        name: the name of a built-in recipe, or the path of a file that ends in ".py".

    Raises:
        UserError: there is no such recipe or file.
    """
    path = Path(name) if name.endswith(".py") else folder() / f"{name}.py"
    if path.is_file():
        return path
    if name.endswith(".py"):
        raise UserError(f"{name}: no such file; built-in recipes: {', '.join(names())}")
    if Path(name).is_dir():
        raise UserError(f"{name}: this is a folder, not a recipe; did you mean folder:{name}?")
    raise UserError(f"{name!r}: no such built-in recipe; {did_you_mean(name, names())}")


def load_recipe(recipe: str) -> Config:
    """The configuration that a recipe gives.

        config = load_recipe("folder:path/to/good/images")
        config = load_recipe("mnist:8,memae")
        config = load_recipe("my_recipe.py")

    Args:
        recipe: what `--config` takes: NAME or FILE.py, and after a colon the words for its
            `get_config`. The file is run as Python code.

    Raises:
        UserError: there is no such recipe, or it does not know its words.
    """
    name, _, words = recipe.partition(":")
    path = find(name)
    spec = importlib.util.spec_from_file_location(f"daad_jax_recipe_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path}: a recipe defines get_config(argument) -> Config, this file does not")
    config: Config = module.get_config(words)
    return config
