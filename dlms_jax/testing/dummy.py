"""A small config, a model with random weights, and texts: they compile and run in seconds."""

from typing import Any

import jax

from dlms_jax.config import Config, from_dict
from dlms_jax.data.corpora.synthetic import SyntheticLanguage
from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.denoiser import initial_params, make_network, vocabulary_of
from dlms_jax.model import DiffusionLM
from dlms_jax.parallel.mesh import make_mesh


def small_config(**settings) -> Config:
    """Returns a Config that compiles in seconds.

    Args:
      **settings: settings to change, with __ for the dot: objective__name="block".

    Raises:
      UserError: a setting is unknown, or settings do not fit one another.
    """
    base: dict[str, Any] = {
        "name": "small",
        "model": {"width": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2,
                  "feed_forward": 64, "dtype": "float32", "remat": "none"},
        "data": {"corpus": "python-docs", "sequence_length": 32},
        "optimizer": {"warmup_steps": 2, "peak_learning_rate": 3e-3},
        "training": {"batch_size": 8, "steps": 6, "log_every": 1, "loss_chunk_size": 16},
        "evaluation": {"batch_size": 8, "rows": 8, "final_rows": 8, "samples": 2, "every": 100},
        "checkpoint": {"every": 100},
        "sampling": {"length": 8, "steps": 4},
    }  # fmt: skip
    for key, value in settings.items():
        section, leaf = key.split("__")
        base.setdefault(section, {})[leaf] = value
    return from_dict(base)


def dummy_model(config: Config | None = None, seed: int = 0) -> DiffusionLM:
    """Returns a model with random weights and the byte tokenizer, on one device.

    Args:
      config: its config; None: `small_config()`.
      seed: of the weights.
    """
    config = small_config() if config is None else config
    mesh = make_mesh(devices=jax.devices()[:1])
    tokenizer = ByteTokenizer()
    network = make_network(config, vocabulary_of(tokenizer).padded_size, mesh)
    params = jax.jit(lambda: initial_params(network, jax.random.key(seed)))()
    return DiffusionLM(config, tokenizer, params, mesh)


def dummy_texts(number: int = 100, seed: int = 0) -> list[str]:
    """Returns texts of the synthetic language of data/corpora/synthetic.py."""
    documents = SyntheticLanguage(seed).documents(number)
    return [document.text.decode() for document in documents]
