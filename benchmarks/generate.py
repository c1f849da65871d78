"""Measure sampling with and without a key-value cache: autoregressive and block diffusion.

    python benchmarks/generate.py
    python benchmarks/generate.py --config=configs/tiny.py --length=255 --rows=4

Weights are random, and every text fills all of its holes. The variants run in turns. "ms a token"
is the time per position of all rows together. The last column is the share of tokens that equal
those of the same sampler without a cache. Rounding of logits can change a draw, and then all later
tokens of the row.
"""

import argparse
import dataclasses

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from timing import seconds_in_turns, temporary_bytes

from dlms_jax.config import from_dict, load_config
from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.denoiser import initial_params, make_denoiser, make_network, vocabulary_of
from dlms_jax.diffusion import make_objective
from dlms_jax.parallel.mesh import make_mesh
from dlms_jax.sampling import make_canvas, make_sampler, run_sampler

WIDTH_256 = {
    "model": {"width": 256, "num_layers": 4, "num_heads": 4, "dtype": "float32"},
    "data": {"sequence_length": 128},
    "block": {"size": 16},
    "sampling": {"steps": 8, "temperature": 1.0},
}


def main():
    """Runs the benchmark with command-line arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="a recipe (default: width 256, 4 layers, 128 bytes)")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=0, help="tokens to write (default: all)")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    config = load_config(arguments.config) if arguments.config else from_dict(WIDTH_256)
    length = arguments.length or config.data.sequence_length - 1

    programs, memory, texts = {}, {}, {}
    for name in ("autoregressive", "block"):
        for cache in (True, False):
            variant = name, cache
            programs[variant], memory[variant] = prepare(config, *variant, arguments.rows, length)
            texts[variant] = np.asarray(programs[variant]())
    seconds = seconds_in_turns(programs, arguments.repeats)

    table = Table(
        title=f"{arguments.rows} rows of {length} tokens, {config.sampling.steps} steps a block; "
        f"width {config.model.width}, {config.model.num_layers} layers; "
        f"{jax.devices()[0].device_kind}"
    )
    columns = "sampler", "cache", "seconds", "ms a token", "tokens/s", "temporary", "same"
    for column in columns:
        table.add_column(column)
    block = f"blocks of {config.block.size}"
    for name, cache in programs:
        time = seconds[name, cache]
        table.add_row(
            block if name == "block" else "left to right",
            "yes" if cache else "no",
            f"{time:.3f}",
            f"{1000 * time / length:.2f}",
            f"{arguments.rows * length / time:.0f}",
            f"{memory[name, cache] / 2**20:.0f} MiB",
            f"{(texts[name, cache] == texts[name, False]).mean():.1%}",
        )
    Console().print(table)


def prepare(config, name, cache, rows, length):
    """Returns (a function that fills the canvas, the temporary bytes of its program)."""
    config = dataclasses.replace(
        config,
        objective=dataclasses.replace(config.objective, name=name),
        sampling=dataclasses.replace(config.sampling, cache=cache),
    )
    mesh, tokenizer = make_mesh(config.mesh), ByteTokenizer()
    vocabulary = vocabulary_of(tokenizer)
    # Padding has probability 0, so with it as EOS no text ends early.
    vocabulary = dataclasses.replace(vocabulary, eos_id=vocabulary.pad_id)
    objective = make_objective(config, vocabulary)
    model = make_network(config, vocabulary.padded_size, mesh)
    params = jax.jit(lambda: initial_params(model, jax.random.key(0)))()
    sampler = make_sampler(name, objective, config.sampling)
    canvas = make_canvas([[length]] * rows, tokenizer, config.data.sequence_length)
    keys_B, steps = jax.random.split(jax.random.key(0), rows), sampler.num_steps(canvas)

    @jax.jit
    def fill(params, canvas, keys_B):
        denoise = make_denoiser(config, model, params, objective, mesh)
        state = sampler.start(denoise, canvas, keys_B)
        return run_sampler(sampler, denoise, state, steps).tokens_BxL

    arguments = params, canvas, keys_B
    return lambda: fill(*arguments), temporary_bytes(fill, *arguments)


if __name__ == "__main__":
    main()
