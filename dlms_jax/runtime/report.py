"""What a run prints before and after its steps: model and data, samples, the summary."""

from collections.abc import Iterator
import pathlib
import shlex
import statistics

from clu import parameter_overview
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dlms_jax.checkpoints.metrics import read_metrics
from dlms_jax.config import Config, traits_of
from dlms_jax.data.feed.dataset import Split
from dlms_jax.denoiser.attention_kernels import attention_kernel
from dlms_jax.diffusion import schedule_size
from dlms_jax.files import write_text
from dlms_jax.models import count_parameters
from dlms_jax.parallel import hardware
from dlms_jax.runtime.goodput import read_goodput, totals
from dlms_jax.runtime.setup import Setup
from dlms_jax.terminal import duration, printable, say, with_unit


def show_start(console: Console, setup: Setup, peak: tuple[float, str]):
    """Prints the model, the data with its fingerprints, and the devices.

    peak: FLOP/s, and where the figure is from (hardware.peak_flops).
    """
    config, mesh, tokenizer = setup.config, setup.mesh, setup.dataset.tokenizer
    vocabulary = setup.assembly.objective.vocabulary
    say(
        console,
        f"{config.objective.name} {_describe(config, vocabulary.padded_size)}, "
        f"vocabulary {tokenizer.size} ({config.tokenizer.name})",
    )
    for note in _notes(config):
        say(console, f"note: {note}")
    for split in (*setup.dataset.train, setup.dataset.heldout):
        say(console, _describe_split(split))
    shape = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    flops, source = peak
    say(
        console,
        f"{mesh.size} {mesh.devices.flat[0].device_kind} device(s) ({shape}); "
        f"attention {attention_kernel(config, mesh)}; peak {with_unit(flops)}FLOP/s ({source})",
    )


def write_parameters(setup: Setup):
    """Writes each parameter's name, shape, type, size and sharding to WORKDIR/parameters.txt."""
    table = parameter_overview.get_parameter_overview(
        setup.assembly.state.params, include_stats="sharding"
    )
    write_text(setup.workdir / "parameters.txt", f"{table}\n")


def _describe(config: Config, rows: int) -> str:
    """Returns the network and its size; rows: of its head."""
    model = config.model
    parameters = with_unit(count_parameters(config, rows, schedule_size(config))) + "parameters"
    if model.experts:
        active = count_parameters(config, rows, schedule_size(config), active=True)
        parameters += (
            f" ({with_unit(active)}active: {model.experts_per_token} of {model.experts} experts a "
            "token)"
        )
    layers = f"{model.unet_levels} levels" if model.name == "unet" else f"{model.num_layers} layers"
    return f"{model.name}: {parameters}, {layers}, width {model.width}"


def _notes(config: Config) -> Iterator[str]:
    """Yields what may surprise in a config."""
    if traits_of(config).needs_time and config.model.conditioning == "none":
        yield (
            f"{config.objective.name} diffusion learns more if the network is told how noisy its "
            "input is: --config.model.conditioning=film"
        )
    if config.objective.anneal_steps > config.training.steps:
        yield (
            f"config.objective.anneal_steps={config.objective.anneal_steps} is more than "
            f"config.training.steps={config.training.steps}: the run ends before its attention is "
            "the one that it is evaluated with"
        )


def _describe_split(split: Split) -> str:
    fingerprint, rows = split.fingerprint, split.rows
    counts = "".join(
        f"{fingerprint[key]} {key}, " for key in ("documents", "bytes") if key in fingerprint
    )
    filled = fingerprint["tokens"] / max(rows.number * rows.length, 1)
    return (
        f"{split.name}: {counts}{fingerprint['tokens']} tokens in {rows.number} rows of "
        f"{rows.length} ({filled:.0%} scored), sha256 {fingerprint['sha256'][:16]}"
    )


def show_sample(console: Console, step: int, sample: str):
    console.print(
        Panel(Text(printable(sample)), title=f"sample at step {step}", title_align="left")
    )


def show_summary(
    console: Console, config: Config, workdir: pathlib.Path, bound, best: float | None = None
):
    """Prints the table that a run ends with.

    Args:
      console: where to print.
      config: of the run.
      workdir: its folder, with metrics.csv and goodput.csv.
      bound: an evaluation.bound.BoundReport.
      best: the bits per byte of the true distribution of the text, if it is known.
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
        f"frequencies; the model is {bound.beside_unigram})",
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
    run = shlex.quote(str(workdir))
    commands = [f'python -m dlms_jax.sample --checkpoint {run} --prompt "The "']
    if traits_of(config).order != "left_to_right":
        commands.append(
            f'python -m dlms_jax.sample --checkpoint {run} --infill "The {{}} of {{}} is"'
        )
    commands.append(f"python -m dlms_jax.evaluate --checkpoint {run}")
    commands.append(f"python -m dlms_jax.plot {run}")
    say(console, "next:\n" + "\n".join(f"  {command}" for command in commands))
