"""To PyTorch and back: the same bits, logits and greedy texts for every architecture."""

import shutil

from conversion.exported import odd_tokenizer, random_checkpoint, tree_of
import numpy as np
import pytest

from dlms_jax.conversion.export import export
from dlms_jax.conversion.export_source import open_export_source
from dlms_jax.conversion.importing import import_model
from dlms_jax.conversion.weights_files import WeightsReader
from dlms_jax.errors import UserError

BLOCK = {"objective__name": "block", "block__size": 4}
GAUSSIAN = {
    "objective__name": "gaussian",
    "gaussian__embedding_size": 16,
    "model__conditioning": "film",
}
UNET = {"model__name": "unet", "model__unet_blocks": 1}
ARCHITECTURES = {
    "masked": {},
    "no qk norm, qkv bias, tied": {
        "model__qk_norm": False,
        "model__qkv_bias": True,
        "model__tie_embeddings": True,
    },
    "one layer, one head, large head": {
        "model__num_layers": 1,
        "model__num_heads": 1,
        "model__num_kv_heads": 1,
        "model__head_size": 48,
        "model__width": 24,
        "model__feed_forward": 40,
    },
    "grouped queries, unrolled layers": {
        "model__num_layers": 3,
        "model__num_heads": 6,
        "model__num_kv_heads": 2,
        "model__head_size": 10,
        "model__scan_layers": False,
        "model__rope_theta": 500.0,
    },
    "adaLN, classes, an encoder of prompts": {
        "model__conditioning": "adaln_zero",
        "model__conditioning_size": 12,
        "model__prompt_encoder": "cross_attention",
        "model__classes": 2,
        "data__mixture": {"a": 1.0, "b": 2.0},
    },
    "experts": {
        "model__experts": 5,
        "model__experts_per_token": 2,
        "model__expert_feed_forward": 20,
        "model__conditioning": "film",
    },
    "experts that choose": {
        "model__experts": 4,
        "model__routing": "expert_choice",
        "objective__name": "uniform",
    },
    "experts, one a token, autoregressive": {
        "model__experts": 3,
        "model__experts_per_token": 1,
        "model__normalise_routing": False,
        "objective__name": "autoregressive",
    },
    "shifted, cosine": {"objective__shift": True, "objective__schedule": "cosine"},
    "autoregressive": {"objective__name": "autoregressive", "model__tie_embeddings": True},
    "block": BLOCK,
    "block, causal context": BLOCK | {"block__context": "causal", "model__conditioning": "film"},
    "uniform with masks": {
        "objective__name": "uniform",
        "objective__mask_share": 0.3,
        "model__conditioning": "film",
    },
    "uniform unet": UNET | {"objective__name": "uniform", "model__conditioning": "adaln_zero"},
    "masked unet, one level": UNET | {"model__unet_levels": 1, "model__unet_attention_levels": 0},
    "gaussian": GAUSSIAN | {"objective__schedule": "learned"},
    "gaussian unet, embeddings predicted": UNET
    | GAUSSIAN
    | {
        "gaussian__head": "embedding",
        "gaussian__parameterisation": "v",
        "objective__schedule": "cosine",
        "gaussian__self_conditioning": False,
    },
}


FAST = (
    "masked",
    "no qk norm, qkv bias, tied",
    "grouped queries, unrolled layers",
    "adaLN, classes, an encoder of prompts",
    "autoregressive",
    "block, causal context",
    "uniform unet",
    "gaussian",
    "experts",
)


def random_architecture(seed: int) -> dict:
    """Returns random settings: sizes, options and objective."""
    rng = np.random.default_rng(seed)
    pick = lambda *options: options[rng.integers(len(options))]  # noqa: E731
    groups, queries = pick(1, 2, 3), pick(1, 2, 4)
    model = {
        "width": 8 * int(rng.integers(1, 6)),
        "num_layers": int(rng.integers(1, 4)),
        "num_heads": groups * queries,
        "num_kv_heads": groups,
        "head_size": pick(2, 6, 16),
        "feed_forward": int(rng.integers(8, 70)),
        "qk_norm": pick(True, False),
        "qkv_bias": pick(True, False),
        "conditioning": pick("none", "film", "adaln_zero"),
        "conditioning_size": int(rng.integers(3, 20)),
        "rope_theta": pick(20.0, 10_000.0),
        "norm_epsilon": pick(1e-6, 1e-3),
        "scan_layers": pick(True, False),
    }
    objective = pick("masked", "uniform", "gaussian", "block", "autoregressive")
    settings = {"objective__name": objective}
    if objective == "gaussian":
        settings["gaussian__embedding_size"] = int(rng.integers(2, 20))
        settings["objective__schedule"] = pick("linear", "cosine", "sqrt", "warped", "gumbel")
        if pick(True, False):
            settings["gaussian__head"] = "embedding"
            settings["gaussian__parameterisation"] = pick("x0", "noise", "v")
    else:
        model["tie_embeddings"] = pick(True, False)
    if objective in ("masked", "uniform", "gaussian"):
        model["prompt_encoder"] = pick("none", "cross_attention")
        if pick(True, False):
            levels = int(rng.integers(1, 4))
            model |= {
                "name": "unet",
                "prompt_encoder": "none",
                "unet_levels": levels,
                "unet_blocks": pick(1, 2),
                "unet_attention_levels": int(rng.integers(levels + 1)),
            }
    if objective == "block":
        settings["block__size"] = int(rng.integers(1, 9))
        settings["block__context"] = pick("bidirectional", "causal")
    return settings | {f"model__{key}": value for key, value in model.items()}


