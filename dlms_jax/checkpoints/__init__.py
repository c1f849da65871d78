"""STATE <-> DISK: one checkpoint and its metadata, read and written; the reader of metrics.csv."""
