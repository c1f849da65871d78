"""SHARDS ON DISK: a prepared dataset and its files of rows."""
