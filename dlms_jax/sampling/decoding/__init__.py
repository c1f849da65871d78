"""WHICH POSITIONS, HOW MANY, WHICH CACHE: orders of masked diffusion, blocks, left to right."""
