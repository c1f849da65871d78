"""The memory of a train step on one device, by kind.

What the step is given is exact: shapes, divided by the mesh. What it makes on the way is a model,
`temporaries`, for where no compiler can be asked; docs/scale.md has the two beside one another.
"""

from typing import NamedTuple

import jax
import numpy as np

from dlms_jax.denoiser.attention_kernels import attention_kernel
from dlms_jax.planning.program import Program

GIB = 2**30
KEPT = "kept for the backward pass"
_FETCHED = 2  # layers whose offloaded arrays are on the device: the one at work, and the next


class Memory(NamedTuple):
    """Bytes of one device.

    arguments: by kind, exact. padding: what tiles round the arguments up to, less those that the
    step does not use. temporaries: by kind
    where they are a model's, else one number. code: the program. aliased: of the outputs, which
    stand where the arguments stood. available: what the chip has. host: what stands in the memory
    of its host (remat offload).
    """

    arguments: dict[str, int]
    temporaries: dict[str, float]
    available: int
    padding: int = 0
    outputs: int = 0
    aliased: int = 0
    code: int = 0
    host: float = 0

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

    Kept: of each layer what `kept_by_layer` says, or of two where it is offloaded. At work: a
    layer's backward pass, with attention's scores whole where no kernel keeps them on the chip (two
    in float32, one in the network's type); or the head, where that is more: a chunk's logits three
    times, the gathered kernel and its float32 gradient (all logits where it is plain). Gradients:
    float32, laid out as the parameters, twice where they are accumulated. Weights: two gathered
    layers.
    """
    config, c = program.config, program.config.model
    size = 2 if c.dtype == "bfloat16" else 4
    tokens, layers = local_tokens(program), depth(program)
    scores = 0 if in_kernel(program) else pairs(program)
    there = min(layers, _FETCHED) if c.remat == "offload" else layers
    accumulated = config.training.accumulation_steps > 1
    gradients = sum(map(local_bytes, jax.tree.leaves(program.state.params)))
    return {
        KEPT: there * kept_by_layer(program),
        "a layer or the head at work": max(
            scores * (4 + 4 + size) + 2 * _matmuls(program), _head(program, tokens, size)
        ),
        "gradients": gradients * (2 if accumulated else 1),
        "gathered weights": 2 * gathered_parameters(program) / layers * size,
    }


def kept_by_layer(program: Program) -> float:
    """Returns the bytes that the backward pass finds of a layer: its input (remat full); with what
    its matmuls gave as far as it is asked for, which is not what is only added, and what its kernel
    of attention gave (dots, offload); or with all, its scores, where no kernel keeps them on the
    chip, and what is between the matmuls, taken to be twice their results (none)."""
    c = program.config.model
    size = 2 if c.dtype == "bfloat16" else 4
    tokens = local_tokens(program)
    remat = "none" if c.name == "unet" else c.remat
    kept = tokens * size * c.width
    if remat == "none":
        scores = 0 if in_kernel(program) else pairs(program)
        return kept + 3 * _matmuls(program) + scores * (4 + size)
    if remat == "full":
        return kept
    if in_kernel(program):  # its result, and each row's sum of exponentials
        kept += tokens * c.num_heads / program.mesh.shape["tensor"] * (c.per_head * size + 4)
    added = 0 if c.experts else tokens * size * c.width  # experts' outputs are weighed first
    return kept + _matmuls(program) - added


def host(program: Program) -> float:
    """Returns the bytes that a device keeps in its host's memory."""
    offloaded = program.config.model.remat == "offload"
    return depth(program) * kept_by_layer(program) if offloaded else 0


def _matmuls(program: Program) -> float:
    """Returns the bytes of all that a layer's matmuls give; peers along `expert` have room for all
    choices of one another's rows."""
    c, mesh = program.config.model, program.mesh.shape
    size = 2 if c.dtype == "bfloat16" else 4
    heads = (c.num_heads + 2 * c.kv_heads) * c.per_head
    choices = c.experts_per_token if c.experts else 1
    attention = heads / mesh["tensor"] + c.width
    mlp = 2 * feed_forward(program) / mesh["tensor"] + choices * c.width
    return local_tokens(program) * size * (attention + mesh["expert"] * mlp)


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
    length = program.config.data.sequence_length / program.mesh.shape.get("sequence", 1)
    return program.local_rows * length * program.copies


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
    if config.training.head == "plain" or program.objective.traits.inputs == "embeddings":
        return 3 * 4 * tokens * columns
    chunk = min(config.training.head_chunk, tokens)
    return columns * (3 * 4 * chunk + (size + 4) * config.model.width)
