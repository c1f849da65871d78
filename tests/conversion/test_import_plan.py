"""Imports of models of other programs give equal logits.

The models are random, of the classes of transformers if it has them, else with the true names and
shapes of the tensors.
"""

import json

from conversion.exported import random_checkpoint
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import torch
import transformers

from dlms_jax.conversion import import_plan
from dlms_jax.conversion.export import export
from dlms_jax.conversion.export_source import open_export_source
from dlms_jax.conversion.importing import import_model
from dlms_jax.conversion.tokenizer_files import write_tokenizer
from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.errors import UserError
from dlms_jax.model import DiffusionLM
from dlms_jax.trainer import Trainer

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 40,
    "rope_parameters": {"rope_type": "default", "rope_theta": 700.0},
    "rms_norm_eps": 1e-4,
}


EXPERTS = {
    "num_experts": 5,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 20,
    "norm_topk_prob": True,
}


def saved(folder, name="Qwen3", tokenizer=None, dtype=torch.float32, **settings):
    """Returns a folder in which transformers saved a random model of its own class."""
    config = getattr(transformers, f"{name}Config")(**SIZES | settings)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    if hasattr(model.model.layers[0].self_attn.o_proj, "bias"):
        for layer in model.model.layers:
            if layer.self_attn.o_proj.bias is not None:
                torch.nn.init.zeros_(layer.self_attn.o_proj.bias)
    model.to(dtype).save_pretrained(folder)
    write_tokenizer(tokenizer or ByteTokenizer(), folder, 40)
    return folder


def change(folder, **settings):
    """Changes the config.json of a folder; None removes a key."""
    path = folder / "config.json"
    described = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({k: v for k, v in described.items() if v is not None}))
    return folder


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Qwen3", {"head_dim": 12, "tie_word_embeddings": True}),
        ("Qwen3", {"head_dim": 8, "attention_bias": True}),
        ("Qwen2", {}),
        ("Llama", {"num_key_value_heads": 4}),
        ("Qwen3Moe", {"head_dim": 8} | EXPERTS),
    ],
)
def test_autoregressive_models_of_transformers(name, settings, tmp_path):
    folder = saved(tmp_path / "model", name, **settings)
    report = import_model(folder, tmp_path / "run", verify=True)
    assert report["class"] == f"{name}ForCausalLM"
    assert max(report["logits"].values()) < 1e-5
    config = open_export_source(tmp_path / "run").config
    assert config.objective.name == "autoregressive" and config.data.sequence_length == 40
    assert config.model.qkv_bias == (name == "Qwen2" or "attention_bias" in settings)


def test_the_config_of_transformers_4_is_read(tmp_path):
    """It has rope_theta and torch_dtype instead of rope_parameters and dtype."""
    folder = saved(tmp_path / "model", head_dim=8)
    change(folder, rope_parameters=None, rope_theta=700.0, dtype=None, torch_dtype="float32")
    report = import_model(folder, tmp_path / "run", verify=True)
    assert max(report["logits"].values()) < 1e-5
    assert open_export_source(tmp_path / "run").config.model.rope_theta == 700.0


def llada(folder):
    """Returns a folder with the tensors of a Llama under LLaDA's names."""
    saved(folder, "Llama")
    tensors = load_file(folder / "model.safetensors")
    parts = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ff_norm",
        "self_attn.q_proj": "q_proj",
        "self_attn.k_proj": "k_proj",
        "self_attn.v_proj": "v_proj",
        "self_attn.o_proj": "attn_out",
        "mlp.gate_proj": "ff_proj",
        "mlp.up_proj": "up_proj",
        "mlp.down_proj": "ff_out",
    }
    named = {
        "model.transformer.wte.weight": tensors["model.embed_tokens.weight"],
        "model.transformer.ln_f.weight": tensors["model.norm.weight"],
        "model.transformer.ff_out.weight": tensors["lm_head.weight"],
    }
    for n in range(2):
        for theirs, llada in parts.items():
            name = f"model.transformer.blocks.{n}.{llada}.weight"
            named[name] = tensors[f"model.layers.{n}.{theirs}.weight"]
    save_file(named, folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llada",
                "architectures": ["LLaDAModelLM"],
                "d_model": 32,
                "n_heads": 4,
                "n_kv_heads": 2,
                "n_layers": 2,
                "mlp_hidden_size": 48,
                "activation_type": "silu",
                "block_type": "llama",
                "rope": True,
                "rope_theta": 700.0,
                "layer_norm_type": "rms",
                "rms_norm_eps": 1e-4,
                "weight_tying": False,
                "max_sequence_length": 40,
                "vocab_size": 300,
                "embedding_size": 300,
                "mask_token_id": 259,
                "include_bias": False,
            }
        )
    )
    return folder


