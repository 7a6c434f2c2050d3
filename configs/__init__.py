"""The built-in recipes: one file for each data set of daad_jax/data/catalogue.py, and three for any data.

    python train.py --config configs/NAME.py[:VALUE[,VARIANT][,smoke]]

VALUE is the class, part or path that the recipe asks for. VARIANT is a name in daad_jax/variants.py. `smoke`
cuts a run down to seconds. Each recipe says what comes out, and how long that takes.

All recipes except stored.py change two defaults, for the same reasons:

- `model.temperature` is below 1. At the paper's 1 a memory mixes all its items almost evenly.
- `loss.reconstruction` is 2000. At a learning rate of 1e-3 the adversarial loss drowns a reconstruction
  loss of weight 50.
"""
