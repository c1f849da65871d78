"""A folder of safetensors -> a checkpoint that can be sampled and that training can start from."""

from collections.abc import Mapping
import contextlib
import pathlib
import signal
import threading
from typing import Any

from rich.console import Console

from dlms_jax.checkpoints import checkpoint as checkpoints
from dlms_jax.checkpoints.checkpoint import portable
from dlms_jax.config import from_dict, upgrade_run
from dlms_jax.conversion.export import METADATA_FILE, PADDING
from dlms_jax.conversion.export_source import open_export_source
from dlms_jax.conversion.folder import (
    CHECKSUMS,
    DIGEST,
    check_checksums,
    check_digest,
    check_files,
    finished_folder,
    read_json,
)
from dlms_jax.conversion.formats import FORMATS
from dlms_jax.conversion.import_plan import ImportPlan, plan_import
from dlms_jax.conversion.names import Tensor, tensors_of
from dlms_jax.conversion.params import read_params
from dlms_jax.conversion.verify import verify_import
from dlms_jax.conversion.weights_files import WeightsReader
from dlms_jax.data import tokenizers
from dlms_jax.data.tokenizers import ROLES, Tokenizer
from dlms_jax.data.tokenizers.hugging_face import load_hugging_face
from dlms_jax.denoiser import vocabulary_of
from dlms_jax.errors import UserError
from dlms_jax.parallel import hosts
from dlms_jax.terminal import say

# Keys of our config.json that PyTorch programs may change without changing the model.
_FREE = ("architectures", "auto_map", "gaussian", "rope_parameters", "attn_implementation")


