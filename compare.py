"""python compare.py RUN RUN...: evaluated runs side by side, and the images on which they disagree."""

from daad_jax import entry

if __name__ == "__main__":
    entry.run_script("compare")
