"""Recipes: built-in ones by name, files of the user's, and what a recipe can get wrong."""

import shutil

import pytest

from daad_jax import UserError, load_recipe, variants
from daad_jax import recipes as recipes_module
from daad_jax.cli import Command, _parse, define_config
from daad_jax.config import Config
from daad_jax.validation import validate


def parse(*arguments):
    command = Command("", "", define_config, lambda call: None)
    return _parse(command, "train.py", arguments).options.config


@pytest.mark.parametrize("name", recipes_module.names())
def test_built_in_recipes_have_a_name(name, tmp_path):
    if name == "stored":
        with pytest.raises(UserError, match="cannot be read"):
            load_recipe("stored:missing.json")
    else:
        validate(load_recipe(name))


def test_options_change_the_values_of_a_recipe(tmp_path):
    config = parse(
        "--config=mnist:3,memae", "--config.train.steps=7", "--config.score.gamma=0.5",
        "--noconfig.data.flip_horizontal", "--config.model.skips=(True,False,True)", "--config.name=a:b, c",
    )  # fmt: skip
    assert (config.train.steps, config.score.gamma, config.data.flip_horizontal) == (7, 0.5, False)
    assert (config.model.skips, config.name) == ((True, False, True), "a:b, c")
    plain = load_recipe("mnist:3,memae")
    assert config.model.memory_items == plain.model.memory_items
    (tmp_path / "flags").write_text("--config=mnist:3\n--config.seed=5\n")
    assert parse(f"--flagfile={tmp_path / 'flags'}").seed == 5


def test_paths_may_have_colons_commas_and_spaces(tmp_path, monkeypatch):
    folder = tmp_path / "a:b, c"
    shutil.copytree(recipes_module.folder(), folder)
    monkeypatch.setattr(recipes_module, "folder", lambda: folder)
    assert parse("--config", "mnist:3").name == "mnist-3"
    assert load_recipe(f"{folder / 'mnist.py'}:3,daad").name == "mnist-3-daad"
    assert load_recipe("folder:a:b/c.py").data.path == "a:b/c.py"


@pytest.mark.parametrize("recipe", ["folder:parts", "tfds:flowers:rose"])
def test_any_images_are_read_by_features_if_the_weights_are_installed(recipe, monkeypatch, capsys):
    monkeypatch.setattr(variants.importlib.util, "find_spec", lambda name: name)
    config, pixels = load_recipe(recipe), load_recipe(f"{recipe},daad_plus")
    assert (config.model.features, config.model.items) == ("efficientnet_lite0", "coreset")
    assert (pixels.model.features, pixels.model.items) == ("", "learned")
    assert pixels.name == f"{config.name}-daad_plus"
    assert load_recipe(f"{recipe},daad_features").name == config.name
    validate(config)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(variants.importlib.util, "find_spec", lambda name: None)
    without = load_recipe(recipe)
    assert (without.name, without.model) == (config.name, pixels.model)
    assert "pip install 'daad_jax[features]'" in capsys.readouterr().out


@pytest.mark.parametrize("variant", [v for v in variants.VARIANTS if v not in variants.PIXEL_VARIANTS])
@pytest.mark.parametrize(
    "recipe", ["mnist:3", "cifar10:cat", "solar_cells:mono", "mvtec_ad:screw", "folder:x"]
)
def test_every_recipe_has_the_variants_on_features(recipe, variant):
    config = load_recipe(f"{recipe},{variant}")
    validate(config)
    assert config.model.features == "efficientnet_lite0"
    # Images of classes differ as a whole, defects lie somewhere.
    by_class = config.data.protocol != "inspection"
    assert (variant == "daad_features" and by_class) == (config.model.blocks == (0,))


CODE = "from daad_jax.config import Config\n"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def get_config(words):\n    return None", "returned an object of type NoneType, not a Config"),
        (
            "def get_config(words):\n    return 1 / 0",
            "mine.py, line 3: the recipe fails with ZeroDivisionError",
        ),
        ("import missing_package", "mine.py, line 2: the recipe fails with ModuleNotFoundError"),
        ("def get_config(words:", "the recipe fails with SyntaxError"),
        ("x = 1", "a recipe defines get_config"),
    ],
)
def test_a_recipe_that_fails_is_one_line_with_its_place(tmp_path, code, says):
    file = tmp_path / "mine.py"
    file.write_text(CODE + code)
    with pytest.raises(UserError, match=says):
        load_recipe(str(file))


def test_a_recipe_need_not_take_words(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(CODE + "def get_config():\n    return Config(name='mine')")
    assert load_recipe(str(file)) == parse(f"--config={file}") == Config(name="mine")


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("", "the recipe is empty"),
        ("mnits:8", "did you mean 'mnist'"),
        ("none.py", r"none\.py: no such file; built-in recipes: cifar10, "),
    ],
)
def test_there_is_no_such_recipe(recipe, says):
    with pytest.raises(UserError, match=says):
        load_recipe(recipe)
