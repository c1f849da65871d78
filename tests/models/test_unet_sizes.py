"""The U-Net's sizes: formulas against the tree and the compiler, shapes at full size."""

import jax
import jax.numpy as jnp
import pytest
from unet_reference import ROWS, abstract_params, jitted, layout_of, whole_config

from dlms_jax.diffusion import Layout
from dlms_jax.models import UNet, count_parameters, head_kernel_DxV, train_flops


@pytest.mark.parametrize(
    "settings",
    [
        {"model__conditioning": "none"},
        {"model__conditioning": "adaln_zero",
         "model__unet_levels": 1, "model__unet_attention_levels": 1, "model__qkv_bias": True},
        {"model__unet_levels": 4, "model__unet_blocks": 1, "model__qk_norm": False,
         "model__classes": 2, "data__mixture": {"python-docs": 0.5, "synthetic": 0.5}},
        {"model__unet_attention_levels": 0, "model__unet_levels": 2, "model__tie_embeddings": True},
        {"model__unet_attention_levels": 2, "model__unet_levels": 2, "model__head_size": 6},
        {"objective__name": "gaussian", "model__unet_levels": 2, "gaussian__embedding_size": 24},
        {"objective__name": "gaussian", "gaussian__head": "embedding",
         "gaussian__embedding_size": 24, "gaussian__self_conditioning": False},
    ],
)  # fmt: skip
def test_parameter_formula_counts_what_is_there(settings):
    config = whole_config(**settings)
    gaussian = config.gaussian if config.objective.name == "gaussian" else None
    schedule_size = 5 if gaussian else 0
    model = UNet(config.model, ROWS, gaussian=gaussian, schedule_size=schedule_size)
    params = abstract_params(model, gaussian)
    count = sum(x.size for x in jax.tree.leaves(params))
    assert count_parameters(config, ROWS, schedule_size) == count
    outputs = 128 if gaussian is None or gaussian.head == "logits" else gaussian.embedding_size
    assert jax.eval_shape(head_kernel_DxV, params).shape == (32, outputs)


@pytest.mark.parametrize("levels", [1, 3])
def test_flops_formula_agrees_with_the_compiler(levels):
    config = whole_config(
        objective__name="uniform", model__width=64, model__unet_levels=levels, model__unet_blocks=1,
        model__conditioning_size=32, model__unet_attention_levels=min(levels, 2),
    )  # fmt: skip
    length = 32
    tokens = jnp.zeros((1, length), jnp.int32)
    model = UNet(config.model, ROWS)
    forward = jitted(model).lower(abstract_params(model), tokens, tokens, layout_of(tokens + 1))
    counted = forward.compile().cost_analysis()["flops"]
    formula = length * train_flops(config, ROWS, length) / 3
    # The compiler adds norms, softmax, rotations, and what adds up the cells.
    assert formula < counted < 1.15 * formula


@pytest.mark.parametrize(
    ("width", "length", "blocks"), [(768, 512, 2), (1024, 511, 1), (2048, 509, 1)]
)
def test_full_sizes(width, length, blocks):
    config = whole_config(
        model__width=width, model__num_heads=width // 64, model__num_kv_heads=0,
        model__dtype="bfloat16", model__remat="full", model__unet_blocks=blocks,
    )  # fmt: skip
    model, rows = UNet(config.model, 32_000), 32_000
    params = abstract_params(model)
    assert sum(x.size for x in jax.tree.leaves(params)) == count_parameters(config, rows)
    tokens = jax.ShapeDtypeStruct((2, length), jnp.int32)
    t = jax.ShapeDtypeStruct((2, length), jnp.float32)
    layout = Layout(tokens, tokens, None, jax.ShapeDtypeStruct((2,), jnp.int32))
    logits = jax.eval_shape(jitted(model), params, tokens, t, layout)
    assert (logits.shape, logits.dtype) == ((2, length, rows), jnp.float32)
