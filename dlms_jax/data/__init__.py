"""TEXT -> TOKENS -> BATCHES, in the order in which a document travels.

corpora/     raw text -> documents
cleaning/    documents -> fewer, cleaner documents
tokenizers/  text <-> token ids
packing.py   token ids -> rows of one length
chat/        conversations -> token ids with a loss mask -> rows
build/       documents -> shards, on one machine or many
store/       shards on disk
feed/        shards, or documents in memory -> batches

Used by several of them: frames.py (intermediate files), worker_pool.py (processes with a progress
bar), beam_pipeline.py (Apache Beam).
"""

__all__ = ["DatasetBuilder", "ReadOptions"]


def __getattr__(name):
    # Imported on first use: a training run reads datasets, it does not build them.
    if name == "DatasetBuilder":
        from dlms_jax.data.build.builder import DatasetBuilder

        return DatasetBuilder
    if name == "ReadOptions":
        from dlms_jax.data.corpora.options import ReadOptions

        return ReadOptions
    raise AttributeError(f"module 'dlms_jax.data' has no attribute {name!r}")
