"""WHERE ARRAYS LIVE: the mesh, the rules that shard parameters, and batches across processes."""
