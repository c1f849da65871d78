"""TEXT -> TOKENS -> BATCHES: corpora, tokenizers, packing, prepared datasets, the loader."""

__all__ = ["DatasetBuilder"]


def __getattr__(name):
    # Imported on first use: a training run reads datasets, it does not build them.
    if name == "DatasetBuilder":
        from dlms_jax.data.builder import DatasetBuilder

        return DatasetBuilder
    raise AttributeError(f"module 'dlms_jax.data' has no attribute {name!r}")
