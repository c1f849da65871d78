"""8.2B parameters, the sizes of Qwen3-8B: an autoregressive model adapted to diffusion, on a slice.

Reproduces: the sizes of Qwen3-8B (36 layers, width 4096, 32 heads of 128 on 8 key/value heads,
            feed-forward 12288, 151,936 symbols, untied), the size of LLaDA-8B (arXiv 2502.09992),
            adapted as DiffuLLaMA (arXiv 2410.17891) and Dream were: outputs stay shifted, and
            attention goes from causal to full in the first 5,000 steps.
Command:    python -m dlms_jax.main --config=configs/xl_8b.py --workdir=runs/xl_8b \\
                --config.training.start_from=runs/qwen3-8b --config.data.corpus=PREPARED_DATASET
            (first: python -m dlms_jax.convert from-torch --model Qwen3-8B --out runs/qwen3-8b;
            without start_from it trains from scratch, for which 52B tokens are few)
Hardware:   compiled for these slices, and fits (docs/scale.md): 64 chips of TPU v5p with
            --config.mesh.fsdp=32 --config.mesh.data=2; 256 of v6e or v5e with fsdp=32, data=8.
            98 GB of state.
Hours:      estimate, not measured: 3,400 chip-hours of TPU v5p, 8,900 of v5e (docs/scale.md).
Expected:   not measured here.

Budget: 50k steps x 256 rows x 4096 tokens = 52B tokens (DiffuLLaMA's 7B was given 65B).
"""

import pathlib
import runpy

_parent = runpy.run_path(str(pathlib.Path(__file__).with_name("large.py")))


def get_config():
    c = _parent["get_config"]()
    c.name = "xl_8b"

    c.objective.shift = True
    c.objective.anneal_steps = 5000

    c.model.width = 4096
    c.model.num_layers = 36
    c.model.num_heads = 32
    c.model.num_kv_heads = 8
    c.model.head_size = 128
    c.model.feed_forward = 12288
    c.model.rope_theta = 1_000_000.0

    c.tokenizer.vocab_size = 151_936  # with start_from, the tokenizer is Qwen3's own
    c.data.sequence_length = 4096

    c.optimizer.peak_learning_rate = 5e-5
    c.optimizer.warmup_steps = 2000

    c.training.steps = 50_000
    return c
