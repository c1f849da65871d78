"""Terminal output: plain lines, progress bars, numbers with units."""

import functools
import sys

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


def say(console: Console, text: str):
    """Prints a text unchanged: without markup, highlighting or wrapping."""
    console.print(escape(text), highlight=False, soft_wrap=True)


@functools.cache
def note(text: str):
    """Prints a note on standard error, once in a process however often it is called for."""
    print(f"note: {text}", file=sys.stderr)


def printable(text: str) -> str:
    """Returns a text with control characters replaced, which could affect a terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def byte_progress(console: Console) -> Progress:
    """Returns a progress bar of bytes with rate and remaining time, shown only on a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def with_unit(number: float) -> str:
    """Returns a number with a decimal unit, such as "12.3 k" for 12345."""
    units = ["", "k", "M", "G", "T", "P", "E"]
    while abs(number) >= 999.5 and len(units) > 1:  # numbers that round to 1000 take the next unit
        number /= 1000
        units.pop(0)
    return f"{number:.3g} {units[0]}"


def duration(seconds: float) -> str:
    """Returns seconds as "1:02:03" or "2:03"."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