def _slow(name):
    return name if name in FAST else pytest.param(name, marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[*map(_slow, ARCHITECTURES), *map(_slow, range(24))])
def exported(request, tmp_path_factory):
    """Returns (source, the folder of its export, the report) of an architecture: a named one, or a
    random one by its number."""
    folder, name = tmp_path_factory.mktemp("exported"), request.param
    number = name if isinstance(name, int) else list(ARCHITECTURES).index(name)
    settings = random_architecture(name) if isinstance(name, int) else ARCHITECTURES[name]
    source = random_checkpoint(folder / "run", odd_tokenizer(number), number, **settings)
    report = export(source, folder / "out", shard_bytes=50_000, verify=True)
    return source, folder / "out", report


def test_logits_and_greedy_texts_are_the_same(exported):
    """`export` compares them and raises above 1e-4; here the bound is tighter."""
    _, _, report = exported
    assert report["greedy"] is True
    assert len(report["logits"]) == 7 and max(report["logits"].values()) < 3e-5


def test_an_import_gives_the_same_tree(exported, tmp_path):
    source, folder, _ = exported
    import_model(folder, tmp_path / "back", verify=False)
    back = open_export_source(tmp_path / "back")
    before, after = tree_of(source), tree_of(back)
    assert before.keys() == after.keys()
    for path, array in before.items():
        assert array.dtype == after[path].dtype and array.tobytes() == after[path].tobytes(), path
    assert (
        back.config == source.config and back.metadata["tokenizer"] == source.metadata["tokenizer"]
    )
    assert back.folder.name == source.folder.name == "7"


def test_files_are_not_larger_than_the_limit(exported):
    """Except for a file with one tensor that is larger."""
    _, folder, _ = exported
    files = sorted(folder.glob("model-*.safetensors"))
    assert files or (folder / "model.safetensors").stat().st_size < 70_000
    largest = max(4 * np.prod(shape) for shape in WeightsReader(folder).shapes.values())
    assert all(file.stat().st_size <= max(50_000, largest) + 20_000 for file in files)


def test_bfloat16_round_trip_is_exact(tmp_path):
    """The first export rounds float32; after that, nothing changes in either direction."""
    source = random_checkpoint(tmp_path / "run", odd_tokenizer())
    report = export(source, tmp_path / "once", dtype="bfloat16", verify=True)
    assert max(report["logits"].values()) < 3e-5  # of the same rounded weights, in float32
    import_model(tmp_path / "once", tmp_path / "back", verify=False)
    export(
        open_export_source(tmp_path / "back"), tmp_path / "twice", dtype="bfloat16", verify=False
    )
    once, twice = WeightsReader(tmp_path / "once"), WeightsReader(tmp_path / "twice")
    before, after = tree_of(source), tree_of(open_export_source(tmp_path / "back"))
    assert set(once.dtypes.values()) == {"BF16"} and once.shapes == twice.shapes
    for name in once.shapes:
        assert once.read(name).tobytes() == twice.read(name).tobytes()
    for path in before:
        rounded = before[path].astype(once.read("model.norm.weight").dtype).astype(np.float32)
        assert rounded.tobytes() == after[path].tobytes()


def test_a_model_that_pytorch_saved_is_imported(exported, tmp_path):
    """save_pretrained writes no dlms_jax.json and no padding, and another index."""
    import torch
    from transformers import AutoTokenizer

    from dlms_jax.conversion.pytorch.modeling_dlms import DLMForDiffusion

    source, folder, _ = exported
    model = DLMForDiffusion.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        model.model.norm.weight += 1
    model.save_pretrained(tmp_path / "tuned")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "tuned")
    import_model(tmp_path / "tuned", tmp_path / "back", verify=False)
    before, after = tree_of(source), tree_of(open_export_source(tmp_path / "back"))
    size = source.tokenizer.size
    for path, array in before.items():
        wanted, found = array, after[path]
        if path == "final_norm/scale":
            wanted = array + 1
        if path in ("embed/embedding", "embed/table"):
            wanted, found = array[:size], found[:size]
        if path == "lm_head/kernel" and source.config.gaussian.head == "logits":
            wanted, found = array[:, :size], found[:, :size]
        np.testing.assert_array_equal(wanted, found, err_msg=path)


def test_the_moving_average_is_exported_if_there_is_one(tmp_path):
    source = random_checkpoint(tmp_path / "run")
    average = random_checkpoint(tmp_path / "average", seed=1)
    assert source.item == "params"
    with pytest.raises(UserError, match="no moving average of the weights; omit --ema"):
        open_export_source(tmp_path / "run", ema=True)
    shutil.copytree(average.folder / "params", source.folder / "ema")
    for ema, item, expected in (
        (None, "ema", average),
        (True, "ema", average),
        (False, "params", source),
    ):
        found = open_export_source(tmp_path / "run", ema)
        assert found.item == item
        for path, array in tree_of(expected).items():
            np.testing.assert_array_equal(found.arrays.read(path), array)
