"""DOCUMENTS -> SHARDS: how a dataset is prepared, on one machine (builder.py) or many (beam.py)."""
