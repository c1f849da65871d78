"""The memory of a train step on one device, by kind.

What the step is given is exact: shapes, divided by the mesh. What it makes on the way is a model,
`temporaries`, for where no compiler can be asked; docs/scale.md has the two beside one another.
"""

from typing import NamedTuple

import jax
import numpy as np

from dlms_jax.planning.program import Program
from dlms_jax.training.kernels import attention_kernel

GIB = 2**30
KEPT = "kept for the backward pass"


class Memory(NamedTuple):
    """Bytes of one device.

    arguments: by kind, exact. padding: what tiles round the arguments up to, less those that the
    step does not use. temporaries: by kind
    where they are a model's, else one number. code: the program. aliased: of the outputs, which
    stand where the arguments stood. available: what the chip has.
    """

    arguments: dict[str, int]
    temporaries: dict[str, float]
    available: int
    padding: int = 0
    outputs: int = 0
    aliased: int = 0
    code: int = 0

    @property
    def total(self) -> float:
        """Returns what stands in HBM at most."""
        given = sum(self.arguments.values()) + self.padding
        return given + sum(self.temporaries.values()) + self.code + self.outputs - self.aliased

    @property
    def margin(self) -> float:
        """Returns the share of HBM that is left; below 0 where it does not fit."""
        return 1 - self.total / self.available

    @property
    def fits(self) -> bool:
        return self.margin >= 0


def arguments(program: Program) -> dict[str, int]:
    """Returns {kind: bytes} of what the step is given, on one device."""
    state = program.state
    kinds = {
        "parameters": state.params,
        "moving average": state.ema,
        "optimizer": state.optimizer,
        "counters": state._replace(params=None, ema=None, optimizer=None),
        "batch": program.rows,
    }
    sizes = {kind: sum(map(local_bytes, jax.tree.leaves(tree))) for kind, tree in kinds.items()}
    return {kind: size for kind, size in sizes.items() if size}


def local_bytes(leaf) -> int:
    """Returns the bytes of one device's part of an abstract array."""
    shape = leaf.sharding.shard_shape(leaf.shape)
    return int(np.prod(shape, dtype=np.int64)) * leaf.dtype.itemsize


def temporaries(program: Program) -> dict[str, float]:
    """Returns {kind: bytes} of a step's temporaries on one device, by this model:

    Kept: each layer's input (remat full), and its matmuls' results (dots), and its scores and what
    is between the matmuls, which is taken to be twice as much (none). At work: a layer's backward
    pass, with attention's scores whole where no kernel keeps them on the chip (two in float32, one
    in the network's type); or the head, where that is more: a chunk's logits three times, the
    gathered kernel and its float32 gradient (all logits where it is plain). Gradients: float32,
    laid out as the parameters, twice where they are accumulated. Weights: two gathered layers.
    """
    config, mesh = program.config, program.mesh.shape
    c, tensor = config.model, mesh["tensor"]
    size = 2 if c.dtype == "bfloat16" else 4
    tokens, scores = local_tokens(program), 0 if in_kernel(program) else pairs(program)
    layers, width = depth(program), c.width
    heads = (c.num_heads + 2 * c.kv_heads) * c.per_head / tensor
    hidden = feed_forward(program) / tensor
    matmuls = tokens * size * (heads + 2 * width + 2 * hidden)
    kept = (
        tokens * size * width
        + {
            "full": 0,
            "dots": matmuls,
            "none": 3 * matmuls + scores * (4 + size),
        }["none" if c.name == "unet" else c.remat]
    )
    accumulated = config.training.accumulation_steps > 1
    gradients = sum(map(local_bytes, jax.tree.leaves(program.state.params)))
    return {
        KEPT: layers * kept,
        "a layer or the head at work": max(
            scores * (4 + 4 + size) + 2 * matmuls, _head(program, tokens, size)
        ),
        "gradients": gradients * (2 if accumulated else 1),
        "gathered weights": 2 * gathered_parameters(program) / layers * size,
    }


def gathered_parameters(program: Program) -> float:
    """Returns how many parameters of the layers' matrices a device multiplies by, after fsdp's
    gathers; of experts, its own only."""
    total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(program.state.params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.startswith(("embed/", "lm_head/")) or not any(leaf.sharding.spec):
            continue
        kept = [axis for axis in leaf.sharding.spec if axis in ("tensor", "expert")]
        split = int(np.prod([program.mesh.shape[axis] for axis in kept], dtype=int))
        total += leaf.size / split
    return total


def depth(program: Program) -> int:
    """Returns the number of layers, or of the U-Net's blocks."""
    c = program.config.model
    return 2 * c.unet_levels * c.unet_blocks + 1 if c.name == "unet" else c.num_layers


def feed_forward(program: Program) -> float:
    """Returns the feed-forward size that a token goes through; with experts, of all it chooses."""
    c = program.config.model
    if c.experts:
        return c.experts_per_token * c.expert_hidden
    return c.hidden


def local_tokens(program: Program) -> float:
    """Returns how many places a device works on at one time; block diffusion's are two a token."""
    copies = 2 if program.config.objective.name == "block" else 1
    length = program.config.data.sequence_length / program.mesh.shape.get("sequence", 1)
    return program.local_rows * length * copies


def in_kernel(program: Program) -> bool:
    """Returns whether attention's scores never leave the chip."""
    return attention_kernel(program.config, program.mesh) == "splash"


def pairs(program: Program) -> float:
    """Returns of how many pairs, hidden ones too, a layer's heads have scores on a device."""
    c, shape = program.config.model, program.mesh.shape
    places = local_tokens(program) ** 2 / program.local_rows * shape.get("sequence", 1)
    return places * c.num_heads / shape["tensor"]


def _head(program: Program, tokens: float, size: int) -> float:
    config, tensor = program.config, program.mesh.shape["tensor"]
    columns = program.head_rows / tensor
    if config.training.head == "plain" or config.objective.name == "gaussian":
        return 3 * 4 * tokens * columns
    chunk = min(config.training.head_chunk, tokens)
    return columns * (3 * 4 * chunk + (size + 4) * config.model.width)
