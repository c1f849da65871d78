"""MANY RUNS -> ONE CONCLUSION: each study trains several models, measures them, and writes tables.

A study is given what trains and what loads a model (trainer.py and model.py stand above it).
"""

from dlms_jax.studies.family import FamilySettings, run_family

__all__ = ["FamilySettings", "run_family"]
