"""A checkpoint of ours -> a folder that PyTorch users load."""

import pathlib
import shutil
from typing import Any

import numpy as np
from rich.console import Console

from dlms_jax.conversion import card, native, pytorch
from dlms_jax.conversion.export_source import DTYPES, ExportSource, arrays_of
from dlms_jax.conversion.folder import finished_folder, save_json, writable, write_checksums
from dlms_jax.conversion.formats import FORMATS, check_format, config_json
from dlms_jax.conversion.tokenizer_files import write_tokenizer
from dlms_jax.conversion.verify import verify_export
from dlms_jax.conversion.weights_files import WeightsWriter, save_tensors
from dlms_jax.errors import UserError
from dlms_jax.terminal import byte_progress

ABOUT = "dlms_jax.json"  # what the way back needs besides weights and settings
PADDING = "padding.safetensors"  # the rows that the head has for no symbol


def export(
    source: ExportSource,
    out: pathlib.Path,
    layout: str = "native",
    dtype: str | None = None,
    shard_bytes: int = 5_000_000_000,
    verify: bool | None = None,
    licence: str = "",
    chat_template: str = "",
    name: str = "",
    console: Console | None = None,
) -> dict[str, Any]:
    """Writes a checkpoint to a new folder `out`, which appears only when all of it is there and
    checked; returns the report of the check.

    dtype: float32 or bfloat16; None: as the checkpoint has it. verify: whether to compare with
    PyTorch; None: where torch is installed. licence: of the weights, for the model card.
    chat_template: the Jinja of dialogues; "": that of the run's data, if any. name: of the model in
    its card; "": the folder's.
    """
    console = console or Console(soft_wrap=True)
    check_format(layout, source.config, source.tokenizer)
    with finished_folder(out, lambda text: console.print(text, highlight=False)) as folder:
        written = _write_weights(source, folder, layout, dtype, shard_bytes, console)
        described = config_json(layout, source.config, source.tokenizer, written)
        if layout == "native":
            described["gaussian"] = native.gaussian_config(source.config, _schedule(source))
            for file in native.FILES:
                shutil.copy(pathlib.Path(pytorch.__file__).with_name(file), folder / file)
        save_json(folder / "config.json", described)
        save_json(
            folder / "generation_config.json",
            native.generation_config(source.config, source.tokenizer)
            if layout == "native"
            else native.token_ids(source.tokenizer),
        )
        template = chat_template or source.metadata.get("chat_template", "")
        write_tokenizer(source.tokenizer, folder, source.config.data.sequence_length, template)
        step = int(source.folder.name) if source.folder.name.isdigit() else 0
        save_json(folder / ABOUT, source.metadata | {"step": step, "weights": source.item})
        report = verify_export(source, folder, layout, written, verify, console)
        save_json(folder / "verification.json", report)
        text = card.model_card(source, name or out.name, out.name, layout, written, report, licence)
        with writable(folder):
            (folder / "README.md").write_text(text, encoding="utf-8")
        write_checksums(folder)
    return report


def _write_weights(source, folder, layout, dtype, shard_bytes, console) -> str:
    """Writes the weights and the rows of padding; returns the type they have."""
    arrays, tensors, size = source.arrays, source.tensors, source.tokenizer.size
    wanted = DTYPES[dtype] if dtype else None
    rename = FORMATS[layout].rename
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
                writer.add(rename(name), array)
                progress.advance(task, array.nbytes)
                del array  # a part of a parameter, which would stay while the next is read
        for name, length in FORMATS[layout].zero_tensors(source.config):
            writer.add(name, np.zeros(length, wanted or np.float32))
        writer.close()
    if padding:
        save_tensors(padding, folder / PADDING)
    return types.pop() if len(types) == 1 else "float32"


def _schedule(source: ExportSource) -> np.ndarray | None:
    """Returns the parameters of a noise schedule that was learned."""
    paths = [tensor.path for tensor in source.tensors]
    return source.arrays.read("embed/schedule") if "embed/schedule" in paths else None


def _check_space(folder, needed: int):
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"the weights take {needed / 2**20:.0f} MiB, of which {free / 2**20:.0f} are free in "
            f"{folder.parent}; free some space, give another --out, or --dtype bfloat16"
        )
