"""Image anomaly detection with block-wise memories (DAAD, ICCV 2021) in JAX."""

__version__ = "0.1.0"
