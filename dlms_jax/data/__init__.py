"""TEXT -> TOKENS -> BATCHES: corpora, tokenizers, packing, prepared datasets, the loader."""

__all__ = ["DatasetBuilder", "ReadOptions"]


def __getattr__(name):
    # Imported on first use: a training run reads datasets, it does not build them.
    if name == "DatasetBuilder":
        from dlms_jax.data.build.builder import DatasetBuilder

        return DatasetBuilder
    if name == "ReadOptions":
        from dlms_jax.data.corpora.files import ReadOptions

        return ReadOptions
    raise AttributeError(f"module 'dlms_jax.data' has no attribute {name!r}")
