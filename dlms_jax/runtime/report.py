"""What a run prints around its steps: what it starts from, samples, and what it came to."""

import pathlib
import statistics

from jax.sharding import Mesh
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dlms_jax.checkpoints.metrics import read_metrics
from dlms_jax.config import Config, traits_of
from dlms_jax.data.feed.dataset import Dataset
from dlms_jax.denoiser.attention_kernels import attention_kernel
from dlms_jax.diffusion import schedule_size
from dlms_jax.models import count_parameters
from dlms_jax.parallel import hardware
from dlms_jax.runtime.goodput import read_goodput, totals
from dlms_jax.terminal import duration, printable, say, with_unit


def show_start(
    console: Console,
    config: Config,
    dataset: Dataset,
    mesh: Mesh,
    rows: int,
    peak: tuple[float, str],
):
    """Prints the model, the data with its fingerprints, and the devices.

    rows: of the head. peak: FLOP/s and where they are from (hardware.peak_flops).
    """
    model = config.model
    parameters = with_unit(count_parameters(config, rows, schedule_size(config))) + "parameters"
    if model.experts:
        active = count_parameters(config, rows, schedule_size(config), active=True)
        parameters += f" ({with_unit(active)}active: {model.experts_per_token} of "
        parameters += f"{model.experts} experts a token)"
    layers = f"{model.unet_levels} levels" if model.name == "unet" else f"{model.num_layers} layers"
    say(
        console,
        f"{config.objective.name} {model.name}: {parameters}, "
        f"{layers}, width {model.width}, "
        f"vocabulary {dataset.tokenizer.size} ({config.tokenizer.name})",
    )
    if traits_of(config).needs_time and model.conditioning == "none":
        say(
            console,
            f"note: {config.objective.name} diffusion learns more where the network is told how "
            "noisy its input is: --config.model.conditioning=film",
        )
    if config.objective.anneal_steps > config.training.steps:
        say(
            console,
            f"note: config.objective.anneal_steps={config.objective.anneal_steps} is more than "
            f"config.training.steps={config.training.steps}: the run ends before its attention is "
            "that which it is evaluated by",
        )
    for split in (*dataset.train, dataset.heldout):
        f = split.fingerprint
        filled = f["tokens"] / max(split.rows.number * split.rows.length, 1)
        say(
            console,
            f"{split.name}: "
            + "".join(f"{f[key]} {key}, " for key in ("documents", "bytes") if key in f)
            + f"{f['tokens']} tokens in {split.rows.number} rows of "
            f"{config.data.sequence_length} ({filled:.0%} scored), "
            f"sha256 {f['sha256'][:16]}",
        )
    shape = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    flops, source = peak
    say(
        console,
        f"{mesh.size} {mesh.devices.flat[0].device_kind} device(s) ({shape}); "
        f"attention {attention_kernel(config, mesh)}; peak {with_unit(flops)}FLOP/s ({source})",
    )


def show_sample(console: Console, step: int, sample: str):
    console.print(
        Panel(Text(printable(sample)), title=f"sample at step {step}", title_align="left")
    )


def show_summary(
    console: Console, config: Config, workdir: pathlib.Path, bound, best: float | None = None
):
    """Prints the table that a run ends with.

    bound: an evaluation.bound.BoundReport. best: the bits per byte of the text's true
    distribution, where that is known.
    """
    history = read_metrics(workdir / "metrics.csv")
    speeds = [float(row["tokens_per_second"]) for row in history if row["tokens_per_second"]]
    memory, whose = hardware.peak_memory()
    table = Table(
        title=f"{workdir}: {config.objective.name}", title_justify="left", show_header=False
    )
    for name, value in {
        "held-out nats/token": f"{bound.nats_per_token:.4f}",
        "held-out bits/byte": f"{bound.bits_per_byte:.4f} +- {bound.stderr:.4f} (standard error)",
        "perplexity (per token)": f"{bound.perplexity:.3f}",
        "unigram entropy, nats/token": f"{bound.unigram_nats:.4f} (to beat: the same tokens' own "
        f"frequencies; the model is {bound.below_unigram:.1%} below)",
        "best possible, bits/byte": f"{best:.4f} (the synthetic language's own)" if best else "",
        "epochs": _epochs(history),
        "tokens/s (median)": with_unit(statistics.median(speeds)).strip() if speeds else "-",
        "peak memory": f"{memory / 2**20:.0f} MiB {whose}",
        "time": _time(workdir),
        "protocol": bound.protocol,
    }.items():
        if value:
            table.add_row(name, value)
    console.print(table)


def _time(workdir: pathlib.Path) -> str:
    """Returns how long a run took, over all its starts, and for what."""
    rows = read_goodput(workdir / "goodput.csv")
    shares, seconds, between = totals(rows)
    text = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items() if share >= 0.005)
    if len(rows) > 1:
        text += f"; {len(rows)} starts, {duration(between)} between them"
    return f"{duration(seconds)}: {text}" if rows else ""


def _epochs(history: list[dict[str, str]]) -> str:
    """Returns how often each corpus of a mixture was seen; "" where there is one corpus."""
    last = history[-1] if history else {}
    each = {k.removeprefix("epoch/"): v for k, v in last.items() if k.startswith("epoch/")}
    return ", ".join(f"{float(epochs):.2f} of {name}" for name, epochs in each.items())


def show_next(console: Console, config: Config, workdir: pathlib.Path):
    """Prints the commands that a reader may want next."""
    commands = [f'python -m dlms_jax.sample --checkpoint {workdir} --prompt "The "']
    if traits_of(config).order != "left_to_right":
        commands.append(
            f'python -m dlms_jax.sample --checkpoint {workdir} --infill "The {{}} of {{}} is"'
        )
    commands.append(f"python -m dlms_jax.evaluate --checkpoint {workdir}")
    commands.append(f"python -m dlms_jax.plot {workdir}")
    say(console, "next:\n" + "\n".join(f"  {command}" for command in commands))
