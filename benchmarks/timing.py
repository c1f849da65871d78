"""What the benchmarks share: times taken in turns, and the memory that a program needs."""

import time

import jax
import numpy as np


def seconds_in_turns(programs: dict, repeats: int, after_each_turn=None) -> dict[str, float]:
    """Returns the median seconds of each of {name: function without arguments}.

    The functions run in turns, so that a machine whose speed drifts slows all of them alike; twice
    in each, for the first time has to get memory and caches back from the function before.
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
    """Returns the bytes that the compiled program needs beside its arguments and results."""
    return jitted.lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def program_bytes(compiled) -> int:
    """Returns the bytes of a compiled program: arguments, results in memory of their own, and what
    it needs beside them."""
    m = compiled.memory_analysis()
    results = m.output_size_in_bytes - m.alias_size_in_bytes
    return m.argument_size_in_bytes + results + m.temp_size_in_bytes
