"""A release as two archives of the same files: weights, logs, curves, and a demo that runs them.

demo.py travels: it imports torch and transformers, and nothing of this package.
"""