DIFFUSIONS = {
    "llada": (llada, "masked", "LlamaForCausalLM in place of LLaDAModelLM"),
    "Dream": (
        lambda f: change(
            saved(f, "Qwen2"), model_type="Dream", architectures=["DreamModel"], mask_token_id=259
        ),
        "masked",
        "Qwen2ForCausalLM in place of DreamModel",
    ),
    "sdar": (
        lambda f: change(
            saved(f, head_dim=8),
            model_type="sdar",
            block_size=4,
            mask_token_id=259,
            architectures=["SDARForCausalLM"],
        ),
        "block",
        "Qwen3ForCausalLM in place of SDARForCausalLM",
    ),
    "sdar_moe": (
        lambda f: change(
            saved(f, "Qwen3Moe", head_dim=8, **EXPERTS),
            model_type="sdar_moe",
            block_size=4,
            mask_token_id=259,
            architectures=["SDARMoeForCausalLM"],
        ),
        "block",
        "Qwen3MoeForCausalLM in place of SDARMoeForCausalLM",
    ),
    "a2d-qwen3": (
        lambda f: change(
            saved(f, head_dim=8), model_type="a2d-qwen3", architectures=["A2DQwen3LMHeadModel"]
        ),
        "masked",
        "Qwen3ForCausalLM in place of A2DQwen3LMHeadModel",
    ),
    "DiffLM": (
        lambda f: change(
            saved(f, head_dim=8), model_type=None, architectures=["DiffLM"], mask_token_id=259
        ),
        "masked",
        "Qwen3ForCausalLM in place of DiffLM",
    ),
}


@pytest.mark.parametrize("kind", list(DIFFUSIONS))
def test_diffusion_models_of_other_programs(kind, tmp_path):
    make, objective, name = DIFFUSIONS[kind]
    report = import_model(make(tmp_path / "model"), tmp_path / "run", verify=True)
    assert report["class"] == name and max(report["logits"].values()) < 1e-5
    config = open_export_source(tmp_path / "run").config
    assert config.objective.name == objective
    assert config.objective.shift == (kind == "Dream")
    assert open_export_source(tmp_path / "run").tokenizer.mask_id == 259


