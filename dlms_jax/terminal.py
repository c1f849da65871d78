"""What is printed on a terminal: plain lines, progress bars, numbers with units."""

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
    """Prints a text as it is: without markup, colours for numbers, or wrapping."""
    console.print(escape(text), highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """Returns a text whose control characters, which could upset a terminal, are replaced."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def byte_progress(console: Console) -> Progress:
    """Returns a progress bar of bytes with rate and time left; shown only on a terminal."""
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
    """Returns 12345 as "12.3 k"."""
    units = ["", "k", "M", "G", "T", "P", "E"]
    while abs(number) >= 999.5 and len(units) > 1:  # what rounds to 1000 takes the next unit
        number /= 1000
        units.pop(0)
    return f"{number:.3g} {units[0]}"


def duration(seconds: float) -> str:
    """Returns seconds as "1:02:03" or "2:03"."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
