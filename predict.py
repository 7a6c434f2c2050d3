"""python predict.py --workdir DIR IMAGE_OR_FOLDER...: scores, verdicts and heat maps of new images."""

from daad_jax import commands

if __name__ == "__main__":
    commands.run_script("predict")
