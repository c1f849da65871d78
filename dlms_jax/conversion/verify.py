"""Is it the same model? Bits on disk, then logits and greedy texts in PyTorch."""

import importlib.util
import pathlib
from typing import Any

import jax
import numpy as np
from rich.console import Console

from dlms_jax.conversion.export_source import ExportSource, arrays_of
from dlms_jax.conversion.folder import read_json
from dlms_jax.conversion.formats import FORMATS
from dlms_jax.conversion.import_plan import ImportPlan
from dlms_jax.conversion.weights_files import WeightsReader
from dlms_jax.errors import UserError

TOLERANCE = 1e-4  # of logits in float32: the largest difference, as a share of the largest logit


def verify_export(
    source: ExportSource,
    folder: pathlib.Path,
    layout: str,
    dtype: str,
    wanted: bool | None,
    console: Console,
) -> dict[str, Any]:
    """Returns the report of an export; raises UserError where it is not the checkpoint.

    dtype: of what was written. wanted: whether to compare with PyTorch; None: where torch is
    installed.
    """
    zeros = {name for name, _ in FORMATS[layout].zero_tensors(source.config)}
    bits = _same_bits(source, folder, FORMATS[layout].rename, source.tokenizer.size, zeros)
    report = {"layout": layout, "weights": bits}

    def theirs():
        from dlms_jax.conversion.parity import Native, Stock  # here, for it imports torch

        if layout == "native":
            return Native(folder)
        if layout == "qwen3":
            return Stock.loaded(folder, source.config)
        return Stock.in_place_of(folder, source.config, FORMATS[layout].rename)

    return _compared(report, source, theirs, source.tokenizer.size, dtype, wanted, console)


def verify_import(
    source: ExportSource,
    model: pathlib.Path,
    foreign: ImportPlan,
    known: int,
    wanted: bool | None,
    console: Console,
) -> dict[str, Any]:
    """Returns the report of an import; raises UserError where the checkpoint is not the model.

    source: the checkpoint. known: symbols that the model has rows for.
    """
    size = min(known, source.tokenizer.size)
    zeros = set(foreign.zeros)
    report = {"weights": _same_bits(source, model, foreign.rename, size, zeros, foreign.ignored)}

    def theirs():
        from dlms_jax.conversion.parity import Native, Stock

        kind = str(read_json(model / "config.json").get("model_type"))
        if kind == "dlms":
            return Native(model)
        if kind in ("qwen3", "qwen3_moe", "qwen2", "llama"):
            return Stock.loaded(model, source.config)
        return Stock.in_place_of(model, source.config, foreign.rename)

    return _compared(report, source, theirs, known, "float32", wanted, console)


def _compared(report, source, theirs, known, dtype, wanted, console) -> dict[str, Any]:
    """Returns the report with what the comparison of logits and texts gave. theirs: gives the
    model in PyTorch."""
    installed = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    if wanted and not installed:
        raise UserError("--verify needs torch and transformers: pip install -e '.[torch]'")
    why = "" if installed else "torch or transformers is not installed"
    if jax.process_count() > 1:
        why = "several processes imported it, which would all have to compute"
    if wanted is False:
        why = "--no-verify"
    if why:
        report["logits"] = f"not compared with PyTorch: {why}"
        console.print(f"verified: {report['weights']}; logits {report['logits']}", highlight=False)
        return report
    from dlms_jax.conversion.parity import compare

    report |= compare(source, theirs(), known, dtype)
    worst = max(report["logits"].values())
    if not worst <= TOLERANCE:
        case = max(report["logits"], key=report["logits"].get)
        raise UserError(
            f"the exported model is not the checkpoint's: logits differ by {worst:.1e} of the "
            f"largest ({case}), more than {TOLERANCE:.0e}; this is a bug, please report it"
        )
    if report["greedy"] is False:
        raise UserError(
            f"greedy texts are not the checkpoint's, though logits are {worst:.1e} apart at most: "
            "two symbols as likely, or a bug; --no-verify leaves this comparison out"
        )
    said = {True: "greedy texts identical", None: "no sampler to compare"}[report["greedy"]]
    console.print(
        f"verified: {report['weights']}; {len(report['logits'])} comparisons of logits with "
        f"{report['class']}, at most {worst:.1e} apart; {said}",
        highlight=False,
    )
    return report


def _bits(array: np.ndarray) -> np.ndarray:
    """Returns a view of numbers as integers: NaN equals itself, and 0 is not -0."""
    return array.view(f"u{array.dtype.itemsize}")


def _same_bits(source, folder, rename, size: int, zeros, ignored=()) -> str:
    """Checks the tensors of a folder against a checkpoint: names, shapes, bits (a checkpoint's are
    brought to the folder's type). size: rows of the vocabulary that both have."""
    reader, seen, number = WeightsReader(folder), set(zeros), 0
    for tensor in source.tensors:
        for name, array in arrays_of(tensor, source.arrays):
            name = rename(name)
            seen.add(name)
            number += array.size
            written = reader.read(name)
            if tensor.vocabulary:
                array, written = array[:size], written[:size]
            array = array.astype(written.dtype, copy=False)
            if not np.array_equal(_bits(written), _bits(array)):
                raise UserError(f"{folder}: {name} is not what the checkpoint has; a failing disk?")
            del array, written  # of a parameter, which would stay while the next is read
    tied = {rename("lm_head.weight")} if source.config.model.tie_embeddings else set()
    extra = {n for n in set(reader.shapes) - seen - tied if not n.endswith(tuple(ignored))}
    if extra:
        raise UserError(f"{folder} has a tensor {min(extra)} that the checkpoint has not")
    return f"{len(seen)} tensors, {number} numbers, bit for bit"
