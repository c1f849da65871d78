"""TEXT -> TOKENS -> BATCHES: corpora, tokenizers, packing, and the deterministic loader."""
