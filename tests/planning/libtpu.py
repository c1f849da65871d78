"""Programs run with the TPU compiler, in processes of their own: it must come before JAX does."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from dlms_jax.planning.environment import have_libtpu

ROOT = pathlib.Path(__file__).parents[2]
needs_libtpu = pytest.mark.skipif(not have_libtpu(), reason="no libtpu: pip install -e '.[plan]'")


def output_of(*arguments: str):
    """Returns what python, with these arguments, prints as JSON."""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "NPROC")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def compiled_plan(recipe: str, *flags: str) -> dict:
    """Returns the plan of a recipe as a dict."""
    config = f"--config={ROOT / 'configs' / recipe}.py"
    return output_of("-m", "dlms_jax.plan", config, *flags, "--json")
