"""Compares JAX and PyTorch on the same inputs, in float32: logits and greedy texts."""

from collections.abc import Callable
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import numpy as np
import torch
import transformers

from dlms_jax.config import Config, traits_of
from dlms_jax.conversion.export_source import DTYPES, ExportSource
from dlms_jax.conversion.folder import read_json
from dlms_jax.conversion.probes import cases, prompts
from dlms_jax.conversion.pytorch.modeling_dlms import DLMForDiffusion
from dlms_jax.conversion.weights_files import WeightsReader
from dlms_jax.denoiser import make_denoiser, make_network, vocabulary_of
from dlms_jax.diffusion import Layout, Noisy, make_objective
from dlms_jax.diffusion.protocol import example_keys
from dlms_jax.models.attention import attention_mask
from dlms_jax.parallel.mesh import make_mesh
from dlms_jax.sampling import make_canvas, make_sampler, run_sampler

_GUIDANCE = 0.5  # for greedy texts, so that both forward passes are compared


def compare(
    source: ExportSource, theirs: "Native | Stock", known: int, dtype: str = "float32"
) -> dict[str, Any]:
    """Returns how far a PyTorch model is from a checkpoint.

    Args:
      source: the checkpoint.
      theirs: the PyTorch model.
      known: number of symbols that the PyTorch model has rows for.
      dtype: the type of its weights, to which the checkpoint's are rounded; both frameworks compute
        in float32.

    Returns:
      {"class": name of the PyTorch class, "logits": {case: largest difference, relative to the
      largest logit}, "greedy": whether greedy texts are identical, None without our sampler}.
    """
    model = dataclasses.replace(source.config.model, dtype="float32", remat="none")
    ours = Ours(dataclasses.replace(source.config, model=model), source, dtype)
    with torch.no_grad():
        logits = {}
        for names, inputs, t_BxL, rows in cases(ours.config, ours.tokenizer, known):
            expected = np.asarray(ours.logits(inputs, t_BxL, rows))
            found = theirs.logits(inputs, t_BxL, rows)
            for i, name in enumerate(names):
                logits[name] = _apart(expected[i], found[i], rows.segments_BxL[i] > 0)
        same = theirs.texts(ours)
    return {"class": theirs.name, "logits": logits, "greedy": same}


def _apart(expected_LxV, found_LxV, valid_L) -> float:
    """Returns the largest difference relative to the largest logit, ignoring all padding."""
    columns = min(expected_LxV.shape[1], found_LxV.shape[1])
    expected, found = (x[valid_L, :columns] for x in (expected_LxV, found_LxV))
    return float(np.abs(found - expected).max() / np.abs(expected).max())


class Ours:
    """The network of a checkpoint and its sampler, in JAX on one device.

    Args:
      config: the config to build the network with.
      source: the checkpoint.
      dtype: the type that the weights are rounded to first, "float32" or "bfloat16".
    """

    def __init__(self, config: Config, source: ExportSource, dtype: str = "float32"):
        self.config, self.tokenizer = config, source.tokenizer
        vocabulary = vocabulary_of(source.tokenizer)
        mesh = make_mesh(devices=jax.local_devices()[:1])
        self.objective = make_objective(config, vocabulary)
        self.network = make_network(config, vocabulary.padded_size, mesh)
        params: dict[str, Any] = {}
        for tensor in source.tensors:
            *parts, leaf = tensor.path.split("/")
            node = functools.reduce(lambda node, part: node.setdefault(part, {}), parts, params)
            array = source.arrays.read(tensor.path).astype(DTYPES[dtype], copy=False)
            node[leaf] = array.astype(np.float32, copy=False)

        def denoiser(params):
            return make_denoiser(config, self.network, params, self.objective, mesh)

        self.params, self.denoiser = jax.device_put(params), denoiser
        self._logits = jax.jit(lambda params, *inputs: denoiser(params).logits(*inputs))

    def logits(self, inputs, t_BxL, rows: Layout):
        """Returns logits_BxLxV."""
        return self._logits(self.params, inputs, t_BxL, rows)

    def sample(self, sampling, pieces):
        """Returns (the canvas, the sampler's first state, the final tokens_BxL).

        Args:
          sampling: the SamplingConfig.
          pieces: prompts with holes, as `make_canvas` takes them.
        """
        sampler = make_sampler(self.config.objective.name, self.objective, sampling)
        canvas = make_canvas(pieces, self.tokenizer, self.config.data.sequence_length)
        keys_B = example_keys(jax.random.key(0), np.arange(len(pieces)))
        total = sampler.num_steps(canvas)

        @jax.jit
        def fill(params):
            denoise = self.denoiser(params)
            state = sampler.start(denoise, canvas, keys_B)
            return state, run_sampler(sampler, denoise, state, total)

        first, last = fill(self.params)
        return canvas, first, np.asarray(last.tokens_BxL)


