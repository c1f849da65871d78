"""About 400M parameters, for one host of accelerators.

Reproduces: nothing published; the middle size for studies of data repetition.
Command:    python -m dlms_jax.main --config=configs/medium.py --workdir=runs/medium \\
                --config.data.corpus=PATH_TO_TEXT (above 512 MiB: a prepared dataset)
Hardware:   8 accelerators with 16 GB; on TPU v5e with --config.mesh.data=2, 13.2 GiB per chip as
            compiled (docs/scale.md). 6.4 GB of state, split over fsdp.
Hours:      estimate, not measured: 3.3e19 FLOPs, so about 11 hours at 8 x 110 TFLOP/s.
Expected:   not measured here.

Budget: 100k steps x 128 rows x 1024 tokens = 13B tokens.
"""

from dlms_jax.config import default_config


def get_config():
    c = default_config()
    c.name = "medium"

    c.model.width = 1024
    c.model.num_layers = 24
    c.model.num_heads = 16
    c.model.feed_forward = 3584

    c.tokenizer.name = "bpe"
    c.tokenizer.vocab_size = 16_384
    c.data.corpus = "python-code"
    c.data.sequence_length = 1024

    c.optimizer.peak_learning_rate = 3e-4
    c.optimizer.schedule = "wsd"
    c.optimizer.warmup_steps = 2000

    c.training.steps = 100_000
    c.training.batch_size = 128
    c.mesh.data = 1
    c.mesh.fsdp = -1
    c.checkpoint.every = 2500
    c.evaluation.every = 2500
    return c
