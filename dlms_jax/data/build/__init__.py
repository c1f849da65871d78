"""TEXT -> SHARDS: how a dataset is prepared, on one machine or many."""
