"""Weights that a loss reads and does not train: a teacher, a reference, the base of an adapter."""

import hashlib
import pathlib
from typing import Any

import jax

from dlms_jax.parallel.mesh import to_local
from dlms_jax.parallel.rules import path_string


def describe_frozen(folder: str | pathlib.Path, frozen: Any) -> dict[str, str]:
    """Returns {"path", "sha256"} of frozen weights, for a checkpoint's metadata ("frozen").

    The hash is over the leaves in the order of their paths, so it does not depend on the mesh. One
    leaf at a time is whole on each process, all of which must ask.

    Args:
      folder: the checkpoint that the weights came from.
      frozen: the tree of arrays.
    """
    leaves = {path_string(path): x for path, x in jax.tree_util.tree_leaves_with_path(frozen)}
    digest = hashlib.sha256()
    for path in sorted(leaves):
        array = to_local(leaves[path])
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return {"path": str(folder), "sha256": digest.hexdigest()}
