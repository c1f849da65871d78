"""Packages, with the recipes of configs/ in them. The metadata is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["dlms_jax", "dlms_jax.*"]),
        "dlms_jax.recipes",
        "dlms_jax.recipes.family",
    ],
    package_dir={"dlms_jax.recipes": "configs"},
)