def test_new_symbols_start_as_the_mean(tmp_path):
    """The tokenizer has no mask and no BOS, and the model has no spare rows."""
    tokenizer = ByteTokenizer(special_tokens=["<|a|>", "<|b|>"])
    folder = saved(tmp_path / "model", tokenizer=tokenizer, vocab_size=262, head_dim=8)
    serialized = json.loads((folder / "tokenizer_config.json").read_text())
    for role in ("mask_token", "bos_token"):
        serialized.pop(role)
    (folder / "tokenizer_config.json").write_text(json.dumps(serialized))
    roles = {"mask": "<|mask2|>", "bos": "<|a|>"}
    import_model(folder, tmp_path / "run", roles=roles, verify=True)
    source = open_export_source(tmp_path / "run")
    assert source.tokenizer.mask_id == 262
    assert source.tokenizer.bos_id == tokenizer.special_ids["<|a|>"]
    rows = source.arrays.read("embed/embedding")
    stored = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    np.testing.assert_array_equal(rows[:262], stored)
    np.testing.assert_allclose(rows[262], stored.mean(axis=0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_two_byte_floats_are_widened_exactly(dtype, tmp_path):
    folder = saved(tmp_path / "model", dtype=dtype, head_dim=8)
    import_model(folder, tmp_path / "run", verify=True)
    found = open_export_source(tmp_path / "run").arrays.read("final_norm/scale")
    stored = load_file(folder / "model.safetensors")["model.norm.weight"]
    assert found.dtype == np.float32 and (found == stored.astype(np.float32)).all()


def test_each_device_reads_its_own_part(tmp_path):
    """There are eight devices, and the parts of a parameter together are the tensor of the file."""
    folder = saved(tmp_path / "model", head_dim=8)
    import_model(folder, tmp_path / "run", verify=False)
    kernel = open_export_source(tmp_path / "run").arrays.read("layers/mlp/gate_proj/kernel")
    stored = load_file(folder / "model.safetensors")
    for n in range(2):
        expected = stored[f"model.layers.{n}.mlp.gate_proj.weight"].T
        np.testing.assert_array_equal(kernel[n], expected)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, "rope of type 'llama3'"),
        ({"use_sliding_window": True, "sliding_window": 8}, "sliding-window"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"model_type": "gpt2"}, "model_type 'gpt2' cannot be imported"),
        ({"model_type": "mdlm"}, "LayerNorm"),
        ({"model_type": "diffusion_gemma"}, "our network has none of its layers"),
        ({"hidden_size": None}, "has no 'hidden_size'"),
        ({"hidden_size": 48}, "has the shape"),
        ({"num_hidden_layers": 3}, "has no tensor model.layers.2"),
        ({"num_hidden_layers": 1}, "has the tensor model.layers.1"),
        ({"model_type": "llama"}, "has the tensor model.layers.0.self_attn.k_norm"),
    ],
)
def test_a_model_that_our_network_cannot_hold_is_refused(settings, said, tmp_path):
    folder = change(saved(tmp_path / "model", head_dim=8), **settings)
    with pytest.raises(UserError, match=said):
        import_model(folder, tmp_path / "run", verify=False)
    assert not (tmp_path / "run").exists()


def test_an_output_bias_is_refused_unless_it_is_0(tmp_path):
    folder = saved(tmp_path / "model", attention_bias=True, head_dim=8)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.self_attn.o_proj.bias"][3] = 1e-6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="model.layers.1.self_attn.o_proj.bias is not 0"):
        import_model(folder, tmp_path / "run", verify=False)


def test_an_import_cannot_be_resumed(tmp_path):
    """Training can only start from its weights; the workdir stays as it is."""
    import_model(saved(tmp_path / "model", head_dim=8), tmp_path / "run", verify=False)
    with pytest.raises(UserError, match="holds weights only, .* --config.training.start_from="):
        Trainer().resume(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["0"]
    lm = DiffusionLM.load_checkpoint(tmp_path / "run")
    assert len(lm.sample("ab", length=4)) >= 2


def test_a_mask_id_that_is_not_the_tokenizer_s_is_refused(tmp_path):
    folder = change(saved(tmp_path / "model", head_dim=8), model_type="sdar", mask_token_id=280)
    with pytest.raises(UserError, match="the mask is token 280 for the model, .* --mask-token"):
        import_model(folder, tmp_path / "run", verify=False)


def test_a_wrong_plan_is_noticed(tmp_path, monkeypatch):
    """If theta were not read, logits would differ; nothing is left behind."""
    folder = saved(tmp_path / "model", head_dim=8)
    build = import_plan._config

    def misread(c, model, *rest, **more):
        return build(c, model | {"rope_theta": 10_000.0}, *rest, **more)

    monkeypatch.setattr(import_plan, "_config", misread)
    with pytest.raises(UserError, match="logits differ"):
        import_model(folder, tmp_path / "run", verify=True)
    assert not (tmp_path / "run").exists()


def test_round_trip_through_another_format(tmp_path):
    """Exported as LLaDA, and imported without the files that we write for an import."""
    source = random_checkpoint(tmp_path / "run", model__qk_norm=False)
    export(source, tmp_path / "out", "llada", verify=True)
    change(tmp_path / "out", dlms_jax=None)
    for name in ("dlms_jax.json", "padding.safetensors", "SHA256SUMS"):
        (tmp_path / "out" / name).unlink()
    import_model(tmp_path / "out", tmp_path / "back", verify=True)
    back = open_export_source(tmp_path / "back")
    for tensor in source.tensors:
        if not tensor.vocabulary:
            expected = source.arrays.read(tensor.path)
            np.testing.assert_array_equal(back.arrays.read(tensor.path), expected)
    assert back.config.objective.name == "masked" and back.config.data.sequence_length == 32
