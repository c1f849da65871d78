"""The README.md of a release, with the exact commands for its version."""

import shlex

from dlms_jax import __version__
from dlms_jax.conversion.bundle.scripts import PYTHON
from dlms_jax.conversion.export_source import ExportSource

_DESCRIPTIONS = {  # in the order in which a reader needs the files
    "run_demo.sh": "samples text, on Linux",
    "run_demo.bat": "the same on Windows",
    "demo.py": "the program that both of them run",
    "requirements.txt": "the packages that it installs",
    "requirements-jax.txt": "the packages that it installs for `--jax`",
    "model/": "the weights for PyTorch, with a model card (README.md)",
    "checkpoint/": "the checkpoint for JAX, with the state of the optimizer",
    "source/": "the source of dlms_jax",
    "config.json": "all settings of the run",
    "metrics.csv": "the log of the run",
    "curves.png": "the log as curves",
    "LICENSE": "the licence of the programs",
    "SHA256SUMS": "the sha256 of every other file",
}
_JAX = """
## JAX

To sample from the JAX checkpoint, in a virtual environment of its own (`.venv-jax`):

```
bash run_demo.sh --jax "The "
```

After that, the commands of dlms_jax work in `source/`:

```
cd source
../.venv-jax/bin/python -m dlms_jax.sample --checkpoint ../checkpoint --prompt "The "
```
"""


def readme(release, source: ExportSource, names: list[str], packages: dict[str, str]) -> str:
    """Returns the text of README.md.

    Args:
      release: the Release.
      source: the checkpoint.
      names: the names of the other files of the release.
      packages: the versions that the demo was tested with, by package.
    """
    title, config = release.title, source.config
    pins = ", ".join(f"{name} {version}" for name, version in packages.items())
    command = shlex.join(
        [
            *("python", "-m", "dlms_jax.release"),
            *("--checkpoint", f"runs/{source.folder.parents[1].name}", "--out", "dist"),
            *("--name", release.name, "--version", release.version, *release.options),
        ]
    )
    weights = "the moving average of the weights" if source.item == "ema" else "the weights"
    there = [*names, "SHA256SUMS"]
    files = "\n".join(
        f"| {name} | {description} |"
        for name, description in _DESCRIPTIONS.items()
        if any(n.startswith(name) for n in there)
    )
    jax = _JAX if release.with_checkpoint else ""
    return f"""# {release.name}, version {release.version}

A language model ({config.objective.name}, {config.model.name}) trained by dlms_jax {__version__},
and a demo that runs it with PyTorch. [model/README.md](model/README.md) has its size, held-out
numbers, data and recipe.

## Run

You need Linux and Python {PYTHON[0]}.{PYTHON[1]} or newer:

```
tar xzf {title}-linux.tar.gz
cd {title}
bash run_demo.sh
bash run_demo.sh "The " "Python is" --length 64 --seed 1
```

Each run first compares every file with SHA256SUMS. The first run makes a virtual environment
(`.venv`) in this folder, with the packages that the demo was tested with: {pins}.
On Linux, pip installs PyTorch with CUDA, which takes some GB. For the smaller PyTorch for CPUs:

```
PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu bash run_demo.sh
```

Without a network, `--here` uses a Python that already has these packages:

```
bash run_demo.sh --here "The "
PYTHON=/path/to/python bash run_demo.sh --here "The "
```

`bash run_demo.sh --help` lists all options.

On Windows, unpack {title}-linux.zip and run `run_demo.bat "The "` there. It is generated from the
same steps as run_demo.sh, but **has never been run**: no Windows machine was available.
{jax}
## Check

```
sha256sum --check --quiet SHA256SUMS
```

## How it was made

```
{command}
```

by dlms_jax {__version__}, from the checkpoint of step {source.folder.name}; model/ has {weights}.
The same checkpoint and the same versions of Python and its packages give the same bytes again.

To train again with the settings of config.json, on a machine with dlms_jax and the run's texts:

```python
import json
from dlms_jax import Trainer

with open("config.json") as file:
    Trainer("runs/{release.name}").train(json.load(file))
```

## Files

| | |
|-|-|
{files}

Licence: {release.licence or "not stated"} for the weights; Apache-2.0 (LICENSE) for the programs.
"""
