"""SHARDS, OR DOCUMENTS IN MEMORY -> BATCHES: which rows form the batch of each step."""
