"""Which mesh axes shard which parameter: one table of patterns over the parameter's path."""

import contextlib
import re

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from dlms_jax.config import MeshConfig
from dlms_jax.errors import UserError
from dlms_jax.parallel.mesh import AnyMesh, make_mesh

# The first pattern that matches the end of a path applies. The layer axis (the first) is not split.
# `tensor` splits the columns of the first of two matmuls and the rows of the second (Megatron-LM,
# arXiv 1909.08053). Conditioning on time and class is narrow: its small side is not split, so it
# need not divide.
RULES = (
    (r"embed/embedding", P("tensor", "fsdp")),
    (r"embed/table", P("tensor", "fsdp")),
    (r"embed/(in|estimate)_proj/kernel", P("fsdp", "tensor")),
    (r"embed/(schedule|in_proj/bias)", P()),
    (r"lm_head/kernel", P("fsdp", "tensor")),
    (r"conditioning/(in|out)_proj/(kernel|bias)", P()),
    (r"conditioning/class_embedding", P()),
    # Layers of the Transformer, and of the encoder that reads prompts.
    (r"layers/(cross_)?attn/[qkv]_proj/kernel", P(None, "fsdp", "tensor")),
    (r"layers/(cross_)?attn/[qkv]_proj/bias", P(None, "tensor")),
    (r"layers/(cross_)?attn/o_proj/kernel", P(None, "tensor", "fsdp")),
    (r"layers/mlp/(gate|up)_proj/kernel", P(None, "fsdp", "tensor")),
    (r"layers/mlp/down_proj/kernel", P(None, "tensor", "fsdp")),
    # Router and experts: (layer, expert, in, out).
    (r"layers/mlp/gate/kernel", P(None, "fsdp")),
    (r"layers/mlp/experts/(gate|up)_proj/kernel", P(None, "expert", "fsdp", "tensor")),
    (r"layers/mlp/experts/down_proj/kernel", P(None, "expert", "tensor", "fsdp")),
    (r"layers/(cross_attn|attn|mlp)_modulation/proj/kernel", P(None, None, "fsdp")),
    (r"layers/(cross_attn|attn|mlp)_modulation/proj/bias", P()),
    # Blocks of the U-Net, which have no layer axis, and the final norm.
    (r"attn/[qkv]_proj/kernel", P("fsdp", "tensor")),
    (r"attn/[qkv]_proj/bias", P("tensor")),
    (r"attn/o_proj/kernel", P("tensor", "fsdp")),
    (r"(in_conv|out_conv|merge)/kernel", P("fsdp", "tensor")),
    (r"(shorten|lengthen)_\d+/kernel", P("fsdp", "tensor")),
    (r"(in|out)_conv/bias", P()),
    (r"modulation/proj/kernel", P(None, "fsdp")),
    (r"modulation/proj/bias", P()),
    (r"norm/scale", P()),
    (r"ns_coeffs", P()),  # constants that optax's Muon keeps in its state
    (r"recent", P()),  # losses and gradient norms of the last steps
)


def path_string(path) -> str:
    """Returns a JAX tree path as a string such as "layers/attn/q_proj/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def spec_of(path: str) -> P:
    """Returns the PartitionSpec of a parameter.

    Args:
      path: the string of `path_string`.

    Raises:
      ValueError: no rule matches the path.
    """
    for pattern, spec in RULES:
        if re.search(rf"(^|/|_){pattern}$", path):
            return spec
    raise ValueError(f"parallel/rules.py has no rule for the parameter {path}")


def shardings(tree, mesh: AnyMesh):
    """Returns the NamedSharding of every leaf of a tree of parameters.

    Args:
      tree: parameters, their moving average or an optimizer's moments, as arrays or
        ShapeDtypeStructs. Scalars are replicated.
      mesh: the device mesh.

    Raises:
      UserError: a dimension does not divide over its mesh axis.
    """

    def sharding(path, leaf):
        if leaf.ndim == 0:
            return NamedSharding(mesh, P())
        name = path_string(path)
        spec = spec_of(name)
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                raise UserError(
                    f"{name} has a dimension of {size}, which does not divide over "
                    f"config.mesh.{axis}={mesh.shape[axis]}; change the size or the mesh"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding, tree)


def largest_mesh(shapes, most: int) -> Mesh:
    """Returns the largest mesh along `fsdp` that the sizes of a tree divide over.

    Args:
      shapes: a tree of parameters, as arrays or ShapeDtypeStructs.
      most: number of devices; the mesh has this many or one of its divisors.
    """
    for number in (n for n in range(most, 1, -1) if most % n == 0):
        mesh = make_mesh(MeshConfig(data=1, fsdp=number, tensor=1), jax.devices()[:number])
        with contextlib.suppress(UserError):
            shardings(shapes, mesh)
            return mesh
    return make_mesh(MeshConfig(data=1), jax.devices()[:1])


def abstract(shapes, mesh: AnyMesh):
    """Returns `shapes` as ShapeDtypeStructs with shardings, into which a checkpoint is restored."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        shardings(shapes, mesh),
    )
