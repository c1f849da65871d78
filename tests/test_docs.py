"""The commands of the pages about data, run in order as a reader would; training is cut short."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

from conftest import CACHE
import pytest

CUT = " --config.training.steps=3 --config.evaluation.rows=16 --config.evaluation.final_rows=16"
ROOT = pathlib.Path(__file__).parents[1]


def blocks(page: str) -> list[tuple[str, str]]:
    """Returns (language, text) of a page's code blocks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A folder with what the pages name, and an environment whose `python` is this one."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("README.md", "CONTRIBUTING.md", "docs", "configs"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    environment = os.environ | {
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(CACHE),
    }

    def run(*command):
        return subprocess.run(
            command, cwd=folder, env=environment, text=True, timeout=300,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("page", ["docs/data.md", "docs/corpora.md"])
def test_each_command_works(page, reader):
    ran = 0
    for language, text in blocks(page):
        commands = [("python", "-c", text)] if language == "python" else []
        if not language:
            lines = [line + CUT * ("--config=" in line) for line in text.splitlines()]
            commands = [("bash", "-euo", "pipefail", "-c", line) for line in lines]
        for command in commands:
            done = reader(*command)
            assert done.returncode == 0, f"{command[-1]}\n{done.stdout}"
            ran += 1
    assert ran >= 1


def test_the_pages_have_their_commands():
    """A block whose language is misspelt would not be run."""
    assert {language for language, _ in blocks("docs/data.md")} == {"", "python", "text"}
    commands = [text for language, text in blocks("docs/data.md") if not language]
    for name in ("dataset", "tokenizer", "corpus", "clean", "chat", "verify"):
        assert any(f"dlms_jax.prepare {name}" in text for text in commands), name
