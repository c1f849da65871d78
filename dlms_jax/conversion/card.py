"""The model card: the README.md beside the exported weights."""

from collections.abc import Iterator
import json
from typing import Any

from dlms_jax import __version__
from dlms_jax.checkpoints.metrics import read_metrics
from dlms_jax.config import Config, changed_settings
from dlms_jax.conversion.export_source import ExportSource
from dlms_jax.denoiser import vocabulary_of
from dlms_jax.diffusion import make_objective, schedule_size
from dlms_jax.models import count_parameters

_NATIVE = """from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=True)
model = AutoModelForMaskedLM.from_pretrained("{name}", trust_remote_code=True)
inputs = tokenizer("The ", return_tensors="pt")
tokens = model.generate(**inputs, max_new_tokens=64, seed=0)
print(tokenizer.batch_decode(tokens, skip_special_tokens=True)[0])"""
_QWEN3 = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
inputs = tokenizer("The ", return_tensors="pt")
tokens = model.generate(**inputs, max_new_tokens=64, do_sample=True)
print(tokenizer.batch_decode(tokens, skip_special_tokens=True)[0])"""
_COPY = "Copy it to this folder and name it in `auto_map` of config.json."
_RUN = {  # by format
    "native": f"With `pip install torch transformers`:\n\n```python\n{_NATIVE}\n```\n\n"
    "The network is in modeling_dlms.py; `generate` and its settings are in generation_dlms.py.",
    "qwen3": f"With `pip install torch transformers`:\n\n```python\n{_QWEN3}\n```",
    "a2d": "dLLM (github.com/ZHZisZZ/dllm) has the class for these weights: after `import dllm`, "
    '`AutoModelForMaskedLM.from_pretrained("{name}")`.',
    "sdar": "SGLang and LMDeploy have the class for these weights.",
    "megadlms": "MegaDLMs (github.com/JinjieNi/MegaDLMs) has the class for these weights, in "
    f"modeling_dlm.py. {_COPY}",
    "llada": "LLaDA (huggingface.co/GSAI-ML) has the class for these weights, in "
    f"modeling_llada.py. {_COPY} Give its generate() the id of the mask token.",
    "dream": "Dream (huggingface.co/Dream-org) has the class for these weights, in "
    f"modeling_dream.py. {_COPY}",
}


def model_card(
    source: ExportSource,
    name: str,
    folder: str,
    format_name: str,
    dtype: str,
    report: dict[str, Any],
    licence: str,
) -> str:
    """Returns the text of the model card.

    Args:
      source: the checkpoint.
      name: the name of the model.
      folder: the folder that a user loads it from.
      format_name: its format, a key of FORMATS.
      dtype: the type of its weights, "float32" or "bfloat16".
      report: the report of `verify_export`.
      licence: the licence of the weights; "" if it is not stated.
    """
    config, metadata = source.config, source.metadata
    number = count_parameters(config, source.tokenizer.size, schedule_size(config))
    active = ""
    if config.model.experts:
        used = count_parameters(config, source.tokenizer.size, schedule_size(config), active=True)
        active = f" ({used:,} of them active for each token)"
    weights = "moving average of the weights" if source.item == "ema" else "weights"
    lines = [
        "---",
        "library_name: transformers",
        *([f"license: {licence}"] if licence else []),
        "tags:",
        "- dlms_jax",
        f"- {config.objective.name}-language-model",
        "---",
        "",
        f"# {name}",
        "",
        f"A language model with {number:,} parameters{active}, trained by dlms_jax {__version__}: "
        f"{config.objective.name}, {config.model.name}. These are the {weights} at step "
        f"{source.folder.name}, in {dtype}, in the layout {format_name}.",
        "",
        "## Run",
        "",
        _RUN[format_name].format(name=folder),
        "",
        "## Held-out text",
        "",
        _heldout(source),
        "",
        "## Data",
        "",
        *_data(metadata.get("data", {})),
        "",
        f"Tokenizer: {config.tokenizer.name}, {source.tokenizer.size} symbols. Context: "
        f"{config.data.sequence_length} tokens. Each text begins with "
        f"`{source.tokenizer.roles['bos']}`.",
        "",
        "## Recipe",
        "",
        f"Settings of the recipe `{config.name}` that differ from the defaults of dlms_jax:",
        "",
        "```",
        *(f"{key} = {json.dumps(now)}" for key, _, now in changed_settings(Config(), config)),
        "```",
        "",
        "## Checks",
        "",
        "The export was compared with the checkpoint that it was made from:",
        "",
        *_checks(report),
        "",
        "SHA256SUMS has the sha256 of every file (`sha256sum --check SHA256SUMS`).",
        "",
        "## Licence",
        "",
        f"Weights: {licence or 'not stated'}."
        + (" The .py files: Apache-2.0." if format_name == "native" else ""),
        "",
    ]
    return "\n".join(lines)


def _heldout(source: ExportSource) -> str:
    """Returns the last held-out numbers that the run logged up to this step."""
    history = read_metrics(source.folder.parent.parent / "metrics.csv")
    step = int(source.folder.name) if source.folder.name.isdigit() else 0
    rows = [row for row in history if row["bits_per_byte"] and int(row["step"]) <= step]
    if not rows:
        return "Not evaluated up to this step, or the run's log is not beside the checkpoint."
    last, config = rows[-1], source.config
    objective = make_objective(config, vocabulary_of(source.tokenizer))
    which = f"{config.evaluation.rows} rows" if config.evaluation.rows else "all rows"
    return (
        f"At step {last['step']}: {float(last['bits_per_byte']):.4f} bits/byte +- "
        f"{float(last['stderr'] or 0):.4f} (standard error), {float(last['bound']):.4f} nats/token "
        f"on {which} of {config.data.sequence_length} tokens of held-out text. Protocol: "
        f"{objective.protocol}."
    )


def _data(data: dict[str, Any]) -> Iterator[str]:
    """Yields a line for each text, with its size and fingerprint."""
    texts = [("training", text) for text in data.get("train", [])]
    if "heldout" in data:
        texts.append(("held-out", data["heldout"]))
    for use, text in texts:
        sizes = ", ".join(f"{text[k]:,} {k}" for k in ("documents", "bytes", "tokens") if k in text)
        name = f"{text['name']} " if text.get("name") else ""
        yield f"- {use}: {name}{sizes}, sha256 `{text['sha256']}`"
    if not texts:
        yield "Not recorded: these weights were imported."


def _checks(report: dict[str, Any]) -> Iterator[str]:
    yield f"- On disk: {report['weights']}."
    if isinstance(report["logits"], str):
        yield f"- Logits: {report['logits']}."
        return
    yield (
        f"- Logits in float32, JAX against {report['class']}: differences of at most "
        f"{max(report['logits'].values()):.1e} of the largest logit "
        f"({len(report['logits'])} comparisons, see verification.json)."
    )
    yield {True: "- Greedy texts: identical.", None: "- Greedy texts: not compared."}[
        report["greedy"]
    ]
