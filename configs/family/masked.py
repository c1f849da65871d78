"""The family, masked diffusion: the parent of the other recipes, which only change the process.

Reproduces: nothing published; one row of the table in docs/family.md.
Command:    python -m dlms_jax.main \\
                --config=configs/family/masked.py --workdir=runs/family-masked
            (the whole family: python -m dlms_jax.experiment family --minutes 35)
Hardware:   2 CPU cores, 1.5 GB of memory, no network.
Hours:      4 to 10 minutes of training (0.2 to 0.5 s per step, by the machine), and 1 to 2 minutes
            to compile and evaluate.
Expected:   docs/family.md.

Budget: 1200 steps x 64 rows x 64 tokens = 4.9M tokens, about 13 MB of text, 6 epochs of 2.2 MB.

The vocabulary has 1,024 symbols of 2.6 bytes each. Of the sizes that were tried (bytes, 512, 1,024;
docs/family.md), this one learns most in minutes.
"""

from dlms_jax.config import default_config


def get_config():
    c = default_config()
    c.name = "family-masked"

    c.model.width = 128
    c.model.num_layers = 4
    c.model.num_heads = 2
    c.model.feed_forward = 352
    c.model.conditioning_size = 64  # for processes that condition on the time
    c.model.dtype = "float32"
    c.model.scan_layers = False
    c.model.remat = "none"

    c.tokenizer.name = "bpe"
    c.tokenizer.vocab_size = 1024
    c.data.corpus = "python-prose"
    c.data.sequence_length = 64

    c.optimizer.name = "muon"
    c.optimizer.muon_learning_rate = 0.02
    c.optimizer.peak_learning_rate = 2e-3
    c.optimizer.warmup_steps = 50

    c.training.steps = 1200
    c.training.batch_size = 64
    c.training.log_every = 10
    c.training.head_chunk = 512

    c.evaluation.every = 100
    c.evaluation.rows = 128
    c.evaluation.samples = 8
    c.evaluation.batch_size = 64
    c.checkpoint.every = 100

    c.sampling.length = 63
    return c
