"""FLOPs, HBM traffic and network traffic of a step by formula.

They serve without a compiler, and as a check of the compiled numbers.

HBM: without the splash kernel, attention scores are 4-byte arrays that are written and read several
times: 16 bytes per pair forward, 21 recomputed and 21 backward, measured on a compiled step of
`large` for v5p. A layer's other arrays move twice per pass, and backward counts as two passes.
Activations that are kept for the backward pass are written and read once more.

The kernel (models/splash.py) has three passes, one forward and two backward. Each reads one side of
the pairs again for every tile of the other. Both backward passes compute the scores and their
gradients.
"""

import jax

from dlms_jax.models.sizes import attended_pairs
from dlms_jax.models.splash import tile_of
from dlms_jax.planning import memory
from dlms_jax.planning.collectives import Sent
from dlms_jax.planning.program import Program

_PAIR_BYTES = {"forward": 16, "again": 21, "backward": 21}


def executed_flops(program: Program) -> float:
    """Returns the FLOPs of a step, all devices together, recomputation included."""
    c, useful = program.config.model, program.flops
    if c.name == "unet":
        return useful
    pair = (
        2
        * 2
        * c.num_heads
        * c.per_head
        * attended_pairs(program.config, program.config.data.sequence_length)
    )
    attention = program.tokens * c.num_layers * pair
    kernel = memory.in_kernel(program)
    if kernel:  # seven matmuls backward instead of four
        useful += 3 / 2 * attention
    if c.remat == "none" or (c.remat != "full" and kernel):
        return useful
    if c.remat != "full":  # keeps the results of matmuls, except of plain attention
        return useful + attention
    if c.experts:  # a token uses few of a layer's parameters
        share = 6 * program.head_share * c.width * program.head_rows * program.tokens
        return useful + (useful - share) / 3
    return useful + _layers_flops(program) + attention


def int8_flops(program: Program) -> float:
    """Returns the int8 part of the executed FLOPs.

    Of the three products with a layer's matrix two are int8, and so is the one that remat repeats.
    """
    c = program.config.model
    if c.quantization != "int8":
        return 0.0
    return _layers_flops(program) * (3 if c.remat == "full" else 2)


def _layers_flops(program: Program) -> float:
    """Returns the FLOPs of the layers' matrices in the forward pass of a step."""
    whole = memory.gathered_parameters(program) * program.mesh.shape["tensor"]
    return program.tokens * program.copies * 2 * whole


def hbm_bytes(program: Program) -> float:
    """Returns the bytes that one device reads from and writes to HBM in a step."""
    config = program.config
    c, tensor = config.model, program.mesh.shape["tensor"]
    parts = config.training.accumulation_steps
    size = 2 if c.dtype == "bfloat16" else 4
    again = c.remat == "full"
    tokens = memory.local_tokens(program)
    heads = (c.num_heads + 2 * c.kv_heads) * c.per_head / tensor
    arrays = 6 * c.width + 3 * heads + 3 * memory.feed_forward(program) / tensor
    per_pair = _PAIR_BYTES["forward"] + _PAIR_BYTES["backward"]
    per_pair += _PAIR_BYTES["again"] * (c.remat != "none")
    scores = 0 if memory.in_kernel(program) else memory.pairs(program)
    layer = scores * per_pair + (4 if again else 3) * 2 * size * tokens * arrays
    weights = (8 if again else 6) * size * memory.gathered_parameters(program)
    state = [program.state.params, program.state.ema, program.state.optimizer]
    update = 2 * sum(map(memory.local_bytes, jax.tree.leaves(state)))
    kept = 2 * memory.kept_by_layer(program)
    layers = memory.depth(program) * (layer + kept)
    return parts * (layers + weights) + update + read_again(program)


def read_again(program: Program) -> float:
    """Returns the bytes of attention operands that the kernel reads from HBM more than once.

    An upper bound, because the kernel skips tiles that are masked completely. 0 without the kernel.
    """
    if not memory.in_kernel(program):
        return 0
    config = program.config
    c, size = config.model, 2 if config.model.dtype == "bfloat16" else 4
    keys = config.data.sequence_length * program.copies
    passes = 4 if c.remat == "full" else 3
    per_pair = passes * 2 * c.per_head * size / tile_of(keys) * (1 - tile_of(keys) / keys)
    layers = config.training.accumulation_steps * memory.depth(program)
    return layers * memory.pairs(program) * per_pair


def sent_bytes(program: Program) -> Sent:
    """Returns {axes: {kind: bytes}} that one device sends in a step.

    fsdp gathers every matrix in each pass and scatters its gradient. data sums gradients. tensor
    sums the outputs of each layer, twice forward and twice backward. expert gathers the rows of all
    peers and scatters the experts' outputs. sequence gathers keys and values.
    """
    config, mesh = program.config, program.mesh.shape
    c, parts = config.model, config.training.accumulation_steps
    size = 2 if c.dtype == "bfloat16" else 4
    weights = memory.gathered_parameters(program)
    head = c.width * program.head_rows / mesh["tensor"]
    tokens = memory.local_tokens(program)
    forward = 2 if c.remat == "full" else 1
    table: Sent = {}

    def share(axis):
        return (mesh[axis] - 1) / mesh[axis]

    if mesh["fsdp"] > 1:
        forth = 1 if c.quantization != "none" else size  # quantized before they are sent
        gathers = 2 * forth * weights + size * head  # forward and backward
        table["fsdp",] = {
            "all-gather": parts * gathers * share("fsdp"),
            "reduce-scatter": parts * (size * weights + 4 * head) * share("fsdp"),
        }
    if mesh["data"] > 1:
        kept = (size * weights + 4 * 2 * head) / mesh["fsdp"]
        table["data",] = {"all-reduce": parts * 2 * kept * share("data")}
    if mesh["tensor"] > 1:
        sums = 2 * c.num_layers * (forward + 1)
        moved = 2 * sums * tokens * c.width * size * share("tensor")
        table["tensor",] = {"all-reduce": parts * moved}
    if mesh["expert"] > 1:  # the rows of all peers, and the experts' outputs back
        moved = c.num_layers * (forward + 1) * (mesh["expert"] - 1) * tokens * c.width * size
        table["expert",] = {"all-gather": parts * moved, "reduce-scatter": parts * moved}
    if mesh["sequence"] > 1:  # keys and values of the whole row, and their gradients
        keys = 2 * c.kv_heads * c.per_head / mesh["tensor"] * tokens * size * c.num_layers
        moved = keys * (mesh["sequence"] - 1)
        table["sequence",] = {
            "all-gather": parts * moved * forward,
            "reduce-scatter": parts * moved,
        }
    return table
