"""The memory of a train step on one device, by kind.

`arguments` are exact: they follow from shapes and shardings. `temporaries` is an estimate for use
without a compiler; docs/scale.md compares it with compiled steps.
"""

from typing import NamedTuple

import jax
import numpy as np

from dlms_jax.denoiser.attention_kernels import attention_kernel
from dlms_jax.planning.program import Program

GIB = 2**30
KEPT = "kept for the backward pass"
_FETCHED = 2  # layers whose offloaded arrays are on the device: the current and the next one


class Memory(NamedTuple):
    """The memory of a step on one device, in bytes.

    Attributes:
      arguments: exact, by kind.
      temporaries: by kind if they are estimated, one number if compiled.
      available: the HBM of the chip.
      padding: bytes by which tiling enlarges the arguments, minus the arguments that the step does
        not use.
      outputs: all outputs.
      aliased: the outputs that reuse the memory of arguments.
      code: the program.
      host: bytes in the memory of the host (remat offload).
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
        """Returns the peak use of HBM."""
        given = sum(self.arguments.values()) + self.padding
        return given + sum(self.temporaries.values()) + self.code + self.outputs - self.aliased

    @property
    def margin(self) -> float:
        """Returns the share of HBM that is free; negative if the step does not fit."""
        return 1 - self.total / self.available

    @property
    def fits(self) -> bool:
        """Returns whether the step fits the chip's HBM."""
        return self.margin >= 0


def arguments(program: Program) -> dict[str, int]:
    """Returns {kind: bytes} of the step's arguments on one device."""
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
    """Returns the bytes of one device's shard of an abstract array."""
    shape = leaf.sharding.shard_shape(leaf.shape)
    return int(np.prod(shape, dtype=np.int64)) * leaf.dtype.itemsize


def temporaries(program: Program) -> dict[str, float]:
    """Returns {kind: bytes} of a step's temporaries on one device, as an estimate:

    - kept for the backward pass: `kept_by_layer` for each layer, or for two with remat offload.
    - at work: the larger of a layer's backward pass and the head. The layer holds the attention
      scores unless a kernel keeps them on the chip (two copies in float32, one in the network's
      type). The head holds the logits of a chunk three times, the gathered kernel and its float32
      gradient; with the plain loss, all logits three times.
    - gradients: float32, sharded like the parameters, twice if they are accumulated.
    - gathered weights: two layers.
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
    """Returns the bytes that a layer keeps for the backward pass, by remat.

    - full: the layer's input.
    - dots, offload: also the results of matmuls that a gradient needs, and the output of the
      attention kernel. A result that is only added to the residual is not needed.
    - none: also the attention scores, unless a kernel keeps them on the chip, and all arrays
      between the matmuls, estimated as twice the matmuls' results.
    """
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
    if in_kernel(program):  # its result and the log-sum-exp of each query
        kept += tokens * c.num_heads / program.mesh.shape["tensor"] * (c.per_head * size + 4)
    added = 0 if c.experts else tokens * size * c.width  # experts' outputs are weighted first
    return kept + _matmuls(program) - added


def host(program: Program) -> float:
    """Returns the bytes that a device offloads to its host's memory."""
    offloaded = program.config.model.remat == "offload"
    return depth(program) * kept_by_layer(program) if offloaded else 0


def _matmuls(program: Program) -> float:
    """Returns the bytes of the results of a layer's matmuls.

    Devices along `expert` have buffers for all tokens of their peers.
    """
    c, mesh = program.config.model, program.mesh.shape
    size = 2 if c.dtype == "bfloat16" else 4
    heads = (c.num_heads + 2 * c.kv_heads) * c.per_head
    choices = c.experts_per_token if c.experts else 1
    attention = heads / mesh["tensor"] + c.width
    mlp = 2 * feed_forward(program) / mesh["tensor"] + choices * c.width
    return local_tokens(program) * size * (attention + mesh["expert"] * mlp)


def gathered_parameters(program: Program) -> float:
    """Returns the number of parameters in the layers' matrices on a device after fsdp's gathers.

    Only the device's own experts count.
    """
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
    """Returns the number of layers; for a U-Net, of its blocks."""
    c = program.config.model
    return 2 * c.unet_levels * c.unet_blocks + 1 if c.name == "unet" else c.num_layers


def feed_forward(program: Program) -> float:
    """Returns the feed-forward size per token; with experts, the sum over those that it uses."""
    c = program.config.model
    if c.experts:
        return c.experts_per_token * c.expert_hidden
    return c.hidden


def local_tokens(program: Program) -> float:
    """Returns the positions that a device processes at a time: two per token in block diffusion."""
    length = program.config.data.sequence_length / program.mesh.shape.get("sequence", 1)
    return program.local_rows * length * program.copies


def in_kernel(program: Program) -> bool:
    """Returns whether the splash kernel keeps the attention scores on the chip."""
    return attention_kernel(program.config, program.mesh) == "splash"


def pairs(program: Program) -> float:
    """Returns the number of attention scores of a layer on a device, masked ones included."""
    c, shape = program.config.model, program.mesh.shape
    places = local_tokens(program) ** 2 / program.local_rows * shape.get("sequence", 1)
    return places * c.num_heads / shape["tensor"]


def _head(program: Program, tokens: float, size: int) -> float:
    config, tensor = program.config, program.mesh.shape["tensor"]
    columns = program.head_rows / tensor
    if (
        config.training.loss_implementation == "plain"
        or program.objective.traits.inputs == "embeddings"
    ):
        return 3 * 4 * tokens * columns
    chunk = min(config.training.loss_chunk_size, tokens)
    return columns * (3 * 4 * chunk + (size + 4) * config.model.width)
