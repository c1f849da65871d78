"""Several processes import together, each with its own devices, as on the hosts of a pod."""

import os
import pathlib
import socket
import subprocess
import sys

from conversion.exported import random_checkpoint, tree_of
import numpy as np
import pytest
from safetensors.numpy import load_file

from dlms_jax.conversion.export import export
from dlms_jax.conversion.export_source import open_export_source

PROCESSES = 2

IMPORT = """
import pathlib, sys
import jax

port, process, number, model, out = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", int(number), int(process))
assert jax.device_count() == 2 * jax.local_device_count() == 4

from dlms_jax.conversion import importing
from dlms_jax.conversion.weights_files import WeightsReader

read, save, sizes = WeightsReader.read, importing.checkpoints.save_weights, []

def counted(self, *arguments):
    array = read(self, *arguments)
    sizes.append(array.nbytes)
    return array

def reported(*arguments):
    print("read", sum(sizes))
    save(*arguments)

WeightsReader.read, importing.checkpoints.save_weights = counted, reported
report = importing.import_model(pathlib.Path(model), pathlib.Path(out), verify=False)
print("checked" if report else "not checked")
"""


def import_by_processes(model: pathlib.Path, out: pathlib.Path) -> list[list[str]]:
    """Returns the lines that each of several processes prints when they import a model."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", IMPORT, str(port)]
    started = [
        subprocess.Popen(
            [*command, str(n), str(PROCESSES), str(model), str(out)],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for n in range(PROCESSES)
    ]
    try:
        printed = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, printed, strict=True):
        assert process.returncode == 0, errors
    return [lines.splitlines() for lines, _ in printed]


@pytest.mark.slow
def test_two_processes_each_write_a_part_of_one_checkpoint(tmp_path):
    """Each reads what its devices hold, and one checks it. One process exports the same tensors."""
    source = random_checkpoint(tmp_path / "run", model__width=64)
    export(source, tmp_path / "model", verify=False)
    (tmp_path / "both.unfinished").mkdir()  # what a killed import leaves
    first, second = import_by_processes(tmp_path / "model", tmp_path / "both")
    assert first[-1] == "checked" and second[-1] == "not checked"
    assert any("both.unfinished, which an interrupted command had left" in x for x in first)
    total = (tmp_path / "model" / "model.safetensors").stat().st_size
    for lines in (first, second):
        read = next(int(line.split()[1]) for line in lines if line.startswith("read"))
        assert total / 2 < read + 20_000 and read < 0.6 * total  # each reads all norms

    assert not (tmp_path / "both.unfinished").exists()
    written = open_export_source(tmp_path / "both")
    assert len(list(written.folder.glob("params/ocdbt.process_*"))) == PROCESSES
    before, after = tree_of(source), tree_of(written)
    for path in before:
        np.testing.assert_array_equal(before[path], after[path])
    export(written, tmp_path / "again", verify=False)
    ours, theirs = (load_file(tmp_path / n / "model.safetensors") for n in ("model", "again"))
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
