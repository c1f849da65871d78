"""Compare preparation with `datasets.map`; measure the loader by itself and in a run.

    python benchmarks/data.py
    python benchmarks/data.py --megabytes 2 --repeats 1 --config=configs/tiny.py   # fast

The text is the source of the standard library, as JSON lines. Both ways tokenize it with the same
byte-level BPE in one thread of one process, add BOS and EOS, cut it into rows of 512, and write the
rows. Ours also splits, sorts, removes duplicates and computes checksums. They run in turns. This
needs the extras data and hub.
"""

import argparse
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core each

import numpy as np
from rich.console import Console
from rich.table import Table

from dlms_jax.config import load_config
from dlms_jax.data.build.builder import DatasetBuilder
from dlms_jax.data.cleaning.options import CleaningOptions
from dlms_jax.data.cleaning.pipeline import run_local_clean
from dlms_jax.data.corpora.document import to_str
from dlms_jax.data.corpora.files import read_file
from dlms_jax.data.corpora.python import CORPORA
from dlms_jax.data.feed.loader import TrainBatches, train_batches
from dlms_jax.data.tokenizers import BPETokenizer, ByteTokenizer

LENGTH = 512
QUIET = Console(quiet=True)


def main():
    """Runs the benchmark with command-line arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=24, help="megabytes of text (default: 24)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--config", default="configs/small.py", help="recipe of the run")
    parser.add_argument("--steps", type=int, default=4, help="steps of the run (default: 4)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        texts, text_file = write_text(folder, arguments.megabytes << 20)
        size = sum(len(text.encode()) for text in texts)
        import_libraries()
        tokenizer = BPETokenizer.train(texts[:300], 8192)
        ways = {
            "dlms_jax": lambda out: ours(text_file, tokenizer, out),
            "datasets.map": lambda out: theirs(text_file, tokenizer, out),
            "dlms_jax, bytes": lambda out: ours(text_file, ByteTokenizer(), out),
        }
        seconds = in_turns(ways, folder, arguments.repeats)
        show_preparation(seconds, size)
        show_cleaning(text_file, folder / "clean", size)
        show_loader(folder / "dlms_jax-0")
        memory_of_a_build(text_file, folder)
    show_run(arguments.config, arguments.steps)


def write_text(folder, size):
    """Returns distinct texts of about `size` bytes in all, and a JSON lines file of them."""
    documents = [to_str(d.text) for d in CORPORA["python-code"]() if d.text.strip()]
    copies = (f"# copy {n}\n{text}" for n in itertools.count() for text in documents)
    texts, path = [], folder / "text.jsonl"
    while size > 0:
        texts.append(next(copies))
        size -= len(texts[-1])
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return texts, path


def ours(path, tokenizer, out):
    """Prepares a dataset with dlms_jax."""
    DatasetBuilder(out=out, console=QUIET).build_from_raw(path, tokenizer, LENGTH)


def theirs(path, tokenizer, out):
    """Prepares a dataset as common fine-tuning scripts do: map to ids, map to rows, save."""
    import datasets
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    datasets.disable_progress_bars()
    datasets.disable_caching()
    serialized = tokenizer.to_dict()["tokenizer_json"]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer.from_str(serialized))

    def to_ids(batch):
        return {"ids": fast(batch["text"], return_attention_mask=False)["input_ids"]}

    def to_rows(batch):
        wrapped = ([tokenizer.bos_id, *ids, tokenizer.eos_id] for ids in batch["ids"])
        joined = list(itertools.chain.from_iterable(wrapped))
        end = len(joined) // LENGTH * LENGTH
        return {"ids": [joined[i : i + LENGTH] for i in range(0, end, LENGTH)]}

    cache = str(out) + "-cache"
    data = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=cache)
    data = data.map(to_ids, batched=True, remove_columns=["text"])
    data.map(to_rows, batched=True).save_to_disk(str(out))


def import_libraries():
    """Imports the libraries of `theirs`, so that imports are not timed."""
    import datasets  # noqa: F401
    from transformers import PreTrainedTokenizerFast  # noqa: F401


def in_turns(ways, folder, repeats):
    """Returns the median seconds of {name: function of an output path}, run in turns."""
    seconds = {name: [] for name in ways}
    for repeat in range(repeats):
        for name, run in ways.items():
            start = time.perf_counter()
            run(folder / f"{name}-{repeat}")
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def show_preparation(seconds, size):
    """Prints the table of preparation."""
    table = Table(title=f"preparation of {size / 1e6:.0f} MB of text, one core, rows of {LENGTH}")
    for column in ("way", "seconds", "MB/s", "speed relative to datasets.map"):
        table.add_column(column)
    for name, taken in seconds.items():
        table.add_row(
            name,
            f"{taken:.2f}",
            f"{size / taken / 1e6:.2f}",
            f"{seconds['datasets.map'] / taken:.2f}",
        )
    Console().print(table)


def show_cleaning(path, out, size):
    """Prints the speed of all cleaning stages, except decontamination, on one core."""
    quality = ("gopher", "gopher-repetition", "fineweb")
    options = CleaningOptions("NFC", languages=("en",), quality=quality, near_duplicates=0.8)
    start = time.perf_counter()
    run_local_clean([str(path)], str(out), options, lambda name: read_file(pathlib.Path(name)))
    taken = time.perf_counter() - start
    print(f"cleaning, every stage, one core: {taken:.1f} s, {size / taken / 1e6:.2f} MB/s")


def show_loader(folder, batch_size=32, batches=200):
    """Prints the table of the loader by itself."""
    from dlms_jax.data.store.prepared import open_prepared

    rows = open_prepared(folder).rows("train")
    loader = TrainBatches([rows], [1.0], batch_size, 0, np.arange(batch_size), pad_id=0)
    table = Table(title=f"the loader by itself, batches of {batch_size} x {LENGTH}, from shards")
    for column in ("way", "ms/batch", "tokens/s"):
        table.add_column(column)
    for workers in (0, 1):
        stream = loader.iterate(0, prefetch=8, workers=workers)
        next(stream)  # starts threads and processes
        start = time.perf_counter()
        for _ in range(batches):
            next(stream)
        taken = (time.perf_counter() - start) / batches
        name = "a thread" if workers == 0 else f"{workers} worker process"
        table.add_row(name, f"{1e3 * taken:.2f}", f"{batch_size * LENGTH / taken:,.0f}")
    Console().print(table)


def memory_of_a_build(path, folder):
    """Prints the peak memory of a build in its own process, before and after."""
    code = """
