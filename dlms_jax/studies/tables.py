"""The results of the family study as CSV, Markdown and a figure."""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import os
import pathlib
from typing import NamedTuple

import jax
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from dlms_jax.errors import UserError
from dlms_jax.evaluation.bound import BoundReport
from dlms_jax.evaluation.quality import Quality, Sample
from dlms_jax.files import write_text, written_whole
from dlms_jax.terminal import printable, say, with_unit

_EXAMPLES = 3  # texts per row of the table


class Drawn(NamedTuple):
    """Samples that were drawn in one way, with their metrics.

    Attributes:
      steps: sampling steps; None for reference text.
      seconds: per sample; None for reference text.
      quality: the metrics.
      twin: the loss under the autoregressive model; None without such a model.
      samples: the samples.
    """

    steps: int | None
    seconds: float | None
    quality: Quality
    twin: BoundReport | None
    samples: Sequence[Sample]


class Member(NamedTuple):
    """A trained recipe.

    Attributes:
      name: of the recipe.
      process: objective and network.
      parameters: number of parameters.
      steps, tokens: of the training.
      step_seconds: the median in training.
      bits_per_byte, stderr, nats_per_token: the bound on held-out text.
      curve: (tokens, training seconds, held-out bits/byte) of each evaluation during training.
      drawn: its samples, by number of steps.
    """

    name: str
    process: str
    parameters: int
    steps: int
    tokens: int
    step_seconds: float
    bits_per_byte: float
    stderr: float
    nats_per_token: float
    curve: Sequence[tuple[int, float, float]]
    drawn: Sequence[Drawn]


def write(
    out: pathlib.Path,
    members: Sequence[Member],
    references: Mapping[str, Drawn],
    settings,
    share: float,
    console: Console,
):
    """Writes table.csv, table.md, samples.md and family.png to a folder, and prints the tables.

    Args:
      out: the folder.
      members: the recipes, in the order of the tables.
      references: reference texts by name.
      settings: a family.FamilySettings.
      share: training seconds of each recipe.
      console: prints the tables.

    Raises:
      UserError: the folder cannot be written.
    """
    bounds, samples = bound_table(members), sample_table(members, references)
    about = (
        f"`python -m dlms_jax.experiment family --minutes {settings.minutes:g}`: "
        f"{share / 60:.3g} minutes of training each, on {hardware()}. {settings.num} samples per "
        f"row, without a prompt, temperature {settings.temperature:g}; seconds per sample in "
        f"batches of {settings.num // 2}, without compilation."
    )
    page = f"{about}\n\n{markdown(*bounds)}\n\n{markdown(*samples)}\n"
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "table.md", page)
        write_text(out / "samples.md", _examples(members, references))
        _write_csv(out / "table.csv", members, references)
        draw_figure(out / "family.png", members)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}") from None
    for header, rows in (bounds, samples):
        table = Table(*header)
        for row in rows:
            table.add_row(*row)
        # A narrow terminal would cut cells, so the table is printed as Markdown there.
        wide = console.options.update_width(1000)
        fits = Measurement.get(console, wide, table).maximum <= console.width
        console.print(table) if fits else say(console, markdown(header, rows))
    say(console, f"{about}\nwritten: {out}/table.md, table.csv, samples.md, family.png")


def hardware() -> str:
    """Returns a description of the devices; for CPUs, the number of cores."""
    kind, number = jax.devices()[0].device_kind, jax.device_count()
    return f"{os.cpu_count()} CPU cores" if kind == "cpu" else f"{number} {kind}"


def bound_table(members: Sequence[Member]):
    """Returns (header, rows) of text: the bound of each model and its training."""
    header = (
        "recipe", "process", "parameters", "ms/step", "steps", "tokens", "bits/byte", "nats/token"
    )  # fmt: skip
    return header, [
        (m.name, m.process, f"{m.parameters:,}", f"{1000 * m.step_seconds:.0f}", f"{m.steps:,}",
         f"{with_unit(m.tokens)}".strip(), f"{m.bits_per_byte:.3f} +- {m.stderr:.3f}",
         f"{m.nats_per_token:.3f}")
        for m in members
    ]  # fmt: skip