class Native:
    """An export in our own format, in PyTorch.

    Args:
      folder: the export.
    """

    name = "DLMForDiffusion"

    def __init__(self, folder: pathlib.Path):
        self.model = DLMForDiffusion.from_pretrained(folder, dtype=torch.float32).eval()

    def logits(self, inputs, t_BxL, rows: Layout):
        """Returns logits_BxLxV as a NumPy array."""
        given = {
            "segment_ids": rows.segments_BxL,
            "position_ids": rows.positions_BxL,
            "prompt_mask": rows.prompt_mask_BxL,
            "class_ids": rows.class_B,
            "timesteps": t_BxL,
            "block_ids": rows.blocks_BxL,
            "clean_mask": rows.clean_BxL,
        }
        if isinstance(inputs, Noisy):
            given |= {"inputs_embeds": inputs.z_BxLxE, "estimate": inputs.estimate_BxLxE}
        else:
            given["input_ids"] = inputs
        tensors = {name: _tensor(x) for name, x in given.items() if x is not None}
        return self.model(**tensors).logits.numpy()

    def texts(self, ours: Ours) -> bool:
        """Returns whether greedy texts are the same, under guidance, from the same noise."""
        traits = traits_of(ours.config)
        sampler, steps = "default", 1  # not random: left to right, or uniform in its only step
        if traits.inputs == "embeddings":
            sampler, steps = "ddim", 4
        elif not (traits.needs_time or traits.exact):
            sampler, steps = "confidence", 4
        common: dict[str, Any] = {
            "sampler": sampler, "steps": steps, "temperature": 0.0, "top_k": 0,
            "top_p": 1.0, "eta": 0.0,
        }  # fmt: skip
        sampling = dataclasses.replace(
            ours.config.sampling, **common, timestep_spacing="uniform", guidance=_GUIDANCE,
            clamp=False, cache=True,
        )  # fmt: skip
        canvas, first, expected = ours.sample(sampling, prompts(ours.config, ours.tokenizer))
        noise = None
        if traits.needs_time:  # it starts from noise, which is handed over
            embeddings = traits.inputs == "embeddings"
            noise = first.extra.z_BxLxE if embeddings else first.tokens_BxL
        inputs = np.where(canvas.holes_BxL, ours.tokenizer.mask_id, canvas.tokens_BxL)
        valid = canvas.layout.segments_BxL > 0
        longest = int(valid.sum(axis=1).max())  # ours is padded further
        found = self.model.generate(
            _tensor(inputs[:, :longest]), attention_mask=_tensor(valid[:, :longest]),
            noise=None if noise is None else _tensor(noise)[:, :longest], max_new_tokens=0,
            guidance_scale=_GUIDANCE, grid="uniform", **common,
        ).numpy()  # fmt: skip
        return bool((found == expected[:, :longest])[valid[:, :longest]].all())


