"""Conversions hold a part of a model at a time: the peak memory of real processes is bounded."""

import os
import subprocess
import sys

from conversion.exported import random_checkpoint
import numpy as np
import pytest

SHARD = 20 * 10**6
SLACK = 48 * 2**20  # code that is loaded meanwhile, buffers, a tensor and its transpose

CONVERT = """
import pathlib, re, sys
import jax
from dlms_jax import convert
from dlms_jax.conversion import export, importing
from dlms_jax.data import chat

jax.devices()

def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) * 1024

before = peak()
convert.main(sys.argv[1:])
print(peak() - before)
"""


def peak_beyond_idle(*arguments) -> int:
    """Returns the bytes that a conversion needs in addition to an idle process."""
    # The threshold returns large arrays to the system when they are freed, so the peak counts only
    # what is held at the same time.
    environment = os.environ | {"XLA_FLAGS": "", "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(
        [sys.executable, "-c", CONVERT, *map(str, arguments), "--no-verify"],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    return int(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_conversion_holds_a_part_at_a_time(tmp_path):
    """300 MB in files of 20 MB.

    An export holds the tensors of a file and one parameter, compressed and decoded. An import holds
    the parameters, orbax's compressed copy of them, and one more parameter.
    """
    source = random_checkpoint(
        tmp_path / "run",
        model__width=1024,
        model__num_layers=10,
        model__num_heads=8,
        model__num_kv_heads=8,
        model__feed_forward=1024,
    )
    sizes = [4 * int(np.prod((*t.stack, *t.shape))) for t in source.tensors]
    total, largest = sum(sizes), max(sizes)
    assert 290e6 < total < 310e6 and largest < total / 6
    out = peak_beyond_idle(
        "to-torch", "--checkpoint", source.folder, "--out", tmp_path / "out", "--shard-size", SHARD
    )
    print(f"to-torch: {out / 2**20:.0f} MiB beyond an idle process, of {total / 2**20:.0f}")
    assert out < SHARD + 2 * largest + SLACK < 2 / 3 * total
    into = peak_beyond_idle("from-torch", "--model", tmp_path / "out", "--out", tmp_path / "back")
    print(f"from-torch: {into / 2**20:.0f} MiB beyond an idle process")
    assert into < 2 * total + largest + SLACK
