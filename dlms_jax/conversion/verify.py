"""Checks that two models are the same: bits on disk, then logits and greedy texts in PyTorch."""

from collections.abc import Callable
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
from dlms_jax.terminal import say

TOLERANCE = 1e-4  # largest difference of float32 logits, relative to the largest logit


def verify_export(
    source: ExportSource,
    folder: pathlib.Path,
    format_name: str,
    dtype: str,
    verify: bool | None,
    console: Console,
) -> dict[str, Any]:
    """Returns the report of the check of an export, the content of verification.json.

    Args:
      source: the checkpoint.
      folder: the export.
      format_name: its format, a key of FORMATS.
      dtype: the type of its weights, "float32" or "bfloat16".
      verify: whether to compare with PyTorch; None compares if torch is installed.
      console: where to print the result.

    Raises:
      UserError: the export differs from the checkpoint.
    """
    export_format = FORMATS[format_name]
    zeros = {name for name, _ in export_format.zero_tensors(source.config)}
    bits = _same_bits(source, folder, export_format.rename, source.tokenizer.size, zeros)
    report = {"layout": format_name, "weights": bits}

    def load():
        from dlms_jax.conversion.parity import Native, Stock  # imports torch

        if format_name == "native":
            return Native(folder)
        if format_name == "qwen3":
            return Stock.loaded(folder, source.config)
        return Stock.in_place_of(folder, source.config, export_format.rename)

    return _compared(report, source, load, source.tokenizer.size, dtype, verify, console)


def verify_import(
    source: ExportSource,
    model: pathlib.Path,
    plan: ImportPlan,
    known: int,
    verify: bool | None,
    console: Console,
) -> dict[str, Any]:
    """Returns the report of the check of an import.

    Args:
      source: the checkpoint that was written.
      model: the folder that it was imported from.
      plan: how it was imported.
      known: number of symbols that the model has rows for.
      verify: whether to compare with PyTorch; None compares if torch is installed.
      console: where to print the result.

    Raises:
      UserError: the checkpoint differs from the model.
    """
    size = min(known, source.tokenizer.size)
    bits = _same_bits(source, model, plan.rename, size, set(plan.zeros), plan.ignored)
    report = {"weights": bits}

    def load():
        from dlms_jax.conversion.parity import Native, Stock  # imports torch

        kind = str(read_json(model / "config.json").get("model_type"))
        if kind == "dlms":
            return Native(model)
        if kind in ("qwen3", "qwen3_moe", "qwen2", "llama"):
            return Stock.loaded(model, source.config)
        return Stock.in_place_of(model, source.config, plan.rename)

    return _compared(report, source, load, known, "float32", verify, console)


def _compared(
    report: dict[str, Any],
    source: ExportSource,
    load: Callable,
    known: int,
    dtype: str,
    verify: bool | None,
    console: Console,
) -> dict[str, Any]:
    """Returns the report with the comparison of logits and texts. load: gives the PyTorch model."""
    if reason := _why_not(verify):
        report["logits"] = f"not compared with PyTorch: {reason}"
        say(console, f"verified: {report['weights']}; logits {report['logits']}")
        return report
    from dlms_jax.conversion.parity import compare

    report |= compare(source, load(), known, dtype)
    worst = max(report["logits"].values())
    if not worst <= TOLERANCE:
        case = max(report["logits"], key=report["logits"].get)
        raise UserError(
            f"the converted model differs from the original: logits differ by {worst:.1e} of the "
            f"largest ({case}), more than {TOLERANCE:.0e}; this is a bug, please report it"
        )
    if report["greedy"] is False:
        raise UserError(
            f"greedy texts of the converted model differ, though logits are at most {worst:.1e} "
            "apart: two symbols are equally probable, or it is a bug; --no-verify skips this check"
        )
    texts = {True: "greedy texts identical", None: "no sampler to compare"}[report["greedy"]]
    say(
        console,
        f"verified: {report['weights']}; {len(report['logits'])} comparisons of logits with "
        f"{report['class']}, at most {worst:.1e} apart; {texts}",
    )
    return report


def _why_not(verify: bool | None) -> str:
    """Returns why there is no comparison with PyTorch; "" if there is one."""
    installed = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    if verify and not installed:
        raise UserError("--verify needs torch and transformers: pip install 'dlms_jax[torch]'")
    if verify is False:
        return "--no-verify"
    if jax.process_count() > 1:
        return "several processes imported it, and all would have to compute"
    return "" if installed else "torch or transformers is not installed"


def _bits(array: np.ndarray) -> np.ndarray:
    """Returns numbers as integers, so that NaN equals itself and 0 differs from -0."""
    return array.view(f"u{array.dtype.itemsize}")


def _same_bits(source, folder, rename, size: int, zeros, ignored=()) -> str:
    """Checks that a folder holds the tensors of a checkpoint; returns what was compared.

    Args:
      source: the checkpoint; its arrays are cast to the type of the folder's.
      folder: the folder with the weights.
      rename: our PyTorch name of a tensor -> the folder's.
      size: rows of the vocabulary that both have.
      zeros: names of tensors that only the folder has.
      ignored: suffixes of the names of other such tensors.
    """
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
                raise UserError(
                    f"{folder}: {name} differs from the checkpoint; check the disk and try again"
                )
            del array, written  # free this part of a parameter before the next is read
    tied = {rename("lm_head.weight")} if source.config.model.tie_embeddings else set()
    extra = {n for n in set(reader.shapes) - seen - tied if not n.endswith(tuple(ignored))}
    if extra:
        raise UserError(
            f"{folder} has a tensor {min(extra)} that is not in the checkpoint; this is a bug, "
            "please report it"
        )
    return f"{len(seen)} tensors, {number} numbers, bit for bit"