class Stock:
    """A class of transformers, with the attention mask of our network.

    Args:
      model: the PyTorch model.
      name: the name of its class, for the report.
      config: our config of the same network.
    """

    def __init__(self, model, name: str, config: Config):
        self.model, self.name, self.config = model.eval(), name, config

    @classmethod
    def loaded(cls, folder: pathlib.Path, config: Config) -> "Stock":
        """Returns the class that a folder's config.json names, as a user would load it."""
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa"
        )
        return cls(model, type(model).__name__, config)

    @classmethod
    def in_place_of(cls, folder, config: Config, rename: Callable[[str], str]) -> "Stock":
        """Returns a class of transformers that computes the same, with the weights of the folder.

        The files of other programs cannot be used: they import parts of transformers that version 5
        no longer has.

        Args:
          folder: the model.
          config: our config of the same network.
          rename: our PyTorch name of a tensor -> the folder's.
        """
        described, reader = read_json(folder / "config.json"), WeightsReader(folder)
        symbols = reader.shapes[rename("model.embed_tokens.weight")][0]
        model = _stock_model(config, symbols)
        weights = _stock_weights(model, config, reader, rename)
        missing, _ = model.load_state_dict(weights, strict=False)
        tied = {"lm_head.weight"} if config.model.tie_embeddings else set()
        name = type(model).__name__
        if set(missing) - tied:
            raise ValueError(f"{name} needs {missing}, which {folder} does not have")
        architecture = (described.get("architectures") or ["its class"])[0]
        return cls(model, f"{name} in place of {architecture}", config)

    def logits(self, inputs, t_BxL, rows: Layout):
        """Returns logits_BxLxV as a NumPy array."""
        mask = np.asarray(attention_mask(rows, rows, traits_of(self.config).attention))
        found = self.model(
            _tensor(inputs), attention_mask=_tensor(mask), position_ids=_tensor(rows.positions_BxL)
        ).logits
        return (found.roll(1, dims=1) if self.config.objective.shift else found).numpy()

    def texts(self, ours: Ours) -> None:
        """Returns None: the class does not have our sampler."""


def _stock_model(config: Config, symbols: int) -> torch.nn.Module:
    """Returns a class of transformers that computes what a Transformer of ours does."""
    m = config.model
    common: dict[str, Any] = {
        "vocab_size": symbols,
        "hidden_size": m.width,
        "num_hidden_layers": m.num_layers,
        "num_attention_heads": m.num_heads,
        "num_key_value_heads": m.kv_heads,
        "head_dim": m.per_head,
        "intermediate_size": m.hidden,
        "rms_norm_eps": m.norm_epsilon,
        "tie_word_embeddings": m.tie_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": m.rope_theta},
        "attn_implementation": "sdpa",
    }
    if m.experts:
        common |= {
            "num_experts": m.experts,
            "num_experts_per_tok": m.experts_per_token,
            "moe_intermediate_size": m.expert_hidden,
            "norm_topk_prob": m.normalise_routing,
        }
        experts = transformers.Qwen3MoeConfig(**common, attention_bias=m.qkv_bias)
        return transformers.Qwen3MoeForCausalLM(experts)
    if m.qk_norm:
        dense = transformers.Qwen3Config(**common, attention_bias=m.qkv_bias)
        return transformers.Qwen3ForCausalLM(dense)
    if m.qkv_bias:
        return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**common))
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**common))


def _stock_weights(model, config: Config, reader: WeightsReader, rename) -> dict[str, torch.Tensor]:
    """Returns the state dict of a class of transformers, in float32, from a folder's tensors."""
    m = config.model

    def read(name):
        return torch.from_numpy(reader.read(rename(name)).astype(np.float32))

    weights = {name: read(name) for name in model.state_dict() if rename(name) in reader.shapes}
    for n in range(m.num_layers if m.experts else 0):  # transformers 5 stacks the experts
        at = f"model.layers.{n}.mlp.experts"
        gate, up, down = (
            torch.stack([read(f"{at}.{e}.{kind}_proj.weight") for e in range(m.experts)])
            for kind in ("gate", "up", "down")
        )
        weights |= {f"{at}.gate_up_proj": torch.cat([gate, up], 1), f"{at}.down_proj": down}
    return weights


def _tensor(x) -> torch.Tensor:
    x = np.array(x)
    return torch.from_numpy(x.astype(np.int64) if x.dtype == np.int32 else x)
