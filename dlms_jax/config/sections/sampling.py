"""Settings of evaluation and sampling."""

import dataclasses
from typing import Literal

from dlms_jax.config.setting import AT_LEAST_0, AT_LEAST_1, SEED, SHARE, Range, setting


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The bound on held-out text, during training and by `evaluate`."""

    every: int = setting(2500, "Training steps between evaluations.", AT_LEAST_1, changeable=True)
    rows: int = setting(
        256,
        "Held-out rows of an evaluation during training, the first ones. 0: all.",
        AT_LEAST_0,
        changeable=True,
    )
    final_rows: int = setting(
        0,
        "Held-out rows of the evaluation after the last step. 0: all.",
        AT_LEAST_0,
        changeable=True,
    )
    batch_size: int = setting(
        64,
        "Rows that are evaluated at a time, on all devices together.",
        AT_LEAST_1,
        changeable=True,
    )
    samples: int = setting(
        8,
        "Monte-Carlo strata of the bound per document. More strata reduce the error.",
        Range(1, 2**20),
        changeable=True,
    )
    seed: int = setting(0, "Seed of the Monte-Carlo draw.", SEED, changeable=True)


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Defaults of `sample`, and of the sample that training prints at each evaluation."""

    length: int = setting(
        128,
        "New tokens after the prompt, up to data.sequence_length in all.",
        AT_LEAST_1,
        changeable=True,
    )
    sampler: Literal[
        "default",
        "ancestral",
        "confidence",
        "margin",
        "entropy",
        "remdm_cap",
        "remdm_rescale",
        "remdm_confidence",
        "first_hitting",
        "ddim",
        "predictor_corrector",
        "euler",
        "heun",
        "dpm++",
    ] = setting(
        "default",
        "The sampler (docs/sampling.md). default: the objective's own reverse process.",
        changeable=True,
    )
    steps: int = setting(
        64,
        "Steps of the reverse process; with block diffusion, of each block. More steps are slower "
        "and better.",
        AT_LEAST_1,
        changeable=True,
    )
    timestep_spacing: Literal["uniform", "cosine", "quantile"] = setting(
        "uniform",
        "Spacing of the steps in time. uniform: equal. cosine: smaller steps near t = 1. quantile: "
        "each step removes the same share of the noise.",
        changeable=True,
    )
    temperature: float = setting(
        0.8,
        "Divides the logits. 1: the model's own distribution; 0: the most probable token.",
        AT_LEAST_0,
        changeable=True,
    )
    top_k: int = setting(
        0, "Keeps the k most probable tokens. 0: off.", AT_LEAST_0, changeable=True
    )
    top_p: float = setting(
        1.0,
        "Keeps the smallest set of most probable tokens whose probabilities sum to p. 1: off.",
        Range(0, 1, low_open=True),
        changeable=True,
    )
    guidance: float = setting(
        0.0,
        "Weight w of classifier-free guidance: (1 + w) log p(text given the prompt) - "
        "w log p(text). 0: off.",
        AT_LEAST_0,
        changeable=True,
    )
    eta: float = setting(
        0.0,
        "Amount of noise that ddim adds, or of tokens that remdm_* masks again, from 0 (least) to "
        "1 (most).",
        SHARE,
        changeable=True,
    )
    corrector_steps: int = setting(
        1, "Corrections after each step of predictor_corrector.", AT_LEAST_1, changeable=True
    )
    clamp: bool = setting(
        False, "Gaussian diffusion: moves every estimate to the nearest embedding.", changeable=True
    )
    cache: bool = setting(
        True,
        "Block diffusion and autoregressive models: caches the keys and values of finished tokens. "
        "Without the cache, sampling is slower and the text is the same.",
        changeable=True,
    )
    prompt: str = setting("", "Prompt of the sample that training prints.", changeable=True)
