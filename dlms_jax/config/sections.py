"""The settings: one frozen dataclass a section, with defaults."""

import dataclasses
from typing import Any, Literal

from dlms_jax.config.checks import check


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """What is learned: one of the diffusions, or the autoregressive baseline."""

    name: Literal["masked", "uniform", "gaussian", "block", "autoregressive"] = "masked"
    # masked, uniform, block: linear, cosine, polynomial; gaussian: all but polynomial.
    schedule: Literal["linear", "cosine", "polynomial", "sqrt", "learned", "warped", "gumbel"] = (
        "linear"
    )
    schedule_power: float = 2.0  # polynomial only: alpha(t) = 1 - t^power
    mask_share: float = 0.0  # uniform only: share of its noise that is the mask (GIDD)
    prompt_drop: float = 0.1  # probability that a row's prompts and class are hidden (guidance)
    random_context: float = 0.0  # probability that a random part of a document is given
    # For networks that begin with an autoregressive one's weights (training.start_from):
    shift: bool = False  # masked only: the output at a position predicts the next one's token
    anneal_steps: int = 0  # attention goes from causal to the objective's own in so many steps


@dataclasses.dataclass(frozen=True)
class GaussianConfig:
    """Gaussian diffusion on embeddings. gamma is the log of noise to signal, -log SNR."""

    embedding_size: int = 128
    embedding_file: str = ""  # a .npy of V x embedding_size: frozen; "": learned
    gamma_min: float = -6.0  # at t=0; learned end points start here
    gamma_max: float = 6.0  # at t=1
    head: Literal["logits", "embedding"] = "logits"  # what the network predicts
    # What head=embedding gives, and in what the error of loss=score_matching is measured.
    parameterisation: Literal["x0", "noise", "v", "score"] = "x0"
    loss: Literal["score_matching", "bound", "cross_entropy"] = "cross_entropy"
    self_conditioning: bool = True  # the network reads its own earlier estimate


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """Block diffusion: autoregressive over blocks, masked diffusion inside."""

    size: int = 16  # tokens
    curriculum: dict[str, float] = dataclasses.field(default_factory=dict)  # {from step: size}
    context: Literal["bidirectional", "causal"] = "bidirectional"  # inside finished blocks


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The denoiser. The Transformer is laid out and named as Qwen3."""

    name: Literal["transformer", "unet"] = "transformer"
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    num_kv_heads: int = 0  # 0: as many as num_heads; fewer: grouped-query attention
    head_size: int = 0  # 0: width / num_heads
    feed_forward: int = 0  # 0: 8/3 of the width, rounded up to a multiple of 64
    # Mixture of experts: each layer has so many networks in place of one; 0: it has one.
    experts: int = 0
    experts_per_token: int = 2  # of them, how many a token goes through (expert_choice: on average)
    expert_feed_forward: int = 0  # of each; 0: as feed_forward
    # Who chooses whom: tokens their best experts, or experts their best tokens of the whole row.
    routing: Literal["token_choice", "expert_choice"] = "token_choice"
    normalise_routing: bool = True  # token_choice: the weights of a token's experts sum to 1
    load_balance_weight: float = 0.01  # token_choice: of the loss that keeps experts equally busy
    z_loss_weight: float = 0.001  # of the loss that keeps the router's logits small
    qk_norm: bool = True
    qkv_bias: bool = False
    tie_embeddings: bool = False
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-6
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the computation; the state is float32
    # Of the layers' matrices, in the train step: of dtype, or quantised (docs/performance.md).
    matmuls: Literal["dtype", "int8", "fp8"] = "dtype"
    # auto: by the devices, splash (TPU), cudnn (GPU) or xla (CPU, and where no kernel fits).
    attention: Literal["auto", "xla", "splash", "cudnn"] = "auto"
    scan_layers: bool = True
    remat: Literal["none", "dots", "offload", "full"] = "dots"  # docs/scale.md says what is kept
    # How time and class reach the layers: film scales and shifts; adaln_zero gates too (DiT).
    conditioning: Literal["none", "film", "adaln_zero"] = "none"
    conditioning_size: int = 128
    classes: int = 0  # classes to condition on: the corpora of data.mixture, in order
    # Where prompts are read: in the same sequence, or by an encoder of so many layers.
    source: Literal["concatenation", "cross_attention"] = "concatenation"
    source_layers: int = 2
    unet_levels: int = 3  # resolutions; each is half as long as the one above
    unet_blocks: int = 2  # residual blocks of each level, on the way down and on the way up
    unet_attention_levels: int = 2  # of the levels, how many (the shortest) have attention

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def per_head(self) -> int:
        return self.head_size or self.width // self.num_heads

    @property
    def hidden(self) -> int:
        return self.feed_forward or -(-(8 * self.width // 3) // 64) * 64

    @property
    def expert_hidden(self) -> int:
        return self.expert_feed_forward or self.hidden


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes symbols. A prepared dataset brings its own; these settings must agree."""

    name: Literal["bytes", "bpe", "sentencepiece", "hf"] = "bytes"
    vocab_size: int = 8192  # bpe and sentencepiece, where trained; special tokens included
    path: str = ""  # a tokenizer.json, a folder that holds one, or a sentencepiece .model
    algorithm: Literal["unigram", "bpe"] = "unigram"  # sentencepiece, where trained
    pad_token: str = ""  # these four: "" for the file's own where it says which, else one is added
    bos_token: str = ""
    eos_token: str = ""
    mask_token: str = ""
    special_tokens: tuple[str, ...] = ()  # further ones: chat turns, tasks


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is read. Of a prepared dataset (a folder with dataset.json), sequence_length, packing,
    heldout_fraction and seed were decided when it was prepared, and must agree."""

    corpus: str = "python-prose"  # a named corpus, a file, a folder of files, a prepared dataset
    mixture: dict[str, float] = dataclasses.field(default_factory=dict)  # {corpus: weight} instead
    sequence_length: int = 512
    packing: Literal["concat", "best-fit"] = "concat"
    heldout_fraction: float = 0.05  # of the documents
    seed: int = 0  # of the documents' order, and of the synthetic language
    max_unique_tokens: int = 0  # train on the first so many tokens of that order; 0: on all
    repeat: int = 0  # refuse to see a corpus more often than this; 0: as often as steps ask for
    short_rows: float = 0.0  # probability that a row is cut to a random length (LLaDA: 0.01)
    synthetic_documents: int = 20_000  # of the corpus "synthetic"
    field: str = "text"  # of JSON lines, CSV and Parquet: what holds the text
    invalid: Literal["strict", "replace", "skip", "keep"] = "strict"  # bytes that are no UTF-8
    prefetch: int = 8  # batches prepared ahead of the step
    workers: int = 0  # processes that prepare them; 0: a thread of this one


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    name: Literal["adamw", "muon"] = "adamw"
    peak_learning_rate: float = 2e-4  # with muon: of what muon does not update (embeddings, norms)
    muon_learning_rate: float = 0.02
    schedule: Literal["cosine", "constant", "wsd"] = "cosine"
    warmup_steps: int = 1000
    decay_fraction: float = 0.2  # wsd only: the share of all steps in which the rate falls
    final_fraction: float = 0.1  # cosine and wsd: last rate as a share of the peak
    weight_decay: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8
    clip_norm: float = 1.0  # 0: no clipping
    # bfloat16 halves the moments, rounded by chance so that they are right on average.
    moments: Literal["float32", "bfloat16"] = "float32"


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    steps: int = 200_000
    batch_size: int = 64  # rows of all devices and accumulation steps together
    accumulation_steps: int = 1
    seed: int = 0
    # A run's workdir, or one of its checkpoints/STEP: the weights at step 0 (its moving average,
    # where it kept one) in place of random ones. The tokenizer is that run's, whatever the section
    # tokenizer says.
    start_from: str = ""
    ema_decay: float = 0.0  # 0: no moving average of the weights
    log_every: int = 50
    # A step whose loss or gradient is not finite is skipped, and so is one where either is above
    # spike_factor times its median over the last good ones; 0: no such limit.
    spike_factor: float = 0.0
    max_skipped_steps: int = 20  # in a row, before the run goes back to its last good checkpoint
    max_rollbacks: int = 3  # how often it may, leaving out the batches since then, before it stops
    # Print the stacks of all processes when no step has ended for so long (0: never), and go on; or
    # end with status 76, for a launcher to start the run again.
    hang_minutes: float = 30.0
    hang_exit: bool = False
    goodput_job: str = ""  # the name of this run in Google's goodput tools; "": not sent there
    deterministic: bool = False  # refuse a device that may give other bits when run again
    head: Literal["fused", "plain"] = "fused"  # fused: logits only where the loss looks
    head_chunk: int = 1024  # positions whose logits exist at one time, on each device


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; -1 is 'the rest'."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    expert: int = 1  # splits the experts of each layer, and rows too
    sequence: int = 1  # splits the places of each row, for rows longer than a device holds


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    every: int = 5000
    keep_latest: int = 2
    keep_best: int = 1
    local_directory: str = ""  # a disk or RAM disk of each machine, for saves between those
    local_every: int = 0


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    every: int = 2500
    rows: int = 256  # held-out rows at each evaluation in training; 0: all of them
    final_rows: int = 0  # the same at the end of training
    batch_size: int = 64
    samples: int = 8  # Monte-Carlo strata of the bound for each document
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Defaults of `sample`, and of the sample shown at each evaluation."""

    length: int = 128  # new tokens, or as many as the context has room for
    sampler: Literal[
        "default", "ancestral", "confidence", "margin", "entropy", "remdm_cap", "remdm_rescale",
        "remdm_confidence", "first_hitting", "ddim", "predictor_corrector", "euler", "heun",
        "dpm++",
    ] = "default"  # default: the objective's own ancestral process  # fmt: skip
    steps: int = 64  # of the reverse process; of block diffusion, for each block
    grid: Literal["uniform", "cosine", "quantile"] = "uniform"  # where in time the steps lie
    temperature: float = 0.8
    top_k: int = 0  # keep the likeliest so many symbols; 0: all
    top_p: float = 1.0  # keep the likeliest symbols that hold so much probability
    guidance: float = 0.0
    eta: float = 0.0  # how much ddim adds of noise, or remdm masks again: 0 (least) .. 1
    corrector_steps: int = 1  # predictor_corrector: after each step
    rounding: bool = False  # gaussian: every estimate is moved to the nearest embedding
    cache: bool = True  # block, autoregressive: keep the keys and values of what is finished
    prompt: str = ""


@dataclasses.dataclass(frozen=True)
class Config:
    name: str = "base"
    objective: ObjectiveConfig = ObjectiveConfig()
    gaussian: GaussianConfig = GaussianConfig()
    block: BlockConfig = BlockConfig()
    model: ModelConfig = ModelConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    sampling: SamplingConfig = SamplingConfig()

    def __post_init__(self):
        check(self)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
