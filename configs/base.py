"""The single-device recipe: 98M parameters, batch 64 x 512, AdamW 2e-4, cosine, 200k steps.

Reproduces: the usual small setting of the masked-diffusion papers (MDLM, arXiv 2406.07524, trains
            110M parameters), on your own text.
Command:    python -m dlms_jax.main --config=configs/base.py --workdir=runs/base \\
                --config.data.corpus=PATH_TO_TEXT (above 512 MiB: a prepared dataset)
Hardware:   one accelerator with 16 GB: 10.3 GiB as compiled for TPU v5e (docs/scale.md); less with
            --config.training.accumulation_steps=4, which does not change the updates.
Hours:      estimate, not measured: 3.8e18 FLOPs, so 10 hours at 110 TFLOP/s (40% of a TPU v4).
Expected:   not measured here.

Budget: 200k steps x 64 rows x 512 tokens = 6.6B tokens. The default corpus is the source of the
standard library, so that the command runs anywhere; it is far too small for this budget.
"""

from dlms_jax.config import default_config


def get_config():
    c = default_config()
    c.name = "base"

    c.model.width = 768
    c.model.num_layers = 12
    c.model.num_heads = 12
    c.model.feed_forward = 2048

    c.tokenizer.name = "bpe"
    c.tokenizer.vocab_size = 8192
    c.data.corpus = "python-code"
    c.data.sequence_length = 512

    c.optimizer.name = "adamw"
    c.optimizer.peak_learning_rate = 2e-4
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_steps = 2000

    c.training.steps = 200_000
    c.training.batch_size = 64
    c.training.ema_decay = 0.9999
    c.checkpoint.every = 5000
    c.evaluation.every = 5000
    return c
