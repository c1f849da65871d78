"""dlms_jax: train, sample, evaluate and release diffusion language models in JAX."""

__version__ = "0.1.0"
__all__ = ["DiffusionLM", "Trainer"]


def __getattr__(name):
    # Imported on first use, so that `import dlms_jax` is fast.
    if name == "DiffusionLM":
        from dlms_jax.model import DiffusionLM

        return DiffusionLM
    if name == "Trainer":
        from dlms_jax.trainer import Trainer

        return Trainer
    raise AttributeError(f"module 'dlms_jax' has no attribute {name!r}")
