"""A folder of safetensors -> a checkpoint of ours, to sample from and to start training from."""

from collections.abc import Iterator, Mapping
import contextlib
import pathlib
import signal
import threading
from typing import Any

from rich.console import Console

from dlms_jax.checkpoints import checkpoint as checkpoints
from dlms_jax.checkpoints.checkpoint import portable
from dlms_jax.config import from_dict
from dlms_jax.conversion.export import ABOUT, PADDING
from dlms_jax.conversion.export_source import open_export_source
from dlms_jax.conversion.folder import check_checksums, finished_folder, read_json
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

# Of a config.json of ours, what PyTorch programs may write otherwise without changing the model.
_FREE = ("architectures", "auto_map", "gaussian", "rope_parameters", "attn_implementation")


def import_model(
    model: pathlib.Path,
    out: pathlib.Path,
    context: int | None = None,
    roles: Mapping[str, str] | None = None,
    verify: bool | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Writes the model of a folder as the checkpoint of a new workdir `out`, which appears only
    when all of it is there and checked; returns the report of the check.

    Of several processes each reads what its own devices hold; the first checks what is on disk,
    without PyTorch, and the others return an empty report.

    context: tokens of a row; None: the model's own, for others' models 2048 at most. roles: which
    special token has which role, where the tokenizer's files do not say it or say it otherwise.
    """
    leads = hosts.is_first()
    console = console or Console(soft_wrap=True, quiet=not leads)
    roles = {role: token for role, token in (roles or {}).items() if token}
    with finished_folder(out, lambda text: console.print(text, highlight=False), leads) as workdir:
        foreign, about = _described(model, context, roles)
        if leads:
            check_checksums(model)
        tokenizer = tokenizers.from_dict(about["tokenizer"])
        rows = vocabulary_of(tokenizer).rows
        reader = WeightsReader(model)
        padding = WeightsReader(model, PADDING) if (model / PADDING).is_file() else None
        tensors = list(tensors_of(foreign.config, rows))
        _check_tensors(model, reader, foreign, tensors)
        known = _known_symbols(reader, foreign, tensors)
        for line in _said_of_vocabulary(tokenizer, known):
            console.print(line, highlight=False)
        step = int(about.get("step", 0))
        params = read_params(reader, padding, foreign, tensors, rows, console)
        with _uninterrupted():  # orbax's threads write on, or crash, where Ctrl-C breaks in
            checkpoints.save_weights(workdir, step, params, about)
            del params  # the check has no use for them
            hosts.wait_for_all("checkpoint written")
            source = open_export_source(
                workdir / checkpoints.FOLDER / str(step)
            )  # all take part in it
        return verify_import(source, model, foreign, known, verify, console) if leads else {}


def _described(model, context, roles) -> tuple[ImportPlan, dict[str, Any]]:
    """Returns how a model is read, and what its checkpoint will say of itself."""
    described = read_json(model / "config.json")
    if "dlms_jax" not in described:
        foreign = plan_import(described, str(model / "config.json"), context)
        return foreign, _about(model, foreign, roles)
    if context or roles:
        raise UserError(
            f"{model} is ours: its context and special tokens are known; leave out --context and "
            "--...-token"
        )
    return _ours(model, described)


@contextlib.contextmanager
def _uninterrupted():
    """Keeps Ctrl-C until the end of the block."""
    if threading.current_thread() is not threading.main_thread():  # others are never interrupted
        yield
        return
    asked = []
    before = signal.signal(signal.SIGINT, lambda *_: asked.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


def _ours(model: pathlib.Path, described: dict[str, Any]) -> tuple[ImportPlan, dict[str, Any]]:
    """Returns how an export of ours is read, and what its checkpoint said of itself."""
    saved, where = described["dlms_jax"], model / "config.json"
    try:
        config, layout = portable(from_dict(saved["config"])), FORMATS[saved["layout"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{where}: what stands under dlms_jax lacks {error}; get it anew") from None
    if (model / ABOUT).is_file():
        about = read_json(model / ABOUT)
        tokenizer = tokenizers.from_dict(about["tokenizer"])
    else:  # saved anew by a PyTorch program
        tokenizer = _read_tokenizer(model, _token_names(model, described))
        about = {"tokenizer": tokenizer.to_dict(), "data": {}, "versions": checkpoints.versions()}
    for key, value in layout.config(config, tokenizer).items():
        if key in described and key not in _FREE and described[key] != value:
            raise UserError(
                f"{where} says {key}={described[key]!r}, but the settings it holds under dlms_jax "
                f"come to {value!r}; one of them is wrong, get it anew"
            )
    about["config"] = config.to_dict()
    zeros = tuple(name for name, _ in layout.zero_tensors(config))
    return ImportPlan(config, layout.rename, zeros=zeros), about


def _about(model: pathlib.Path, foreign: ImportPlan, roles: Mapping[str, str]) -> dict[str, Any]:
    """Returns what the checkpoint of another program's model says of itself."""
    described = {} if foreign.mask_id is None else {"mask_token_id": foreign.mask_id}
    tokenizer = _read_tokenizer(model, _token_names(model, described) | roles)
    if foreign.mask_id is not None and tokenizer.mask_id != foreign.mask_id:
        raise UserError(
            f"{model}: the model's mask is token {foreign.mask_id}, the tokenizer's is "
            f"{tokenizer.roles['mask']!r}, token {tokenizer.mask_id}; name the right one with "
            "--mask-token"
        )
    return {
        "config": foreign.config.to_dict(),
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
    """Returns the special tokens that a config names by their ids."""
    if not (model / "tokenizer.json").is_file():
        return {}
    added = read_json(model / "tokenizer.json").get("added_tokens") or []
    names = {token["id"]: token["content"] for token in added}
    ids = {role: described.get(f"{role}_token_id") for role in ROLES}
    return {role: names[i] for role, i in ids.items() if i in names}


def _check_tensors(model, reader: WeightsReader, foreign: ImportPlan, tensors: list[Tensor]):
    """Raises UserError where a tensor is missing, of another shape, or one without a place."""
    seen = set(foreign.zeros)
    for tensor in tensors:
        for name in map(foreign.rename, tensor.names()):
            seen.add(name)
            if name not in reader.shapes:
                raise UserError(f"{model} has no tensor {name}, which its config.json asks for")
            found = reader.shapes[name]
            fits = found[1:] == tensor.shape[1:] if tensor.vocabulary else found == tensor.shape
            if not fits:
                raise UserError(
                    f"{model}: {name} has the shape {found}; config.json makes it {tensor.shape}"
                )
    for name in foreign.zeros:
        if name in reader.shapes and reader.read(name).any():
            raise UserError(f"{model}: {name} is not 0; our attention's output has no bias")
    if foreign.config.model.tie_embeddings:  # some write it all the same
        seen |= {"lm_head.weight", foreign.rename("lm_head.weight")}
    extra = [n for n in reader.shapes if n not in seen and not n.endswith(foreign.ignored)]
    if extra:
        raise UserError(f"{model} has the tensor {min(extra)}, for which our network has no place")


def _known_symbols(reader, foreign, tensors) -> int:
    """Returns for how many symbols the file has rows."""
    names = [foreign.rename(tensor.name) for tensor in tensors if tensor.vocabulary]
    return min(reader.shapes[name][0] for name in names)


def _said_of_vocabulary(tokenizer: Tokenizer, known: int) -> Iterator[str]:
    if known > tokenizer.size:
        yield (
            f"the tokenizer has {tokenizer.size} symbols, the model rows for {known}: those that "
            "belong to no symbol are left out"
        )
    new = [token for token, i in tokenizer.special_ids.items() if i >= known]
    if new:
        yield f"new symbols, whose rows begin as the mean of all: {', '.join(new)}"
