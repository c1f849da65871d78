"""What a run may not change when it resumes."""

import pathlib
from typing import Any

from dlms_jax.config import SETTINGS, Config, changed_settings, from_dict
from dlms_jax.errors import UserError


def check_same_run(config: Config, saved: dict[str, Any], workdir: pathlib.Path):
    """Raises UserError where a workdir's run cannot resume with this config."""
    changed = [
        f"config.{key} was {before!r}, is {now!r}"
        for key, before, now in changed_settings(from_dict(saved["config"]), config)
        if not SETTINGS[key].changeable
    ]
    if changed:
        raise UserError(
            f"{workdir} holds another run ({', '.join(changed)}); use another --workdir"
        )
