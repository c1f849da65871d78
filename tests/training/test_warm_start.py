"""A run that begins with another run's weights: which ones, where they come from, and when not."""

import io
import shutil

import jax
import numpy as np
import pytest
from rich.console import Console

from dlms_jax import Trainer
from dlms_jax.checkpoints import checkpoint
from dlms_jax.config import MeshConfig
from dlms_jax.data import tokenizers
from dlms_jax.data.build.builder import DatasetBuilder
from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.denoiser import vocabulary_of
from dlms_jax.errors import UserError
from dlms_jax.parallel.mesh import make_mesh
from dlms_jax.runtime.interrupt import Interrupted
from dlms_jax.runtime.metric_writer import read_metrics
from dlms_jax.testing import small_config
from dlms_jax.training.assembly import assemble
from dlms_jax.training.warm_start import check_fits, find_start

ADAPT = dict(objective__shift=True, objective__anneal_steps=4)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of small texts."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for number in range(40):
        (folder / f"{number}.txt").write_text(" ".join(rng.choice(["to", "be", "or"], 60)) + "\n")
    return folder


@pytest.fixture(scope="module")
def ar(corpus, tmp_path_factory):
    """The workdir of an autoregressive run of a few steps that kept a moving average."""
    workdir = tmp_path_factory.mktemp("runs") / "ar"
    config = config_for(corpus, objective__name="autoregressive", training__ema_decay=0.9)
    train(workdir, config)
    return workdir


def config_for(corpus, **settings):
    common = dict(data__corpus=str(corpus), data__heldout_fraction=0.2)
    return small_config(**common | settings)


def train(workdir, config) -> str:
    """Returns what a run prints."""
    out = io.StringIO()
    Trainer(workdir, Console(file=out, width=200, soft_wrap=True)).train(config)
    return out.getvalue()


def refused(workdir, config) -> str:
    """Returns the line with which a run is refused, before it leaves anything."""
    with pytest.raises(UserError) as error:
        train(workdir, config)
    assert "\n" not in str(error.value) and not workdir.exists()
    return str(error.value)


def saved_weights(workdir, item):
    """Returns a checkpoint's tree of weights as numpy arrays, without a word of this program."""
    folder = checkpoint.find_checkpoint(workdir)
    shapes = checkpoint.Checkpoint(folder, {}).parameter_shapes()
    restored = checkpoint.ocp.StandardCheckpointer().restore(folder / item, shapes)
    return jax.tree.map(np.asarray, restored)


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
    "mesh_shape",
    [dict(data=8), dict(data=1, fsdp=4, tensor=2), dict(data=7)],
    ids=["data 8", "fsdp 4, tensor 2", "7 devices"],
)
def test_the_moving_average_comes_onto_any_mesh_bit_for_bit(ar, mesh_shape):
    """Parameters and their own moving average begin with it; the optimizer begins anew."""
    devices = jax.devices()[: int(np.prod(list(mesh_shape.values())))]
    mesh = make_mesh(MeshConfig(**mesh_shape), devices)
    config = small_config(
        training__start_from=str(ar), training__ema_decay=0.5, model__dtype="bfloat16",
        model__scan_layers=False, model__remat="full",
    )  # fmt: skip
    assembly = assemble(config, vocabulary_of(ByteTokenizer()), mesh)
    abstract, tx = assembly.state, assembly.tx
    start = find_start(config, ar.parent / "new")
    check_fits(start, abstract.params, config)
    params = start.checkpoint.load_params(abstract.params)
    state = assembly.initial_state(params)
    expected = saved_weights(ar, "ema")
    assert_equal(jax.device_get(state.params), expected)
    assert_equal(jax.device_get(state.ema), expected)
    jax.tree.map(lambda x, a: x.sharding.is_equivalent_to(a.sharding, x.ndim) or 1 / 0,
                 state, abstract)  # fmt: skip
    assert_equal(*(jax.tree.map(np.asarray, x) for x in (state.optimizer, tx.init(state.params))))
    assert int(state.step) == 0
    different = saved_weights(ar, "params")
    assert (different["lm_head"]["kernel"] != expected["lm_head"]["kernel"]).any()


