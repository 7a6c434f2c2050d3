"""python predict.py --workdir DIR IMAGE_OR_FOLDER...: scores, verdicts and heat maps of new images."""

from daad_jax import entry

if __name__ == "__main__":
    entry.run_script("predict")
