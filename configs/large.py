"""1.7B parameters: the model of "Diffusion Language Models are Super Data Learners" (2511.03276).

Reproduces: the architecture and batch of that paper: 28 layers, width 2048, 16 heads, feed-forward
            6144, SwiGLU, RMSNorm, RoPE, QK norm, untied, sequence 2048, global batch 256.
Command:    python -m dlms_jax.prepare dataset PATH_TO_TEXT --out data/large \\
                --sequence-length 2048 --tokenizer bpe --vocab-size 50304
            python -m dlms_jax.main --config=configs/large.py --workdir=runs/large \\
                --config.data.corpus=data/large
Hardware:   compiled for these slices, and fits (docs/scale.md), with --config.mesh.data=4: 16 chips
            of TPU v6e; 16 of v5e with --config.training.accumulation_steps=4; 64 of v5p. 21 GB of
            state, split over fsdp.
Hours:      estimate, not measured: 1.1e21 FLOPs; 1,700 chip-hours of TPU v5p, 1,200 of v6e, 4,100
            of v5e (docs/scale.md).
Expected:   not measured here.

Budget: 200k steps x 256 rows x 2048 tokens = 105B tokens: 100 epochs of 1B unique tokens. Text
above 512 MiB has to be prepared first, as in the command; its shards are then read from disk.
"""

from dlms_jax.config import default_config


def get_config():
    c = default_config()
    c.name = "large"

    c.model.width = 2048
    c.model.num_layers = 28
    c.model.num_heads = 16
    c.model.feed_forward = 6144
    c.model.remat = "full"

    c.tokenizer.name = "bpe"
    c.tokenizer.vocab_size = 50_304
    c.data.corpus = "python-code"
    c.data.sequence_length = 2048

    c.optimizer.peak_learning_rate = 2e-4
    c.optimizer.schedule = "wsd"
    c.optimizer.warmup_steps = 1000

    c.training.steps = 200_000
    c.training.batch_size = 256
    c.mesh.data = 1
    c.mesh.fsdp = -1
    c.checkpoint.every = 1000
    c.evaluation.every = 2000
    return c
