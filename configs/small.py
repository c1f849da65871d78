"""A 14M-parameter model of the standard library's source: minutes on an accelerator.

Reproduces: nothing published; the size for the benchmarks and studies of this repository.
Command:    python -m dlms_jax.main --config=configs/small.py --workdir=runs/small
Hardware:   any one GPU or TPU core; 0.22 GB of state, about 2 GB with activations.
Hours:      estimate, not measured: 1.2e16 FLOPs, so about 10 minutes at 20 TFLOP/s, or 40 hours on
            two CPU cores at 90 GFLOP/s.
Expected:   not measured here.

Budget: 20k steps x 32 rows x 256 tokens = 164M tokens, many epochs of 12 MB of source.
"""

from dlms_jax.config import default_config


def get_config():
    c = default_config()
    c.name = "small"

    c.model.width = 384
    c.model.num_layers = 6
    c.model.num_heads = 6

    c.tokenizer.name = "bpe"
    c.tokenizer.vocab_size = 4096
    c.data.corpus = "python-code"
    c.data.sequence_length = 256

    c.optimizer.name = "muon"
    c.optimizer.peak_learning_rate = 1e-3
    c.optimizer.warmup_steps = 500

    c.training.steps = 20_000
    c.training.batch_size = 32
    c.training.head_chunk = 512
    c.checkpoint.every = 1000
    c.evaluation.every = 1000
    return c
