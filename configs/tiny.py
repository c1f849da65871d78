"""Some minutes on two CPU cores: a byte-level masked diffusion model of English prose about Python.

Reproduces: nothing published; it shows that all parts work, on text that every Python has.
Command:    python -m dlms_jax.main --config=configs/tiny.py --workdir=runs/tiny
            (its AR twin: --workdir=runs/tiny-ar --config.objective.name=autoregressive)
Hardware:   2 CPU cores, 1.2 GB of memory, no network.
Hours:      3.5 to 10 minutes measured (docs/performance.md).
Expected:   held-out bound 2.97 +- 0.02 bits/byte (CPython 3.11; the unigram entropy is 4.64).

Budget: 700 steps x 16 rows x 256 bytes = 2.9M bytes, 1.3 epochs of 2.2 MB.

At first, a bidirectional masked model stays at the unigram entropy, until it learns to look at its
neighbours. With Muon on the layers' matrices it leaves that plateau within 100 steps
(docs/performance.md, "The plateau", compares AdamW).
"""

from dlms_jax.config import default_config


def get_config():
    c = default_config()
    c.name = "tiny"

    c.model.width = 128
    c.model.num_layers = 4
    c.model.num_heads = 2
    c.model.feed_forward = 352
    c.model.dtype = "float32"  # bfloat16 is no faster on CPUs
    c.model.scan_layers = False  # four layers compile fast, and run faster unrolled
    c.model.remat = "none"  # the activations are small enough to keep

    c.data.corpus = "python-prose"
    c.data.sequence_length = 256

    c.optimizer.name = "muon"
    c.optimizer.muon_learning_rate = 0.02
    c.optimizer.peak_learning_rate = 2e-3
    c.optimizer.warmup_steps = 50

    c.training.steps = 700
    c.training.batch_size = 16
    c.training.log_every = 10

    c.evaluation.every = 100
    c.evaluation.rows = 64
    c.evaluation.samples = 4
    c.evaluation.batch_size = 16
    c.checkpoint.every = 100

    c.sampling.prompt = "The "
    return c
