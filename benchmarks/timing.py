"""Timing of functions in turns, and the memory of compiled programs."""

import time

import jax
import numpy as np


def seconds_in_turns(programs: dict, repeats: int, after_each_turn=None) -> dict[str, float]:
    """Returns {name: median seconds}.

    The functions run in turns, so that a drift in the machine's speed affects all of them. Each
    runs twice per turn and only the second run counts, because the first one has to regain memory
    and caches from the function before.

    Args:
      programs: {name: function without arguments}.
      repeats: the number of turns.
      after_each_turn: a function to call after each turn.
    """
    times = {name: [] for name in programs}
    for run in programs.values():
        jax.block_until_ready(run())  # compiles
    for _ in range(repeats):
        for name, run in programs.items():
            jax.block_until_ready(run())
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - start)
        if after_each_turn:
            after_each_turn()
    return {name: float(np.median(values)) for name, values in times.items()}


def temporary_bytes(jitted, *arguments) -> int:
    """Returns the bytes of temporaries of a jitted function's program."""
    return jitted.lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def program_bytes(compiled) -> int:
    """Returns the bytes of a compiled program: arguments, unaliased results and temporaries."""
    m = compiled.memory_analysis()
    results = m.output_size_in_bytes - m.alias_size_in_bytes
    return m.argument_size_in_bytes + results + m.temp_size_in_bytes
