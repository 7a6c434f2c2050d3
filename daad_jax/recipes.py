"""Finds and loads recipes. The built-in recipes are the files of `configs/`, also in an installed package."""

import importlib.util
import inspect
import re
import traceback
from pathlib import Path

from daad_jax.config import Config
from daad_jax.errors import UserError, did_you_mean


def folder() -> Path:
    """Returns the folder of the built-in recipes: in the installed package, or `configs/` of a checkout."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "configs"


def names() -> tuple[str, ...]:
    """Returns the names of the built-in recipes, in alphabetical order."""
    return tuple(sorted(path.stem for path in folder().glob("*.py") if path.stem != "__init__"))


def find(name: str) -> Path:
    """Returns the file of a recipe.

    Args:
        name: the name of a built-in recipe, or the path of a file that ends in ".py".

    Raises:
        UserError: the recipe or the file does not exist.
    """
    path = Path(name) if name.endswith(".py") else folder() / f"{name}.py"
    if path.is_file():
        return path
    if name.endswith(".py"):
        raise UserError(f"{name}: no such file; built-in recipes: {', '.join(names())}")
    if not name:
        raise UserError(
            f"the recipe is empty; give NAME[:words] or FILE.py, NAME is one of {', '.join(names())}"
        )
    if Path(name).is_dir():
        raise UserError(f"{name}: this is a folder, not a recipe; did you mean folder:{name}?")
    raise UserError(f"{name!r}: no such built-in recipe; {did_you_mean(name, names())}")


def load_recipe(recipe: str) -> Config:
    """Returns the configuration that a recipe makes.

        config = load_recipe("folder:path/to/good/images")
        config = load_recipe("mnist:8,memae")
        config = load_recipe("my_recipe.py")

    Args:
        recipe: the recipe as in `--config`: NAME or FILE.py, and after a colon the words for `get_config`.
            The file runs as Python code.

    Raises:
        UserError: the recipe does not exist, does not know the words, or fails.
    """
    # Prepare the module.
    name, words = _split(recipe)
    path = find(name)
    spec = importlib.util.spec_from_file_location(f"daad_jax_recipe_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)

    # Run the recipe.
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"{path}: a recipe defines get_config(words) -> Config, this file does not")
        takes_words = bool(inspect.signature(module.get_config).parameters)
        config = module.get_config(words) if takes_words else module.get_config()
    except UserError:
        raise
    except Exception as error:  # the file belongs to the user, and may raise any error
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
        ]
        place = f"{path}, line {lines[-1]}" if lines else str(path)
        raise UserError(f"{place}: the recipe fails with {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise UserError(
            f"{path}: get_config returned an object of type {type(config).__name__}, not a Config"
        )
    return config


def _split(recipe: str) -> tuple[str, str]:
    """Splits a recipe into its name or file and its words. The path of a file may have colons."""
    name, _, words = recipe.partition(":")
    file = re.match(r"(.+?\.py)(?::(.*))?$", recipe, re.DOTALL)
    return (file[1], file[2] or "") if file and name not in names() else (name, words)
