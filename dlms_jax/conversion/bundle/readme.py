"""The README.md of a release: the exact commands of its version."""

import shlex

from dlms_jax import __version__
from dlms_jax.conversion.bundle.scripts import PYTHON
from dlms_jax.conversion.export_source import ExportSource

_ABOUT = {  # in the order in which a reader needs them
    "run_demo.sh": "samples text, on Linux",
    "run_demo.bat": "the same on Windows",
    "demo.py": "what both of them run",
    "requirements.txt": "what it installs",
    "requirements-jax.txt": "what it installs for `--jax`",
    "model/": "the weights for PyTorch, with their model card, README.md",
    "checkpoint/": "the checkpoint for JAX, with the optimizer's state",
    "source/": "dlms_jax itself",
    "config.json": "every setting of the run",
    "metrics.csv": "the run's log",
    "curves.png": "the log as curves",
    "LICENSE": "of the programs",
    "SHA256SUMS": "of every file but itself",
}
_JAX = """
## JAX

```
bash run_demo.sh --jax "The "
```

samples from the JAX checkpoint, in an environment of its own (`.venv-jax`). With that, the commands
of dlms_jax work in `source/`:

```
cd source
../.venv-jax/bin/python -m dlms_jax.sample --checkpoint ../checkpoint --prompt "The "
```
"""


def readme(release, source: ExportSource, names: list[str], packages: dict[str, str]) -> str:
    """Returns the text. names: of the other files. packages: versions that were tested."""
    title, config = release.title, source.config
    pins = ", ".join(f"{name} {version}" for name, version in packages.items())
    made = [
        "python",
        "-m",
        "dlms_jax.release",
        "--checkpoint",
        f"runs/{source.folder.parents[1].name}",
        "--out",
        "dist",
        "--name",
        release.name,
        "--version",
        release.version,
        *release.options,
    ]
    weights = "the moving average" if source.item == "ema" else "the weights themselves"
    there = [*names, "SHA256SUMS"]
    files = [
        f"| {name} | {about} |"
        for name, about in _ABOUT.items()
        if any(n.startswith(name) for n in there)
    ]
    jax = _JAX if release.with_checkpoint else ""
    files = "\n".join(files)
    return f"""# {release.name}, version {release.version}

A language model ({config.objective.name}, {config.model.name}) trained by dlms_jax {__version__},
and a demo that runs it by PyTorch. Its size, its held-out numbers, its data and its recipe are in
[model/README.md](model/README.md).

## Run

With Python {PYTHON[0]}.{PYTHON[1]} or newer, on Linux:

```
tar xzf {title}-linux.tar.gz
cd {title}
bash run_demo.sh
bash run_demo.sh "The " "Python is" --length 64 --seed 1
```

Each run compares every file with SHA256SUMS first. The first one makes a virtual environment
(`.venv`) here, with what the demo was tested with: {pins}.
On Linux pip takes PyTorch with CUDA, some GB; the smaller one, for CPUs alone, comes with

```
PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu bash run_demo.sh
```

Without a network, `--here` takes a Python that has these packages already:

```
bash run_demo.sh --here "The "
PYTHON=/path/to/python bash run_demo.sh --here "The "
```

`bash run_demo.sh --help` tells the rest.

On Windows, unpack {title}-linux.zip and run `run_demo.bat "The "` there. It is written from the
same steps as run_demo.sh, but **has never been run**: no Windows was at hand.
{jax}
## Check

```
sha256sum --check --quiet SHA256SUMS
```

## How it was made

```
{shlex.join(made)}
```

by dlms_jax {__version__}, from the checkpoint of step {source.folder.name}; model/ has {weights}.
From the same checkpoint, the same versions of Python and its packages make the same bytes again.

To train anew with the settings of config.json, where dlms_jax and the run's texts are:

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

Licence: {release.licence or "not stated"} for the weights; for the programs Apache-2.0 (LICENSE).
"""