def sample_table(members: Sequence[Member], references: Mapping[str, Drawn]):
    """Returns (header, rows) of text: the metrics of the references and of each model's samples."""
    header = (
        "recipe", "steps", "s/sample", "AR bits/byte", "nats/token", "entropy", "top token",
        "distinct 1", "2", "3", "unigrams", "bigrams", "words", "tokens",
    )  # fmt: skip
    rows = []
    for name, d in _all_drawn(members, references):
        q, twin = d.quality, d.twin
        rows.append((
            name, "" if d.steps is None else str(d.steps),
            "" if d.seconds is None else f"{d.seconds:.3g}",
            f"{twin.bits_per_byte:.2f}" if twin else "",
            f"{twin.nats_per_token:.2f}" if twin else "",
            f"{q.entropy:.2f}", f"{q.repetition:.0%}",
            f"{q.distinct_1:.2f}", f"{q.distinct_2:.2f}", f"{q.distinct_3:.2f}",
            f"{q.unigram_agreement:.2f}", f"{q.bigram_agreement:.2f}", f"{q.known_words:.0%}",
            f"{q.tokens:.0f}",
        ))  # fmt: skip
    return header, rows


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [header, ["-"] * len(header), *rows]
    return "\n".join(
        "|" + "|".join(f" {cell} ".replace("  ", " ") for cell in line) + "|" for line in lines
    )


def _all_drawn(members, references):
    """Yields (name, Drawn): the references, then each member's."""
    yield from references.items()
    for member in members:
        for drawn in member.drawn:
            yield member.name, drawn


def _write_csv(path: pathlib.Path, members, references):
    """Writes a row per `Drawn` with its model's bound; a model without samples has one row."""
    of_model = tuple(f for f in Member._fields if f not in ("curve", "drawn"))
    of_samples = (
        "sampling_steps",
        "seconds_per_sample",
        "twin_bits_per_byte",
        "twin_nats_per_token",
        "sample_tokens",
        *(field.name for field in dataclasses.fields(Quality)[1:]),
    )
    rows = [{"name": name, **_sample_cells(d)} for name, d in references.items()]
    for member in members:
        model = {f: getattr(member, f) for f in of_model}
        rows += [model | _sample_cells(d) for d in member.drawn] or [model]
    with (
        written_whole(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, of_model + of_samples, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _sample_cells(drawn: Drawn) -> dict[str, object]:
    cells = {
        "sampling_steps": drawn.steps,
        "seconds_per_sample": drawn.seconds,
        **vars(drawn.quality),
    }
    cells["sample_tokens"] = cells.pop("tokens")  # "tokens" of a model are its training tokens
    if drawn.twin:
        cells["twin_bits_per_byte"] = drawn.twin.bits_per_byte
        cells["twin_nats_per_token"] = drawn.twin.nats_per_token
    return cells


def _examples(members, references) -> str:
    """Returns the first samples of each `Drawn` with their agreement with text, in Markdown."""
    parts = []
    for name, d in _all_drawn(members, references):
        q = d.quality
        title = name if d.steps is None else f"{name}, {d.steps} steps"
        parts.append(
            f"## {title}\n\nAgreement with held-out text: unigrams {q.unigram_agreement:.2f}, "
            f"bigrams {q.bigram_agreement:.2f}; known words {q.known_words:.0%}; entropy "
            f"{q.entropy:.2f} nats per token."
        )
        for sample in d.samples[:_EXAMPLES]:
            text = printable(sample.text.decode("utf-8", "replace")) + "<EOS>" * sample.ended
            # Indented, because a text could contain a fence.
            parts.append("\n".join("    " + line for line in text.split("\n")))
            parts.append("---")
    return "\n\n".join(parts) + "\n"


def draw_figure(path: pathlib.Path, members: Sequence[Member]):
    """Draws held-out bits/byte over tokens and over training seconds, as a PNG."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(11, 4.5), layout="constrained")
    for axis, column, label in zip(
        figure.subplots(1, 2), (0, 1), ("tokens seen", "training seconds"), strict=True
    ):
        for member in members:
            x = [point[column] for point in member.curve]
            axis.plot(
                x,
                [bits for *_, bits in member.curve],
                marker="o",
                markersize=3,
                linewidth=1,
                label=member.name,
            )
        axis.set_xlabel(label)
        axis.set_ylabel("held-out bits/byte during training")
        axis.grid(alpha=0.3)
    figure.axes[0].legend()
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
