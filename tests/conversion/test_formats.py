"""A class of transformers computes the same as our network from each export format; a format
refuses what it cannot hold."""

import json

from conversion.exported import odd_tokenizer, random_checkpoint
import pytest

from dlms_jax.conversion import formats
from dlms_jax.conversion.export import export
from dlms_jax.conversion.export_source import open_export_source
from dlms_jax.conversion.importing import import_model
from dlms_jax.conversion.weights_files import WeightsReader
from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.errors import UserError
from dlms_jax.testing import small_config

PLAIN = {"model__qk_norm": False}
BLOCK = {"objective__name": "block", "block__size": 4}
HELD = {  # format: (settings, the class that computes it, some tensor names, part of config.json)
    "qwen3": (
        {"objective__name": "autoregressive", "model__tie_embeddings": True},
        "Qwen3ForCausalLM",
        ["model.layers.1.self_attn.q_norm.weight", "model.norm.weight"],
        {"model_type": "qwen3", "tie_word_embeddings": True, "vocab_size": 265},
    ),
    "qwen3, biases": (
        {"objective__name": "autoregressive", "model__qkv_bias": True},
        "Qwen3ForCausalLM",
        ["model.layers.0.self_attn.o_proj.bias", "lm_head.weight"],
        {"attention_bias": True},
    ),
    "qwen3, experts": (
        {
            "objective__name": "autoregressive",
            "model__experts": 5,
            "model__expert_feed_forward": 20,
            "model__normalise_routing": False,
        },
        "Qwen3MoeForCausalLM",
        ["model.layers.1.mlp.gate.weight", "model.layers.1.mlp.experts.4.down_proj.weight"],
        {
            "model_type": "qwen3_moe",
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
            "norm_topk_prob": False,
            "decoder_sparse_step": 1,
        },
    ),
    "a2d": (
        {},
        "Qwen3ForCausalLM in place of A2DQwen3LMHeadModel",
        ["model.embed_tokens.weight"],
        {"model_type": "a2d-qwen3", "mask_token_id": 259},
    ),
    "a2d, blocks": (BLOCK, "Qwen3ForCausalLM in place of A2DQwen3LMHeadModel", [], {"head_dim": 8}),
    "sdar": (
        BLOCK | {"model__head_size": 6},
        "Qwen3ForCausalLM in place of SDARForCausalLM",
        ["model.layers.0.mlp.down_proj.weight"],
        {"model_type": "sdar", "block_size": 4, "head_dim": 6, "rope_theta": 10_000.0},
    ),
    "megadlms": (
        {},
        "Qwen3ForCausalLM in place of DiffLM",
        ["lm_head.weight"],
        {"architectures": ["DiffLM"], "attn_mask_type": "bidirectional", "mask_token_id": 259},
    ),
    "llada": (
        PLAIN,
        "LlamaForCausalLM in place of LLaDAModelLM",
        [
            "model.transformer.wte.weight",
            "model.transformer.blocks.1.attn_out.weight",
            "model.transformer.blocks.0.ff_proj.weight",
            "model.transformer.ff_out.weight",
        ],
        {"model_type": "llada", "embedding_size": 265, "block_type": "llama", "rope": True},
    ),
    "llada, biases, tied": (
        PLAIN | {"model__qkv_bias": True, "model__tie_embeddings": True},
        "Qwen2ForCausalLM in place of LLaDAModelLM",
        ["model.transformer.blocks.0.k_proj.bias"],
        {"include_qkv_bias": True, "weight_tying": True},
    ),
    "dream": (
        PLAIN | {"model__qkv_bias": True, "objective__shift": True},
        "Qwen2ForCausalLM in place of DreamModel",
        ["model.layers.0.self_attn.v_proj.bias"],
        {"model_type": "Dream", "mask_token_id": 259},
    ),
}


@pytest.fixture
def any_mask(monkeypatch):
    """SDAR's engines expect token 151669; a tokenizer with so many symbols would be slow."""
    monkeypatch.setattr(formats, "SDAR_MASK_ID", 259)


@pytest.mark.parametrize("case", list(HELD))
def test_format_computes_the_same(case, tmp_path, any_mask):
    settings, name, tensors, described = HELD[case]
    format_name = case.split(",")[0]
    source = random_checkpoint(tmp_path / "run", odd_tokenizer(), **settings)
    report = export(source, tmp_path / "out", format_name, verify=True)
    assert report["class"] == name and max(report["logits"].values()) < 1e-5
    reader = WeightsReader(tmp_path / "out")
    assert set(tensors) <= set(reader.shapes)
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {key: found[key] for key in described} == described
    assert not list((tmp_path / "out").glob("*.py"))
    import_model(tmp_path / "out", tmp_path / "back", verify=False)
    back = open_export_source(tmp_path / "back")
    assert back.config == source.config
    for tensor in source.tensors:
        before, after = (s.arrays.read(tensor.path).tobytes() for s in (source, back))
        assert before == after, tensor.path


@pytest.mark.parametrize(
    ("format_name", "settings", "message"),
    [
        ("qwen3", {}, "objective.name=masked, only autoregressive"),
        ("qwen3", {"objective__name": "autoregressive", **PLAIN}, "qk_norm=False"),
        ("a2d", {"objective__shift": True}, "objective.shift=True"),
        ("a2d", PLAIN, "qk_norm=False"),
        ("a2d", {"model__experts": 4}, "model.experts=4, only 0"),
        ("a2d", {"model__conditioning": "film"}, "conditioning=film"),
        ("sdar", {}, "objective.name=masked, only block"),
        ("sdar", BLOCK, "expect the mask to be token 151669, .* it is 259"),
        ("sdar", BLOCK | {"block__context": "causal"}, "block.context=causal"),
        ("megadlms", {"model__qkv_bias": True}, "qkv_bias=True"),
        ("megadlms", BLOCK, "objective.name=block"),
        ("llada", {}, "qk_norm=True"),
        ("llada", PLAIN | {"model__head_size": 6}, "head_size=6"),
        (
            "llada",
            PLAIN | {"model__prompt_encoder": "cross_attention"},
            "prompt_encoder=cross_attention",
        ),
        ("dream", PLAIN | {"model__qkv_bias": True}, "objective.shift=False"),
        ("dream", PLAIN | {"objective__shift": True}, "qkv_bias=False"),
        ("llada", PLAIN | {"model__name": "unet"}, "model.name=unet"),
        ("a2d", {"objective__name": "uniform"}, "objective.name=uniform"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(format_name, settings, message):
    with pytest.raises(UserError, match=message):
        formats.check_format(format_name, small_config(**settings), ByteTokenizer())


def test_dllm_needs_a_mask_of_its_own_name():
    tokenizer = ByteTokenizer({"pad": "<p>", "bos": "<b>", "eos": "<e>", "mask": "<m>"})
    with pytest.raises(UserError, match="for this tokenizer it is <m>"):
        formats.check_format("a2d", small_config(), tokenizer)


def test_nothing_is_written_for_what_is_refused(tmp_path):
    source = random_checkpoint(tmp_path / "run")
    with pytest.raises(UserError, match="cannot hold"):
        export(source, tmp_path / "out", "qwen3")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
