"""The train steps that the benchmarks compare: ours, its variants, and a newcomer's."""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple

import jax
import newcomer
import numpy as np
from timing import program_bytes

from dlms_jax.config import Config, traits_of
from dlms_jax.data.packing import Rows
from dlms_jax.errors import UserError
from dlms_jax.parallel.mesh import make_mesh, to_global
from dlms_jax.planning.program import make_program

NEWCOMER = "newcomer"
VARIANTS = {
    "dlms_jax": {},
    "full logits": {"training": {"loss_implementation": "plain"}},
    "plain attention, unscanned": {"model": {"attention": "xla", "scan_layers": False}},
    "everything kept": {"model": {"remat": "none"}},
    "muon": {"optimizer": {"name": "muon"}},
    "autoregressive": {"objective": {"name": "autoregressive"}},
}


class Step(NamedTuple):
    """A compiled train step.

    Attributes:
      take: does one step and returns (state, metrics); the next call donates that state.
      memory: bytes of the compiled program.
      flops: FLOPs of the step by formula.
      parameters: number of parameters.
    """

    take: Callable
    memory: int
    flops: float
    parameters: int


def settings(width: int, layers: int, vocabulary: int, length: int, batch: int) -> dict:
    """Returns the settings of a masked step with heads of size 64, in float32."""
    return {
        "model": {
            "width": width,
            "num_layers": layers,
            "num_heads": width // 64,
            "dtype": "float32",
        },
        "tokenizer": {"name": "bpe", "vocab_size": vocabulary},
        "data": {"sequence_length": length},
        # Small chunks, because the last one is only partly filled.
        "training": {"batch_size": batch, "loss_chunk_size": 256},
    }


def prepare(config: Config, name: str = "dlms_jax") -> Step:
    """Returns the compiled step of a variant or NEWCOMER, with random weights and tokens."""
    if name == NEWCOMER:
        return _newcomer(config)
    for section, values in VARIANTS[name].items():
        part = dataclasses.replace(getattr(config, section), **values)
        config = dataclasses.replace(config, **{section: part})
    program = make_program(config, make_mesh(config.mesh))
    state, rows = program.initial_state(), to_global(_rows(program), program.mesh)
    compiled = program.step().lower(state, (), rows).compile()
    return _step(compiled, state, ((), rows), program.flops)


def check_newcomer(config: Config):
    """Checks that the newcomer's step can have a config.

    Raises:
      UserError: it does not support the network or objective.
    """
    c, traits = config.model, traits_of(config)
    plain = c.prompt_encoder == "none" and c.conditioning == "none" and not c.experts
    masked = traits.order == "any" and not traits.needs_time
    if not masked or c.name != "transformer" or not plain:
        raise UserError(
            f"the recipe {config.name!r} is not a masked Transformer without experts, conditioning "
            f"and encoder, as the newcomer's step is; use --variants without {NEWCOMER!r}"
        )


def _newcomer(config: Config) -> Step:
    check_newcomer(config)
    c = config.model
    program = make_program(config, make_mesh(devices=jax.devices()[:1]))
    vocabulary, length = program.objective.vocabulary, config.data.sequence_length
    model = newcomer.Denoiser(
        vocabulary.padded_size,
        c.width,
        c.num_layers,
        c.num_heads,
        c.per_head,
        3 * c.hidden // 2,  # two matrices as large as the three of SwiGLU
        c.dtype,
        vocabulary.pad_id,
    )
    state = newcomer.make_state(model, length, jax.random.key(0))
    arguments = jax.device_put(_rows(program).tokens_RxL), jax.random.key(1)
    step = newcomer.make_step(vocabulary.mask_id)
    compiled = step.lower(state, *arguments).compile()
    return _step(compiled, state, arguments, program.flops)


def _step(compiled, state, arguments, flops) -> Step:
    def take():
        nonlocal state
        state, metrics = compiled(state, *arguments)
        return state, metrics

    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    return Step(take, program_bytes(compiled), flops, parameters)


def _rows(program) -> Rows:
    """Returns random rows of one document each."""
    vocabulary, (rows, length) = program.objective.vocabulary, program.rows.tokens_RxL.shape
    tokens = np.random.default_rng(0).choice(vocabulary.text_ids(), (rows, length))
    tokens[:, 0] = vocabulary.bos_id
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    segments, classes = np.ones_like(positions), np.zeros(rows, np.int32)
    return Rows(tokens, segments, positions, positions > 0, classes)
