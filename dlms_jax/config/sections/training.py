"""Settings of the optimizer, the training loop, the mesh and checkpoints."""

import dataclasses
from typing import Literal

from dlms_jax.config.setting import (
    AT_LEAST_0,
    AT_LEAST_1,
    BELOW_1,
    SEED,
    SHARE,
    Range,
    setting,
)

_AXIS = Range(1, also=-1)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its learning rate."""

    name: Literal["adamw", "muon"] = setting(
        "adamw",
        "The optimizer. muon updates the layers' matrices with Muon, all other weights with AdamW.",
    )
    peak_learning_rate: float = setting(
        2e-4, "Learning rate of AdamW after the warm-up.", AT_LEAST_0
    )
    muon_learning_rate: float = setting(
        0.02, "Learning rate of Muon after the warm-up.", AT_LEAST_0
    )
    schedule: Literal["cosine", "constant", "wsd"] = setting(
        "cosine",
        "The learning rate after the warm-up. cosine: half a cosine. constant. wsd: constant, then "
        "a linear decay (warm-up, stable, decay).",
    )
    warmup_steps: int = setting(
        1000, "Steps in which the learning rate rises to its peak.", AT_LEAST_0
    )
    decay_fraction: float = setting(
        0.2, "Share of all steps in which the learning rate of wsd decays.", SHARE
    )
    final_fraction: float = setting(
        0.1, "Learning rate at the last step of cosine and wsd, as a share of the peak.", SHARE
    )
    weight_decay: float = setting(
        0.1, "Weight decay of matrices; multiplied by the learning rate.", AT_LEAST_0
    )
    b1: float = setting(0.9, "Decay rate of AdamW's mean of gradients.", BELOW_1)
    b2: float = setting(0.95, "Decay rate of AdamW's mean of squared gradients.", BELOW_1)
    epsilon: float = setting(
        1e-8, "Number that AdamW adds to the root of the mean square.", AT_LEAST_0
    )
    clip_norm: float = setting(
        1.0,
        "Largest norm of the gradient; a longer gradient is scaled down. 0: off.",
        AT_LEAST_0,
    )
    moments: Literal["float32", "bfloat16"] = setting(
        "float32",
        "Type of the optimizer's moments. bfloat16 takes half the memory; its stochastic rounding "
        "is unbiased.",
    )


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The training loop."""

    steps: int = setting(200_000, "Training steps in all.", AT_LEAST_1, changeable=True)
    batch_size: int = setting(
        64, "Rows of a step, over all devices and accumulation steps together.", AT_LEAST_1
    )
    accumulation_steps: int = setting(
        1,
        "Parts into which a batch is split; their gradients are computed in turn, to save memory.",
        AT_LEAST_1,
        changeable=True,
    )
    seed: int = setting(
        0, "Seed of the initial weights, of the order of rows and of the corruption.", SEED
    )
    start_from: str = setting(
        "",
        "A run's workdir, or one of its checkpoints/STEP. Training starts with its weights (the "
        "moving average if it has one) and its tokenizer. Empty: random weights.",
    )
    ema_decay: float = setting(
        0.0, "Decay rate, per step, of the moving average of the weights. 0: no average.", BELOW_1
    )
    log_every: int = setting(50, "Steps between rows of metrics.csv.", AT_LEAST_1, changeable=True)
    spike_factor: float = setting(
        0.0,
        "A step is skipped if its loss or gradient norm exceeds this factor times the median of "
        "the last 64 good steps. 0: only if it is not finite.",
        Range(1, low_open=True, also=0),
        changeable=True,
    )
    max_skipped_steps: int = setting(
        20,
        "Consecutive skipped steps after which the run goes back to its last checkpoint.",
        AT_LEAST_1,
        changeable=True,
    )
    max_rollbacks: int = setting(
        3, "Rollbacks to a checkpoint before the run stops.", AT_LEAST_0, changeable=True
    )
    watchdog_minutes: float = setting(
        30.0,
        "Minutes without a finished step after which the stacks of all processes are printed. "
        "0: never.",
        AT_LEAST_0,
        changeable=True,
    )
    watchdog_exit: bool = setting(
        False,
        "Whether a run without a finished step for training.watchdog_minutes exits with status 76, "
        "so that a launcher restarts it.",
        changeable=True,
    )
    goodput_job: str = setting(
        "",
        "Name of this run in Google's goodput tools: letters, digits, '_', '.' and '-'. "
        "Empty: nothing is sent.",
        changeable=True,
    )
    deterministic: bool = setting(
        False,
        "Refuse devices on which a repeated run may not be bit-identical.",
        changeable=True,
    )
    loss_implementation: Literal["fused", "plain"] = setting(
        "fused",
        "How the loss is computed. fused: logits of only the scored positions, chunk by chunk. "
        "plain: all logits at once.",
        changeable=True,
    )
    loss_chunk_size: int = setting(
        1024,
        "Positions per chunk of training.loss_implementation=fused, on each device.",
        AT_LEAST_1,
        changeable=True,
    )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh. One axis may be -1, which takes all other devices."""

    data: int = setting(
        -1, "Replicas of the weights, which share the rows of a batch.", _AXIS, changeable=True
    )
    fsdp: int = setting(
        1,
        "Devices that share the rows of a batch and shard weights and optimizer state.",
        _AXIS,
        changeable=True,
    )
    tensor: int = setting(1, "Devices that shard each layer's matrices.", _AXIS, changeable=True)
    expert: int = setting(
        1,
        "Devices that share the rows of a batch and shard the experts of each layer.",
        _AXIS,
        changeable=True,
    )
    sequence: int = setting(1, "Devices that split the positions of a row.", _AXIS, changeable=True)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When a run saves its state, and which checkpoints it keeps."""

    every: int = setting(5000, "Steps between checkpoints.", AT_LEAST_1, changeable=True)
    keep_latest: int = setting(
        2, "Number of latest checkpoints to keep.", AT_LEAST_1, changeable=True
    )
    keep_best: int = setting(
        1,
        "Number of checkpoints with the best held-out bound to keep as well.",
        AT_LEAST_0,
        changeable=True,
    )
    verify: bool = setting(
        True,
        "Whether the arrays of a checkpoint are compared with their digests when they are loaded. "
        "It takes about 2 seconds for each GiB that a process holds.",
        changeable=True,
    )
    local_directory: str = setting(
        "",
        "A folder on a local disk or RAM disk of each machine, for saves between checkpoints. "
        "Empty: none.",
        changeable=True,
    )
    local_every: int = setting(
        0,
        "Steps between saves to checkpoint.local_directory. 0: none.",
        AT_LEAST_0,
        changeable=True,
    )
