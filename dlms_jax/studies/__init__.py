"""Studies: each trains several models, measures them, and writes tables.

The functions that train and load a model are arguments, because this package must not import
trainer.py and model.py.
"""

from dlms_jax.studies.family import FamilySettings, run_family

__all__ = ["FamilySettings", "run_family"]
