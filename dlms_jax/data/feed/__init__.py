"""SHARDS OR TEXT -> BATCHES: which rows form the batch of which step."""
