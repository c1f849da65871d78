"""Settings of the objective, and those of only Gaussian or block diffusion."""

import dataclasses
from typing import Literal

from dlms_jax.config.setting import ABOVE_0, AT_LEAST_0, AT_LEAST_1, BELOW_1, SHARE, setting

_BLOCK = ("block",)
_GAUSSIAN = ("gaussian",)
_MASKED = ("masked",)


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """The training objective: a diffusion process or the autoregressive baseline."""

    name: Literal["masked", "uniform", "gaussian", "block", "autoregressive"] = setting(
        "masked",
        "The process that the model learns: masked, uniform, Gaussian or block diffusion, or the "
        "autoregressive baseline.",
        shapes=_GAUSSIAN,
    )
    schedule: Literal["linear", "cosine", "polynomial", "sqrt", "learned", "warped", "gumbel"] = (
        setting(
            "linear",
            "How the noise grows with the time t from 0 to 1. Masked, uniform and block diffusion "
            "support linear, cosine and polynomial. Gaussian diffusion supports all but "
            "polynomial; learned, warped and gumbel are fitted during training.",
            shapes=_GAUSSIAN,
            computes=_GAUSSIAN,
        )
    )
    schedule_power: float = setting(
        2.0, "Power of objective.schedule=polynomial: alpha(t) = 1 - t^power.", ABOVE_0
    )
    mask_share: float = setting(
        0.0,
        "Uniform diffusion: share of the noise that is the mask token (GIDD). The rest is uniform "
        "over all other tokens of text.",
        BELOW_1,
    )
    prompt_drop: float = setting(
        0.1,
        "Probability that a training step hides the prompts and the class of a row, as guidance "
        "needs.",
        BELOW_1,
    )
    random_context: float = setting(
        0.0,
        "Probability that a training step uses a random part of a document as context and scores "
        "only the rest.",
        SHARE,
    )
    shift: bool = setting(
        False,
        "Masked diffusion: the output at a position predicts the token at the next position, as in "
        "an autoregressive model. For training.start_from.",
        computes=_MASKED,
    )
    anneal_steps: int = setting(
        0,
        "Steps in which attention changes from causal to the objective's own, at the start of "
        "training. 0: off. For training.start_from an autoregressive model.",
        AT_LEAST_0,
    )


@dataclasses.dataclass(frozen=True)
class GaussianConfig:
    """Gaussian diffusion on embeddings. gamma is the log of noise to signal, -log SNR."""

    embedding_size: int = setting(
        128,
        "Size of a token's embedding, to which noise is added.",
        AT_LEAST_1,
        shapes=_GAUSSIAN,
    )
    embedding_file: str = setting(
        "",
        "A .npy file with fixed embeddings of all tokens (tokens x gaussian.embedding_size). "
        "Empty: embeddings are learned.",
    )
    gamma_min: float = setting(
        -6.0, "gamma at t = 0; of a learned schedule, the initial value.", computes=_GAUSSIAN
    )
    gamma_max: float = setting(
        6.0, "gamma at t = 1; of a learned schedule, the initial value.", computes=_GAUSSIAN
    )
    head: Literal["logits", "embedding"] = setting(
        "logits",
        "What the network predicts: logits of tokens, or a vector in embedding space.",
        shapes=_GAUSSIAN,
        computes=_GAUSSIAN,
    )
    parameterisation: Literal["x0", "noise", "v", "score"] = setting(
        "x0",
        "The quantity that gaussian.head=embedding predicts, and of which "
        "gaussian.loss=score_matching measures the error.",
        computes=_GAUSSIAN,
    )
    loss: Literal["score_matching", "bound", "cross_entropy"] = setting(
        "cross_entropy",
        "Training loss: the squared error of the estimate, the likelihood bound, or -log p of the "
        "tokens.",
    )
    self_conditioning: bool = setting(
        True,
        "Whether the network also reads its own earlier estimate of the clean embeddings.",
        shapes=_GAUSSIAN,
    )


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """Block diffusion: autoregressive over blocks, masked diffusion inside."""

    size: int = setting(16, "Tokens in a block.", AT_LEAST_1, computes=_BLOCK)
    curriculum: dict[str, float] = setting(
        {},
        'Block sizes by training step: {"0": 4, "1000": 16} trains with blocks of 4 tokens, and of '
        "16 from step 1000 on. Empty: block.size throughout. Evaluation and sampling use "
        "block.size.",
        AT_LEAST_1,
    )
    context: Literal["bidirectional", "causal"] = setting(
        "bidirectional", "Attention among the tokens of a finished block.", computes=_BLOCK
    )
