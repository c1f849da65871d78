"""Decoding orders: by confidence, block by block, left to right; and the key-value cache."""
