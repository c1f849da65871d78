"""Compare conversions to PyTorch and back with plain loops that hold the whole model.

    python benchmarks/convert.py
    python benchmarks/convert.py --megabytes 8 --repeats 1   # fast

The weights are those of a random Transformer with 8 layers. The conversions take turns, each in its
own process, with the files in the page cache:

to-torch       python -m dlms_jax.convert to-torch --no-verify; compares bits, writes checksums
from-torch     ... from-torch --no-verify of the result; compares bits
torch          torch.load, the transpose of each matrix, safetensors.torch.save_file; no check
orbax, numpy   restores all parameters at once, transposes each layer, save_file; no check

Seconds do not include imports. The peak is the process's resident memory (VmHWM), with libraries
and pages of mapped files; "increase" is the difference to the peak after the imports. This needs
the extra torch.
"""

import argparse
import importlib
import itertools
import json
import pathlib
import sys
import tempfile
import time

import numpy as np
from processes import peak_mib, run_again
from rich.console import Console
from rich.table import Table

LAYERS, HEADS = 8, 8
LIBRARIES = {  # imports of each conversion, which are not timed
    "to-torch": ("dlms_jax.conversion.export", "dlms_jax.data.chat"),
    "from-torch": ("dlms_jax.conversion.importing",),
    "torch": ("safetensors.torch",),
    "orbax, numpy": ("dlms_jax.conversion.export_source", "safetensors.numpy"),
}


def main():
    """Runs the benchmark with command-line arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--megabytes", type=int, default=400, help="approximate size of the weights (default: 400)")
    add("--shard-size", type=int, default=50, help="megabytes per file (default: 50)")
    add("--repeats", type=int, default=3)
    add("--way", choices=LIBRARIES, help=argparse.SUPPRESS)  # internal, for the measured process
    add("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measured(arguments.way, arguments.folder, arguments.shard_size * 10**6)))
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        config, size = write_weights(folder, arguments.megabytes)
        found = {way: [] for way in LIBRARIES}
        for number, way in itertools.product(range(arguments.repeats), LIBRARIES):
            flags = "--way", way, "--folder", folder, "--shard-size", arguments.shard_size
            found[way].append(run_again(__file__, *flags))
            for name in ("out", "back") if way == "from-torch" else ("other",):
                if (folder / name).exists():
                    (folder / name).rename(folder / f"{name}-{number}-{way}")
    show(found, size, config, arguments.shard_size)


def write_weights(folder, megabytes):
    """Writes random weights as a checkpoint and as a PyTorch state dict.

    Returns:
      (config, bytes of the weights).
    """
    import jax
    import torch

    from dlms_jax.checkpoints import checkpoint
    from dlms_jax.config import from_dict
    from dlms_jax.conversion.export_source import arrays_of, open_export_source
    from dlms_jax.data.tokenizers import ByteTokenizer
    from dlms_jax.denoiser import abstract_params, vocabulary_of

    width = max(1, round((megabytes * 1e6 / (4 * 12 * LAYERS)) ** 0.5 / 64)) * 64
    model = {
        "width": width,
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "num_kv_heads": HEADS,
        "feed_forward": width * 8 // 3,
    }
    config, tokenizer = from_dict({"model": model}), ByteTokenizer()
    shapes = abstract_params(config, vocabulary_of(tokenizer).padded_size)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), shapes)
    metadata = {"config": config.to_dict(), "tokenizer": tokenizer.to_dict()}
    metadata |= {"data": {}, "versions": checkpoint.versions()}
    checkpoint.save_weights(folder / "run", 1, jax.device_put(params), metadata)
    source = open_export_source(folder / "run")
    pairs = itertools.chain.from_iterable(arrays_of(t, source.arrays) for t in source.tensors)
    state = {name: torch.tensor(x.T if x.ndim == 2 else x) for name, x in pairs}
    torch.save(state, folder / "state.pt")
    return config, sum(x.nbytes for x in jax.tree.leaves(params))


def measured(way, folder, shard_bytes):
    """Runs a conversion; returns its seconds, and the peak memory before and after, in MiB."""
    for name in LIBRARIES[way]:
        importlib.import_module(name)
    if "jax" in sys.modules:
        sys.modules["jax"].devices()
    before, start = peak_mib(), time.perf_counter()
    WAYS[way](folder, shard_bytes)
    return {"seconds": time.perf_counter() - start, "before": before, "after": peak_mib()}


def to_torch(folder, shard_bytes):
    """Runs `dlms_jax.convert to-torch`."""
    from dlms_jax import convert

    out, size = f"--out={folder / 'out'}", f"--shard-size={shard_bytes}"
    convert.main(["to-torch", f"--checkpoint={folder / 'run'}", out, size, "--no-verify"])


def from_torch(folder, shard_bytes):
    """Runs `dlms_jax.convert from-torch`."""
    from dlms_jax import convert

    out = f"--out={folder / 'back'}"
    convert.main(["from-torch", f"--model={folder / 'out'}", out, "--no-verify"])


def torch_only(folder, shard_bytes):
    """Converts the state dict with PyTorch only."""
    from safetensors.torch import save_file
    import torch

    state = torch.load(folder / "state.pt")
    state = {name: x.T.contiguous() if x.ndim == 2 else x for name, x in state.items()}
    save_shards(state, folder / "other", shard_bytes, save_file)


def orbax_numpy(folder, shard_bytes):
    """Converts the checkpoint with Orbax and NumPy, all parameters at once."""
    import jax
    from safetensors.numpy import save_file

    from dlms_jax.conversion.export_source import open_export_source
    from dlms_jax.denoiser import abstract_params, vocabulary_of
    from dlms_jax.parallel import rules

    source = open_export_source(folder / "run")
    shapes = abstract_params(source.config, vocabulary_of(source.tokenizer).padded_size)
    abstract = rules.abstract(shapes, rules.largest_mesh(shapes, 1))
    leaves = jax.tree.leaves(source.checkpoint.load_params(abstract))
    state = {}
    for tensor, leaf in zip(source.tensors, leaves, strict=True):
        parts = np.asarray(leaf) if tensor.stack else [np.asarray(leaf)]
        for name, x in zip(tensor.names(), parts, strict=True):
            state[name] = np.ascontiguousarray(x.T if tensor.transposed else x)
    save_shards(state, folder / "other", shard_bytes, save_file)


WAYS = {
    "to-torch": to_torch,
    "from-torch": from_torch,
    "torch": torch_only,
    "orbax, numpy": orbax_numpy,
}


def save_shards(state, folder, shard_bytes, save_file):
    """Writes a state dict as files of at most `shard_bytes`."""
    folder.mkdir()
    held, size, number = {}, 0, 0
    for name, x in [*state.items(), (None, None)]:
        if name is None or held and size + x.nbytes > shard_bytes:
            save_file(held, folder / f"{number}.safetensors")
            held, size, number = {}, 0, number + 1
        if name is not None:
            held[name], size = x, size + x.nbytes


def show(found, size, config, shard_size):
    """Prints the table."""
    table = Table(
        title=f"{size / 1e6:.0f} MB of weights in float32, files of {shard_size} MB; width "
        f"{config.model.width}, {config.model.num_layers} layers"
    )
    for column in ("conversion", "seconds", "GB/s", "peak MiB", "increase"):
        table.add_column(column)
    for way, runs in found.items():
        seconds, before, after = (
            float(np.median([run[key] for run in runs])) for key in ("seconds", "before", "after")
        )
        table.add_row(
            way,
            f"{seconds:.2f}",
            f"{size / seconds / 1e9:.3f}",
            f"{after:.0f}",
            f"{after - before:.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
