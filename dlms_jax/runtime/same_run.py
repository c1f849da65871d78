"""What a run may not change when it goes on."""

import pathlib
from typing import Any

from dlms_jax.config import Config, changed_settings, from_dict
from dlms_jax.errors import UserError

# The rest (steps, evaluation, mesh, ...) it may.
_FIXED = ("objective", "gaussian", "block", "model", "tokenizer", "data", "optimizer")
_FIXED_LEAVES = (
    "training.seed", "training.batch_size", "training.ema_decay", "training.start_from",
)  # fmt: skip
_FREE = (
    "data.prefetch",
    "data.workers",
    "data.repeat",
    "model.attention",
    "model.matmuls",
    "model.scan_layers",
    "model.remat",
)


def check_same_run(config: Config, saved: dict[str, Any], workdir: pathlib.Path):
    """Raises UserError where a workdir's run cannot go on with this config."""
    changed = [
        (key, before, now)
        for key, before, now in changed_settings(from_dict(saved["config"]), config)
        if (key.split(".")[0] in _FIXED and key not in _FREE) or key in _FIXED_LEAVES
    ]
    if changed:
        what = ", ".join(f"config.{key} was {before!r}, is {now!r}" for key, before, now in changed)
        raise UserError(f"{workdir} holds another run ({what}); use another --workdir")
