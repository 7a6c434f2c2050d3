"""python select_recipe.py RUN...: which trained run, scored how, finds corrupted normal images best."""

from daad_jax import entry

if __name__ == "__main__":
    entry.run_script("select-recipe")
