"""The wheel: what is in it is enough to train a bundled recipe from any folder.

.ci/wheel does the same in fresh environments of each Python.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

from conftest import CACHE
import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    """The wheel, built from a copy of the source, since a build leaves files beside it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in ("dlms_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--wheel-dir", out, source], text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


def test_it_has_the_whole_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        entry_points = archive.read(
            next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        )
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dlms_jax").rglob("*.py")}
    recipes = {
        f"dlms_jax/recipes/{path.relative_to(ROOT / 'configs').as_posix()}"
        for path in (ROOT / "configs").rglob("*.py")
    }
    assert names == package | recipes | {"dlms_jax/py.typed"}
    assert b"dlms = dlms_jax.cli:main" in entry_points


def test_it_trains_a_bundled_recipe_elsewhere(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    (tmp_path / "elsewhere").mkdir()
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path / "installed"),
        "JAX_COMPILATION_CACHE_DIR": str(CACHE),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }

    def dlms(*arguments) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dlms_jax", *arguments], text=True, capture_output=True,
            cwd=tmp_path / "elsewhere", env=environment, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert str(tmp_path / "installed/dlms_jax/recipes") in dlms("recipes")
    cut = [f"--config.evaluation.{key}=16" for key in ("rows", "final_rows")]
    out = dlms("train", "--config=tiny", "--workdir=run", "--config.training.steps=5", *cut)
    assert "held-out bits/byte" in out
    assert (tmp_path / "elsewhere/run/checkpoints/5").is_dir()