def test_a_run_says_where_it_comes_from_and_its_resume_reads_it_no_more(
    ar, corpus, tmp_path, stop_after
):
    """Cut, with the checkpoint that it began from gone, it ends with the bits of the whole one."""
    began = tmp_path / "began"
    shutil.copytree(ar, began)
    folder = checkpoint.find_checkpoint(began)
    config = config_for(
        corpus, training__start_from=str(began), tokenizer__name="bpe", **ADAPT
    )  # fmt: skip
    printed = train(tmp_path / "whole", config)
    assert f"starting from the weights of {folder} (autoregressive)" in printed

    stop_after(3)
    with pytest.raises(Interrupted, match="saved step 3"):
        train(tmp_path / "cut", config)
    shutil.rmtree(began)
    assert "starting from" not in train(tmp_path / "cut", config)

    assert_equal(*(saved_weights(tmp_path / name, "params") for name in ("whole", "cut")))
    losses = [
        [row["loss"] for row in read_metrics(tmp_path / name / "metrics.csv")]
        for name in ("whole", "cut")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    for name in ("whole", "cut"):
        metadata = checkpoint.load_metadata(checkpoint.find_checkpoint(tmp_path / name))
        assert metadata["start_from"] == {
            "path": str(folder), "step": "6", "name": "small", "objective": "autoregressive",
        }  # fmt: skip
        # The tokenizer is the other run's, whatever the settings say.
        names = metadata["tokenizer"]["name"], metadata["config"]["tokenizer"]["name"]
        assert names == ("bytes", "bytes")
    # Another beginning is another run.
    with pytest.raises(UserError, match=r"holds another run \(config.training.start_from was"):
        train(tmp_path / "whole", config_for(corpus, training__start_from=str(ar), **ADAPT))


GAUSSIAN = dict(objective__name="gaussian", gaussian__embedding_size=16)
CONDITIONED = dict(model__conditioning="film")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(model__width=64), r"embed/embedding is 384x32 in the checkpoint, 384x64 in this run "
         r"\(and \d+ more differ\); set config.model.width=32 as in the checkpoint"),
        (dict(model__num_layers=3), r"layers/attn/k_norm/scale is 2x8 in the checkpoint, 3x8 in "
         "this run.*set config.model.num_layers=2 as in the checkpoint"),
        (dict(model__tie_embeddings=True), "lm_head/kernel is 32x384 in the checkpoint, absent in "
         "this run; set config.model.tie_embeddings=False as in the checkpoint"),
        (CONDITIONED, "conditioning/in_proj/bias is absent in the checkpoint, 128 in this run .*"
         "set config.model.conditioning=none as in the checkpoint"),
        (dict(model__qk_norm=False), "k_norm/scale is 2x8 in the checkpoint, absent in this run.*"
         "model.qk_norm=True"),
        (dict(model__num_kv_heads=4), "model.num_kv_heads=2 as in the checkpoint"),
        (GAUSSIAN, "config.objective.name=autoregressive, config.gaussian.embedding_size=128"),
        (dict(model__name="unet", model__unet_levels=2), "config.model.name=transformer"),
    ],
)  # fmt: skip
def test_weights_of_another_network_are_refused_with_what_to_set(
    ar, corpus, tmp_path, settings, message
):
    config = config_for(corpus, training__start_from=str(ar), **settings)
    with pytest.raises(UserError, match=message):
        train(tmp_path / "run", config)
    assert refused(tmp_path / "run", config).startswith(f"config.training.start_from={ar} does not")


def test_self_conditioning_shapes_the_parameters(corpus, tmp_path):
    """A mismatch names the setting, and does not blame another version of this program."""
    workdir, small = tmp_path / "gaussian", dict(training__steps=1, **GAUSSIAN)
    train(workdir, config_for(corpus, gaussian__self_conditioning=False, **small))
    line = refused(tmp_path / "run", config_for(corpus, training__start_from=str(workdir), **small))
    assert "embed/estimate_proj/kernel is absent in the checkpoint, 16x32 in this run" in line
    assert line.endswith("; set config.gaussian.self_conditioning=False as in the checkpoint")


def test_what_the_weights_will_be_read_by_is_said_where_it_changed(ar):
    settings = dict(training__start_from=str(ar), model__rope_theta=5e5)
    start = find_start(small_config(**settings), ar.parent / "new")
    changed = "; config.model.rope_theta was 10000.0, is 500000.0"
    next_token = small_config(objective__shift=True, **settings)
    assert start.text(next_token).endswith(changed)
    own_token = changed + (
        ", config.objective.shift=False, but these weights predict the token at the next position"
    )
    assert start.text(small_config(**settings)).endswith(own_token)
    block = small_config(objective__name="block", training__start_from=str(ar))
    assert start.text(block).endswith("(autoregressive)")


def test_heads_that_the_shapes_do_not_show_are_compared(ar, one_device):
    """Without their norms, 4 heads of 8 and 2 of 16 have matrices of the same shape."""
    config = small_config(training__start_from=str(ar), model__num_heads=2, model__num_kv_heads=1)
    start = find_start(config, ar.parent / "new")
    shapes = start.checkpoint.parameter_shapes()
    message = r"4 heads, 2 key/value heads, head size 8; .*num_heads=4, .*kv_heads=2"
    with pytest.raises(UserError, match=message):
        check_fits(start, shapes, config)


@pytest.mark.parametrize("damage", ["metadata", "ema"])
def test_a_truncated_checkpoint_is_named(ar, corpus, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(ar, copy)
    folder = checkpoint.find_checkpoint(copy)
    for file in (folder / damage).rglob("*"):
        if file.is_file() and file.stat().st_size > 10:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=f"{folder} cannot be read") as error:
        train(tmp_path / "run", config_for(corpus, training__start_from=str(copy)))
    assert "\n" not in str(error.value)


def test_what_is_no_other_runs_checkpoint_is_refused(ar, corpus, tmp_path):
    for path in ("nowhere", str(tmp_path)):
        line = refused(tmp_path / "run", config_for(corpus, training__start_from=path))
        assert line.startswith(f"config.training.start_from={path}: no checkpoint at")
    own = config_for(corpus, training__start_from=str(ar), training__ema_decay=0.9)
    with pytest.raises(UserError, match="holds another run"):
        train(ar, own)
    for path in (ar, ar / "checkpoints", ar / "checkpoints/6"):
        with pytest.raises(UserError, match="start_from=.* is this run's own workdir"):
            find_start(small_config(training__start_from=str(path)), ar)


def test_a_dataset_of_other_tokens_is_refused(ar, corpus, tmp_path):
    """Ids that mean other symbols would be learned anew, in silence."""
    special = tokenizers.ByteTokenizer(special_tokens=("<|a|>",))
    silent = Console(file=io.StringIO())
    builder = DatasetBuilder(tmp_path / "data", heldout_fraction=0.2, console=silent)
    builder.build_from_raw(corpus, special, 32)
    config = config_for(tmp_path / "data", training__start_from=str(ar))
    assert "was prepared with another tokenizer" in refused(tmp_path / "run", config)
