"""docs/architecture.md: the tree of the package with the first sentence of each file's docstring.

python tests/architecture.py > docs/architecture.md
"""

import ast
import pathlib
import re
import sys
import textwrap

ROOT = pathlib.Path(__file__).parents[1] / "dlms_jax"
# In the order of the way from text to released weights.
ROOMS = (
    "prepare", "config", "data", "diffusion", "models", "parallel", "checkpoints", "denoiser",
    "sampling", "evaluation", "conversion", "training", "runtime", "planning", "studies", "testing",
)  # fmt: skip
_INDENT, _WIDTH = 26, 100  # of the column of sentences; of a line
_PAGE = """\
# Architecture

A file at the top of the package is something that a person calls. A folder is a concept. Read the
folders in this order and you follow a text from raw bytes to released weights. Imports point one
way, which `tests/test_imports.py` holds:

```
errors, files, terminal <- config <- data, diffusion, models, parallel <- checkpoints
<- denoiser, sampling <- evaluation, conversion <- training <- runtime, planning <- studies
<- the files at the top
```

`diffusion/`, `sampling/` and `models/` do not import one another's networks. They meet in a
`Denoiser` (`diffusion/protocol.py`), the function from noisy tokens to logits. Five seams carry
everything else:

- **A loss is a function** `loss_fn(params, frozen, batch, key, step) -> Loss`. The step of
  `training/step.py` takes any. `frozen` are weights that the loss reads and does not train.
- **Corruption can be asked for**: `Objective.corrupt` at given times, `corrupt_with` for given
  masks.
- **An objective states its traits** (`config/traits.py`), so no other file asks for its name.
- **A prediction is a function of logits** (`sampling/prediction.py`). It never calls a network.
- **The state of a sampler is per row** (`sampling/sampler.py`), so rows may be at different steps.

The lines below are the first sentences of the files' docstrings (`python tests/architecture.py`).
"""


def summary(path: pathlib.Path) -> str:
    """Returns the first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[^.])\.(?: |$)", paragraph)[0]


def lines_of(folder: pathlib.Path, indent: int) -> list[str]:
    """Returns the lines of a folder: its files, then its folders, by name."""
    files = sorted(path for path in folder.glob("*.py") if not path.name.startswith("__"))
    folders = sorted(path.parent for path in folder.glob("*/__init__.py"))
    lines = [_line(path.name, summary(path), indent) for path in files]
    for inner in folders:
        lines += [_line(f"{inner.name}/", summary(inner / "__init__.py"), indent)]
        lines += lines_of(inner, indent + 2)
    return lines


def _line(name: str, text: str, indent: int) -> str:
    first = f"{' ' * indent}{name:<{_INDENT - indent}}"
    return textwrap.fill(text, _WIDTH, initial_indent=first, subsequent_indent=" " * _INDENT)


def page() -> str:
    """Returns docs/architecture.md."""
    parts = [_PAGE]
    files = [line for line in lines_of(ROOT, 0) if not line.startswith((" ", *ROOMS))]
    parts.append("## What a person calls\n\n```\n" + "\n".join(files) + "\n```\n")
    for room in ROOMS:
        title = f"## {room}/\n\n{summary(ROOT / room / '__init__.py')}.\n"
        parts.append(title + "\n```\n" + "\n".join(lines_of(ROOT / room, 0)) + "\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