import pathlib, re, sys
from dlms_jax.data.build.builder import DatasetBuilder
def peak():  # not getrusage: its peak is the parent's, from before exec
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) // 1024
before = peak()
DatasetBuilder(out=sys.argv[2]).build_from_raw(sys.argv[1], "bytes", 512)
print(before, peak())
"""
    command = [sys.executable, "-c", code, str(path), str(folder / "memory")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    before, after = printed.split()[-2:]
    print(f"peak memory of a build (bytes): {after} MiB, of which {before} before it starts")


def show_run(recipe, steps):
    """Prints how long a run waits for data, as a share of its time."""
    import jax

    from dlms_jax.data.feed.dataset import build_dataset
    from dlms_jax.denoiser import vocabulary_of
    from dlms_jax.parallel.mesh import local_rows, make_mesh, to_global
    from dlms_jax.training.assembly import assemble

    config = load_config(recipe)
    mesh = make_mesh(devices=jax.devices()[:1])
    with tempfile.TemporaryDirectory() as folder:
        data, length = config.data, config.data.sequence_length
        DatasetBuilder(out=folder, console=QUIET).build_from_raw(
            data.corpus, config.tokenizer, length
        )
        config = load_config(recipe, {"data.corpus": folder})
        dataset = build_dataset(config)
        assembly = assemble(config, vocabulary_of(dataset.tokenizer), mesh)
        state, step = assembly.initial_state(), assembly.step()
        loader = train_batches(dataset, config, local_rows(mesh, config.training.batch_size))
        batches = loader.iterate(0, data.prefetch)
        state, _ = jax.block_until_ready(step(state, (), to_global(next(batches), mesh)))
        waited = worked = 0.0
        for _ in range(steps):
            start = time.perf_counter()
            batch = next(batches)
            got = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, (), to_global(batch, mesh)))
            waited, worked = waited + got - start, worked + time.perf_counter() - got
        start = time.perf_counter()
        for number in range(steps):
            loader[number]
        alone = (time.perf_counter() - start) / steps
    print(
        f"{recipe}: {worked / steps:.3f} s per step, plus a wait of {waited / steps * 1e3:.2f} ms "
        f"for data ({waited / (waited + worked):.2%}); without prefetch a batch takes "
        f"{alone * 1e3:.2f} ms ({alone / (alone + worked / steps):.2%})"
    )


if __name__ == "__main__":
    main()
