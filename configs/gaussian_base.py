"""The original recipe of the project: Gaussian diffusion on embeddings, a U-Net with FiLM.

Reproduces: the kind of model of Diffusion-LM (arXiv 2205.14217): learned embeddings with Gaussian
            noise, denoising score matching and a reconstruction term, a cosine schedule; with a
            U-Net instead of its Transformer, and classifier-free guidance (2207.12598).
Command:    python -m dlms_jax.main \\
                --config=configs/gaussian_base.py --workdir=runs/gaussian_base \\
                --config.data.corpus=PATH_TO_TEXT (above 512 MiB: a prepared dataset)
Hardware:   one accelerator with 40 GB, an estimate: 127M parameters, 2.0 GB of state; the logits of
            a step take 1.1 GB, and there are several copies of them.
Hours:      estimate, not measured: 2.4e18 FLOPs, so 6 hours at 110 TFLOP/s (40% of a TPU v4).
Expected:   not measured here.

Budget: 200k steps x 64 rows x 512 tokens = 6.6B tokens. The default corpus is the source of the
standard library, so that the command runs anywhere; it is far too small for this budget.

Half of the documents have a prompt. A tenth of the prompts are hidden, which guidance needs.
"""

import pathlib
import runpy

_parent = runpy.run_path(str(pathlib.Path(__file__).with_name("base.py")))


def get_config():
    c = _parent["get_config"]()
    c.name = "gaussian_base"

    c.objective.name = "gaussian"
    c.objective.schedule = "cosine"
    c.objective.prompt_drop = 0.1
    c.objective.random_context = 0.5  # plain text has no prompts of its own
    c.gaussian.embedding_size = 128
    c.gaussian.loss = "score_matching"
    c.gaussian.parameterisation = "noise"
    c.gaussian.self_conditioning = True

    c.model.name = "unet"
    c.model.conditioning = "film"
    c.model.conditioning_size = 256
    c.model.unet_levels = 4
    c.model.unet_blocks = 2
    c.model.unet_attention_levels = 2
    c.model.remat = "none"
    return c
