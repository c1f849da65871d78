"""A checkpoint -> a folder that PyTorch users can load."""

import pathlib
import shutil
from typing import Any

import numpy as np
from rich.console import Console

from dlms_jax.conversion import card, native, pytorch
from dlms_jax.conversion.export_source import DTYPES, ExportSource, arrays_of
from dlms_jax.conversion.folder import (
    digests_of,
    files_of,
    finished_folder,
    save_json,
    with_digest,
    writable,
    write_checksums,
)
from dlms_jax.conversion.formats import FORMATS, check_format, config_json
from dlms_jax.conversion.tokenizer_files import write_tokenizer
from dlms_jax.conversion.verify import verify_export
from dlms_jax.conversion.weights_files import WeightsWriter, save_tensors
from dlms_jax.errors import UserError
from dlms_jax.terminal import byte_progress

METADATA_FILE = "dlms_jax.json"  # the checkpoint's metadata, for an import
WEIGHTS = ".safetensors"  # in the name of each file of the weights
PADDING = "padding.safetensors"  # the rows of the vocabulary that belong to no symbol


def export(
    source: ExportSource,
    out: pathlib.Path,
    format_name: str = "native",
    dtype: str | None = None,
    shard_bytes: int = 5_000_000_000,
    verify: bool | None = None,
    licence: str = "",
    chat_template: str = "",
    name: str = "",
    console: Console | None = None,
) -> dict[str, Any]:
    """Writes a checkpoint to a new folder, and returns the report of its check.

    The folder appears only when it is complete and checked.

    Args:
      source: the checkpoint.
      out: the new folder.
      format_name: a key of FORMATS, which gives tensor names and config.json.
      dtype: "float32" or "bfloat16"; None keeps the type of the checkpoint.
      shard_bytes: largest size of a file of weights.
      verify: whether to compare with PyTorch; None compares if torch is installed.
      licence: the licence of the weights, for the model card.
      chat_template: the Jinja template of chats; "" takes that of the run's data, if any.
      name: the name of the model in its card; "" takes that of the folder.
      console: where to print; None prints to the terminal.

    Raises:
      UserError: the format cannot hold the checkpoint, `out` exists or cannot be written to, or
        the export differs from the checkpoint.
    """
    console = console or Console(soft_wrap=True)
    config, tokenizer = source.config, source.tokenizer
    check_format(format_name, config, tokenizer)
    with finished_folder(out, console) as folder:
        written = _write_weights(source, folder, format_name, dtype, shard_bytes, console)
        described = config_json(format_name, config, tokenizer, written)
        generation = native.token_ids(tokenizer)
        if format_name == "native":
            described["gaussian"] = native.gaussian_config(config, _schedule(source))
            generation = native.generation_config(config, tokenizer)
            for file in native.FILES:
                shutil.copy(pathlib.Path(pytorch.__file__).with_name(file), folder / file)
        save_json(folder / "config.json", described)
        save_json(folder / "generation_config.json", generation)
        template = chat_template or source.metadata.get("chat_template", "")
        write_tokenizer(tokenizer, folder, config.data.sequence_length, template)
        weights = {name: path for name, path in files_of(folder).items() if WEIGHTS in name}
        digests = digests_of(weights)
        save_json(folder / METADATA_FILE, with_digest(_metadata(source) | {"files": digests}))
        report = verify_export(source, folder, format_name, written, verify, console)
        save_json(folder / "verification.json", report)
        text = card.model_card(
            source, name or out.name, out.name, format_name, written, report, licence
        )
        with writable(folder):
            (folder / "README.md").write_text(text, encoding="utf-8")
        rest = {name: path for name, path in files_of(folder).items() if name not in digests}
        write_checksums(folder, digests | digests_of(rest))
    return report


def _metadata(source: ExportSource) -> dict[str, Any]:
    """Returns the metadata of a checkpoint, with its step and which of its weights are exported."""
    step = int(source.folder.name) if source.folder.name.isdigit() else 0
    return source.metadata | {"step": step, "weights": source.item}


def _write_weights(source, folder, format_name, dtype, shard_bytes, console) -> str:
    """Writes the weights, and the padding of the vocabulary; returns the type of the weights."""
    arrays, tensors, size = source.arrays, source.tensors, source.tokenizer.size
    wanted, export_format = DTYPES[dtype] if dtype else None, FORMATS[format_name]
    total = (wanted or DTYPES["float32"]).itemsize * sum(tensor.size for tensor in tensors)
    _check_space(folder, total)
    writer, padding, types = WeightsWriter(folder, shard_bytes), {}, set()
    with byte_progress(console) as progress:
        task = progress.add_task("weights", total=total)
        for tensor in tensors:
            for name, array in arrays_of(tensor, arrays):
                array = array if wanted is None else array.astype(wanted)
                types.add(str(array.dtype))
                if tensor.vocabulary:
                    if len(array) > size:
                        padding[tensor.name] = np.ascontiguousarray(array[size:])
                    array = array[:size]
                writer.add(export_format.rename(name), array)
                progress.advance(task, array.nbytes)
                del array  # free this part of a parameter before the next is read
        for name, length in export_format.zero_tensors(source.config):
            writer.add(name, np.zeros(length, wanted or np.float32))
        writer.close()
    if padding:
        save_tensors(padding, folder / PADDING)
    return types.pop() if len(types) == 1 else "float32"


def _schedule(source: ExportSource) -> np.ndarray | None:
    """Returns the parameters of a learned noise schedule; None if it is fixed."""
    paths = [tensor.path for tensor in source.tensors]
    return source.arrays.read("embed/schedule") if "embed/schedule" in paths else None


def _check_space(folder, needed: int):
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"the weights need {needed / 2**20:.0f} MiB, but {folder.parent} has only "
            f"{free / 2**20:.0f} MiB free; free some space, give another --out, or --dtype bfloat16"
        )
