"""WHERE ARRAYS LIVE: the mesh, the rules that shard parameters, and several processes."""
