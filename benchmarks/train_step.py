"""Compare the train step with its variants and with a newcomer's (newcomer.py), at three sizes.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --sizes small --repeats 1   # fast
    python benchmarks/train_step.py --config=configs/tiny.py --variants dlms_jax autoregressive

At the three sizes, dlms_jax is the step of the default settings, except for float32 and for smaller
chunks of the loss. Each variant changes one setting of it, or of the recipe. All steps donate their
state. The newcomer's step does the same work, with AdamW. On a CPU all steps use XLA's attention,
so "plain attention, unscanned" differs only in scanning.

seconds   the median; the steps of a size run in turns, in one process
MFU       the FLOPs of the step by formula (models/sizes.py, which counts only the logits that the
          loss reads) over the peak. On a CPU the peak is the best matmul that was timed before,
          between and after the steps; elsewhere it is the data sheet's
program   MiB of the compiled program: arguments, results and temporaries
process   peak MiB of a process that takes one step after compilation, with libraries and what the
          compiler leaves in memory, without the memory of an accelerator
"""

import argparse
import json

import jax
from processes import forget_peak, peak_mib, run_again
from steps import NEWCOMER, VARIANTS, check_newcomer, prepare, settings
from timing import seconds_in_turns

from dlms_jax.config import from_dict, load_config
from dlms_jax.errors import command_line
from dlms_jax.parallel.hardware import peak_flops
from dlms_jax.studies.tables import hardware, markdown

SIZES = {  # rows of 256 tokens, vocabularies of small tokenizers
    "small": settings(width=128, layers=4, vocabulary=8_192, length=256, batch=16),
    "medium": settings(width=256, layers=6, vocabulary=16_384, length=256, batch=16),
    "large": settings(width=512, layers=8, vocabulary=32_768, length=256, batch=16),
}
COMPARED = ("dlms_jax", "full logits", "plain attention, unscanned", NEWCOMER)
HEADER = ("step", "parameters", "seconds", "tokens/s", "MFU", "program MiB", "process MiB")


@command_line
def main(argv=None):
    """Runs the benchmark with command-line arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what, add = parser.add_mutually_exclusive_group(), parser.add_argument
    what.add_argument(
        "--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="(default: all)"
    )
    what.add_argument("--config", help="a recipe instead of the sizes")
    add(
        "--variants",
        nargs="+",
        choices=(*VARIANTS, NEWCOMER),
        default=COMPARED,
        help=f"(default: {'; '.join(COMPARED)})",
    )
    add("--repeats", type=int, default=5)
    add("--peak-of", help=argparse.SUPPRESS)  # internal: a variant, for the measured process
    arguments = parser.parse_args(argv)
    for size in [arguments.config] if arguments.config else arguments.sizes:
        config = load_config(size) if arguments.config else from_dict(SIZES[size])
        if arguments.peak_of:
            print(json.dumps(peak_of(config, arguments.peak_of)))
            return
        if NEWCOMER in arguments.variants:
            check_newcomer(config)
        flags = "--config" if arguments.config else "--sizes", size, "--peak-of"
        peaks = {name: run_again(__file__, *flags, name) for name in arguments.variants}
        measure(size, config, peaks, arguments.repeats)


def peak_of(config, name) -> dict:
    """Returns the peak memory of this process in MiB, before preparing the step and in it."""
    jax.devices()
    before = peak_mib()
    step = prepare(config, name)
    forget_peak()  # excludes compilation
    jax.block_until_ready(step.take())
    return {"before": before, "stepping": peak_mib()}


def measure(size, config, peaks, repeats):
    """Prints the table of a size."""
    steps = {name: prepare(config, name) for name in peaks}
    best = [peak_flops()[0]]
    seconds = seconds_in_turns(
        {name: step.take for name, step in steps.items()},
        repeats,
        lambda: best.append(peak_flops()[0]),
    )
    c, tokens = config.model, config.training.batch_size * config.data.sequence_length
    print(
        f"{size}: width {c.width}, {c.num_layers} layers, {c.dtype}, {config.training.batch_size} "
        f"rows of {config.data.sequence_length}; {hardware()}, at best {max(best) / 1e9:.0f} "
        f"GFLOP/s; libraries take {min(peak['before'] for peak in peaks.values())} MiB of a process"
    )
    rows = [
        (
            name,
            f"{step.parameters / 1e6:.2f}M",
            f"{seconds[name]:.3f}",
            f"{tokens / seconds[name]:.0f}",
            f"{step.flops / seconds[name] / max(best):.0%}",
            f"{step.memory / 2**20:.0f}",
            f"{peaks[name]['stepping']}",
        )
        for name, step in steps.items()
    ]
    print(f"\n{markdown(HEADER, rows)}\n", flush=True)


if __name__ == "__main__":
    main()
