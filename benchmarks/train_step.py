"""The train step against this machine's own matmul peak, and against its variants.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --config=configs/tiny.py

The default is width 512. The variants run in turns; the peak is the best matmul of all those timed
before, between and after them. MFU: the FLOPs that the step needs by formula (models/sizes.py), not
those that it does, over the peak.
"""

import argparse
import dataclasses

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from timing import seconds_in_turns, temporary_bytes

from dlms_jax.config import from_dict, load_config
from dlms_jax.data.packing import Rows
from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.diffusion import make_objective
from dlms_jax.models import train_flops
from dlms_jax.parallel.mesh import make_mesh, to_global
from dlms_jax.training.denoiser import make_model, vocabulary_of
from dlms_jax.training.hardware import measure_matmul
from dlms_jax.training.optimizer import make_optimizer
from dlms_jax.training.state import sharded_state
from dlms_jax.training.step import make_train_step

WIDTH_512 = {
    "model": {"width": 512, "num_layers": 4, "num_heads": 8, "dtype": "float32",
              "scan_layers": False},
    "data": {"sequence_length": 256},
    "training": {"batch_size": 16},
}  # fmt: skip
VARIANTS = {
    "as configured": {},
    "plain head": {"training": {"head": "plain"}},
    "scanned layers": {"model": {"scan_layers": True}},
    "unrolled layers": {"model": {"scan_layers": False}},
    "muon": {"optimizer": {"name": "muon"}},
    "adamw": {"optimizer": {"name": "adamw"}},
    "autoregressive": {"objective": {"name": "autoregressive"}},
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="a recipe (default: width 512, 4 layers, 16 x 256 bytes)")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    config = load_config(arguments.config) if arguments.config else from_dict(WIDTH_512)

    peaks = [measure_matmul()]
    programs, memory, flops, seen = {}, {}, {}, []
    for name, changes in VARIANTS.items():
        variant = config
        for section, values in changes.items():
            part = dataclasses.replace(getattr(variant, section), **values)
            variant = dataclasses.replace(variant, **{section: part})
        if variant not in seen:
            seen.append(variant)
            programs[name], memory[name], flops[name] = prepare(variant)
    seconds = seconds_in_turns(programs, arguments.repeats, lambda: peaks.append(measure_matmul()))

    peak = max(peaks)
    tokens = config.training.batch_size * config.data.sequence_length
    device = jax.devices()[0].device_kind
    table = Table(
        title=f"train step, width {config.model.width}, {config.model.num_layers} layers, "
        f"{tokens} tokens; {device}, matmul peak {peak / 1e9:.0f} GFLOP/s"
    )
    for column in ("variant", "seconds", "tokens/s", "MFU", "temporary memory"):
        table.add_column(column)
    for name in memory:
        table.add_row(
            name, f"{seconds[name]:.3f}", f"{tokens / seconds[name]:.0f}",
            f"{flops[name] * tokens / seconds[name] / peak:.0%}", f"{memory[name] / 2**20:.0f} MiB",
        )  # fmt: skip
    Console().print(table)


def prepare(config):
    """Returns (a function that takes one step, its temporary bytes, its FLOPs for a token)."""
    mesh = make_mesh(config.mesh)
    vocabulary = vocabulary_of(ByteTokenizer())
    objective = make_objective(config, vocabulary)
    model = make_model(config, vocabulary.rows, mesh)
    tx = make_optimizer(config.optimizer, config.training.steps)
    state = sharded_state(config, model, tx, mesh)
    step = make_train_step(config, model, objective, tx, mesh)
    shape = config.training.batch_size, config.data.sequence_length
    tokens = np.random.default_rng(0).integers(0, 256, shape, np.int32)
    tokens[:, 0] = vocabulary.bos_id
    positions = np.tile(np.arange(shape[1], dtype=np.int32), (shape[0], 1))
    classes = np.zeros(shape[0], np.int32)
    rows = Rows(tokens, np.ones(shape, np.int32), positions, positions > 0, classes)
    rows = to_global(rows, mesh)
    memory = temporary_bytes(step, state, rows)

    def one_step():
        nonlocal state
        state, metrics = step(state, rows)
        return state, metrics

    flops = train_flops(
        config, vocabulary.rows, shape[1],
        head_share=0.5 if config.objective.name in ("masked", "block") else 1.0,
    )  # fmt: skip
    return one_step, memory, flops


if __name__ == "__main__":
    main()