def import_model(
    model: pathlib.Path,
    out: pathlib.Path,
    context: int | None = None,
    roles: Mapping[str, str] | None = None,
    verify: bool | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Writes a model as the checkpoint of a new workdir, and returns the report of its check.

    The workdir appears only when it is complete and checked. With several processes, each reads
    what its own devices hold; process 0 checks the files without PyTorch, and the others return an
    empty report.

    Args:
      model: a folder with config.json, safetensors and a tokenizer.
      out: the new workdir.
      context: tokens per row; None takes those of the model, for other programs' models at most
        2048.
      roles: the special token of each role (pad, bos, eos, mask) that the tokenizer's files do not
        name, or name differently.
      verify: whether to compare with PyTorch; None compares if torch is installed.
      console: where to print; None prints to the terminal of process 0.

    Raises:
      UserError: the model is damaged or cannot be held by our network, `out` exists, or the
        checkpoint differs from the model.
    """
    leads = hosts.is_first()
    console = console or Console(soft_wrap=True, quiet=not leads)
    roles = {role: token for role, token in (roles or {}).items() if token}
    with finished_folder(out, console, leads) as workdir:
        described = read_json(model / "config.json")
        if leads:
            check_checksums(model)
        reader = WeightsReader(model)
        _check_sizes(model, described, reader)
        plan, metadata = _plan(model, described, context, roles)
        tokenizer = tokenizers.from_dict(metadata["tokenizer"])
        rows = vocabulary_of(tokenizer).padded_size
        padding = WeightsReader(model, PADDING) if (model / PADDING).is_file() else None
        tensors = list(tensors_of(plan.config, rows))
        _check_tensors(model, reader, plan, tensors)
        digests = metadata.pop("files", {})
        if leads and not (model / CHECKSUMS).is_file():
            check_files(model, digests, METADATA_FILE)
            if not digests and "imported" not in metadata:
                say(console, f"{model} has no checksums, so damaged weights are not noticed")
        known = _known_symbols(reader, plan, tensors)
        _report_vocabulary(tokenizer, known, console)
        step = int(metadata.get("step", 0))
        params = read_params(reader, padding, plan, tensors, rows, console)
        with _uninterrupted():  # Ctrl-C leaves orbax's threads running, or crashes them
            checkpoints.save_weights(workdir, step, params, metadata)
            del params  # the check does not need them
            hosts.wait_for_all("checkpoint written")
            # A collective, so it runs on every process.
            source = open_export_source(workdir / checkpoints.FOLDER / str(step))
        return verify_import(source, model, plan, known, verify, console) if leads else {}


def _check_sizes(model: pathlib.Path, described: dict[str, Any], reader: WeightsReader):
    """Raises UserError for sizes that the tensors cannot have, before a network is built."""
    largest = max((size for shape in reader.shapes.values() for size in shape), default=0)
    number = len(reader.shapes)
    limits = {"num_hidden_layers": number, "n_layers": number, "head_dim": largest}
    for key, limit in limits.items():
        value = described.get(key)
        if isinstance(value, int) and value > limit:
            raise UserError(
                f"{model / 'config.json'} has {key}={value}, but the files hold {number} tensors, "
                f"whose largest axis is {largest}; download it again"
            )


def _plan(model, described, context, roles) -> tuple[ImportPlan, dict[str, Any]]:
    """Returns how to import a model, and the metadata of the checkpoint."""
    if "dlms_jax" not in described:
        plan = plan_import(described, str(model / "config.json"), context)
        return plan, _metadata(model, plan, roles)
    if context is not None or roles:
        raise UserError(
            f"{model} was exported by dlms_jax, together with its context and special tokens; omit "
            "--context and the --*-token options"
        )
    return _plan_own_export(model, described)


@contextlib.contextmanager
def _uninterrupted():
    """Delays Ctrl-C until the end of the block."""
    if threading.current_thread() is not threading.main_thread():  # Ctrl-C goes to the main thread
        yield
        return
    interrupts = []
    before = signal.signal(signal.SIGINT, lambda *_: interrupts.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupts:
        raise KeyboardInterrupt


def _plan_own_export(
    model: pathlib.Path, described: dict[str, Any]
) -> tuple[ImportPlan, dict[str, Any]]:
    """Returns how to import an export of ours, and the metadata of its checkpoint."""
    where = model / "config.json"
    try:
        saved = _current(described["dlms_jax"], where)
        config, export_format = portable(from_dict(saved["config"])), FORMATS[saved["layout"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{where}: the key dlms_jax lacks {error}; download it again") from None
    if (model / METADATA_FILE).is_file():
        metadata = _current(read_json(model / METADATA_FILE), model / METADATA_FILE)
        try:
            tokenizer = tokenizers.from_dict(metadata["tokenizer"])
        except (KeyError, TypeError) as error:
            raise UserError(f"{model / METADATA_FILE} lacks {error}; download it again") from None
    else:  # a PyTorch program has saved the model again
        tokenizer = _read_tokenizer(model, _token_names(model, described))
        metadata = {
            "tokenizer": tokenizer.to_dict(),
            "data": {},
            "versions": checkpoints.versions(),
        }
    for key, value in export_format.config(config, tokenizer).items():
        if key in described and key not in _FREE and described[key] != value:
            raise UserError(
                f"{where} has {key}={described[key]!r}, but the settings in its key dlms_jax give "
                f"{value!r}; download it again"
            )
    metadata["config"] = config.to_dict()
    zeros = tuple(name for name, _ in export_format.zero_tensors(config))
    return ImportPlan(config, export_format.rename, zeros=zeros), metadata


def _current(data: dict[str, Any], where: pathlib.Path) -> dict[str, Any]:
    """Returns what an export of ours wrote to the file `where`, in the current format."""
    if not isinstance(data, dict):
        raise UserError(f"{where}: the key dlms_jax is not a JSON object; download it again")
    upgraded = upgrade_run(data, where)  # first: newer formats may have other digests
    check_digest(data, where)
    return {key: value for key, value in upgraded.items() if key != DIGEST}


def _metadata(model: pathlib.Path, plan: ImportPlan, roles: Mapping[str, str]) -> dict[str, Any]:
    """Returns the metadata of a checkpoint that is imported from another program's model."""
    described = {} if plan.mask_id is None else {"mask_token_id": plan.mask_id}
    tokenizer = _read_tokenizer(model, {**_token_names(model, described), **roles})
    if plan.mask_id is not None and tokenizer.mask_id != plan.mask_id:
        raise UserError(
            f"{model}: the mask is token {plan.mask_id} for the model, but "
            f"{tokenizer.roles['mask']!r}, token {tokenizer.mask_id}, for the tokenizer; name the "
            "right one with --mask-token"
        )
    return {
        "config": plan.config.to_dict(),
        "tokenizer": tokenizer.to_dict(),
        "data": {},
        "versions": checkpoints.versions(),
        "imported": str(model),
    }


def _read_tokenizer(model: pathlib.Path, roles: Mapping[str, str]) -> Tokenizer:
    try:
        return load_hugging_face(model, {role: roles.get(role, "") for role in ROLES}, ())
    except UserError as error:
        raise UserError(f"{model}: {error}") from None


def _token_names(model: pathlib.Path, described: dict[str, Any]) -> dict[str, str]:
    """Returns the special token of each role that a config.json names by its id."""
    if not (model / "tokenizer.json").is_file():
        return {}
    added = read_json(model / "tokenizer.json").get("added_tokens") or []
    names = {token["id"]: token["content"] for token in added}
    ids = {role: described.get(f"{role}_token_id") for role in ROLES}
    return {role: names[i] for role, i in ids.items() if isinstance(i, int) and i in names}


def _check_tensors(model, reader: WeightsReader, plan: ImportPlan, tensors: list[Tensor]):
    """Raises UserError if a tensor is missing, has another shape, or has no counterpart in ours."""
    seen = set(plan.zeros)
    for tensor in tensors:
        for name in map(plan.rename, tensor.names()):
            seen.add(name)
            if name not in reader.shapes:
                raise UserError(
                    f"{model} has no tensor {name}, which its config.json requires; download it "
                    "again"
                )
            found = reader.shapes[name]
            fits = found[1:] == tensor.shape[1:] if tensor.vocabulary else found == tensor.shape
            if not fits:
                raise UserError(
                    f"{model}: {name} has the shape {found}, but its config.json requires "
                    f"{tensor.shape}; download it again"
                )
    for name in plan.zeros:
        if name in reader.shapes and reader.read(name).any():
            raise UserError(
                f"{model} cannot be imported: {name} is not 0, and our network has no such bias"
            )
    if plan.config.model.tie_embeddings:  # some programs write the tied head, too
        seen |= {"lm_head.weight", plan.rename("lm_head.weight")}
    extra = [n for n in reader.shapes if n not in seen and not n.endswith(plan.ignored)]
    if extra:
        raise UserError(
            f"{model} cannot be imported: it has the tensor {min(extra)}, and our network has none "
            "like it"
        )


def _known_symbols(reader, plan, tensors) -> int:
    """Returns the number of symbols that the model has rows for."""
    names = [plan.rename(tensor.name) for tensor in tensors if tensor.vocabulary]
    return min(reader.shapes[name][0] for name in names)


def _report_vocabulary(tokenizer: Tokenizer, known: int, console: Console):
    """Prints which rows of the vocabulary are dropped or new."""
    if known > tokenizer.size:
        say(
            console,
            f"the tokenizer has {tokenizer.size} symbols, the model has rows for {known}: the "
            f"last {known - tokenizer.size} rows are dropped",
        )
    new = [token for token, i in tokenizer.special_ids.items() if i >= known]
    if new:
        say(console, f"new symbols, whose rows start as the mean of all rows: {', '.join(new)}")
