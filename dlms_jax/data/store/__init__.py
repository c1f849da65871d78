"""SHARDS ON DISK: a prepared dataset, its dataset.json and its files of rows."""
