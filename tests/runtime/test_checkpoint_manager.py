"""What is saved comes back, and a damaged checkpoint is never taken for a whole one."""

import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlms_jax.checkpoints import checkpoint
from dlms_jax.config import FORMAT, CheckpointConfig
from dlms_jax.errors import UserError
from dlms_jax.runtime.checkpoint_manager import Checkpoints
from dlms_jax.training.spikes import WINDOW, nothing_seen
from dlms_jax.training.state import TrainState


def state_at(step: int, mesh, ema=True) -> TrainState:
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    key = jax.random.key(step)
    params = {"layers": {"a": {"kernel": jax.random.normal(key, (3, 40, 50))}}, "b": jnp.ones(7)}
    scalar = jnp.int32(step)
    optimizer = ({"mu": jax.tree.map(lambda x: x * 2, params)}, scalar)
    state = TrainState(scalar, params, params if ema else None, optimizer, scalar, jnp.int32(0))
    return jax.device_put(state, sharding)


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(other))


@pytest.fixture
def two_saved(tmp_path, one_device):
    """A workdir with checkpoints of steps 1 and 2."""
    store = Checkpoints(tmp_path, CheckpointConfig(keep_latest=3), print)
    for step in (1, 2):
        store.save(step, state_at(step, one_device), {"step": step}, bound=None)
    store.wait()
    store.close()
    return tmp_path


@pytest.mark.parametrize("ema", [True, False])
def test_round_trip_is_exact(tmp_path, one_device, ema):
    state = state_at(5, one_device, ema)
    store = Checkpoints(tmp_path, CheckpointConfig(), print)
    store.save(5, state, {"a": [1, "ü"]}, bound=1.5)
    store.wait()
    restored, metadata = store.restore_latest(abstract(state))
    assert_equal(state, restored)
    assert set(metadata.pop("digests")) == {"params", "rest"} | ({"ema"} if ema else set())
    assert metadata == {"a": [1, "ü"], "format": FORMAT}
    folder = checkpoint.find_checkpoint(tmp_path)
    assert folder == checkpoint.find_checkpoint(folder) == checkpoint.find_checkpoint(folder.parent)
    assert_equal(
        checkpoint.Checkpoint(folder, {}).load_params(abstract(state.params)), state.params
    )


def test_latest_and_best_are_kept(tmp_path, one_device):
    store = Checkpoints(tmp_path, CheckpointConfig(keep_latest=2, keep_best=1), print)
    for step, bound in enumerate([3.0, 1.0, 2.0, None, 2.5, None]):
        store.save(step, state_at(step, one_device), {}, bound)
    store.wait()
    store.close()
    kept = {p.name for p in (tmp_path / checkpoint.FOLDER).iterdir() if p.name.isdigit()}
    assert kept == {"1", "4", "5"}


def test_a_full_disk_is_noticed_before_anything_is_written(two_saved, one_device, monkeypatch):
    store = Checkpoints(two_saved, CheckpointConfig(), print)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**10))
    message = r"cannot write .* are free\); make space .* resumes after step 2"
    with pytest.raises(UserError, match=message):
        store.save(3, state_at(3, one_device), {}, bound=None)
    assert store.latest_step() == 2


def test_nothing_to_restore(tmp_path, one_device):
    store = Checkpoints(tmp_path, CheckpointConfig(), print)
    assert store.restore_latest(abstract(state_at(0, one_device))) is None
    assert checkpoint.newest_readable(tmp_path) is None


def test_every_truncated_file_is_noticed_or_does_not_matter(
    two_saved, one_device, tmp_path_factory
):
    """Cuts each file of the newest checkpoint in half, in turn: what comes back is either exactly
    what was saved at step 2, or, with step 2 named, what was saved at step 1."""
    newest = two_saved / checkpoint.FOLDER / "2"
    files = [p.relative_to(two_saved) for p in newest.rglob("*") if p.is_file()]
    fell_back = 0
    for file in files:
        copy = tmp_path_factory.mktemp("copy") / "run"
        shutil.copytree(two_saved, copy)
        content = (copy / file).read_bytes()
        (copy / file).write_bytes(content[: len(content) // 2])
        said = []
        store = Checkpoints(copy, CheckpointConfig(), said.append)
        restored, _ = store.restore_latest(abstract(state_at(0, one_device)))
        store.close()
        step = int(restored.step)
        assert_equal(restored, state_at(step, one_device))
        assert step == 2 or (step == 1 and "checkpoints/2" in said[0]), file
        fell_back += step == 1
        if step == 1:  # moved aside, not lost, and not in the way of the next save
            assert (copy / "checkpoints_broken/2").is_dir() and not (
                copy / "checkpoints/2"
            ).exists()
    assert fell_back >= 3  # params, rest, metadata at the least


def test_half_written_checkpoints_are_named_and_ignored(two_saved, one_device):
    half = two_saved / checkpoint.FOLDER / "3.orbax-checkpoint-tmp"
    shutil.copytree(two_saved / checkpoint.FOLDER / "2", half)
    said = []
    store = Checkpoints(two_saved, CheckpointConfig(), said.append)
    assert len(said) == 1 and str(half) in said[0]
    assert store.latest_step() == 2
    assert checkpoint.find_checkpoint(two_saved).name == "2"


def test_when_none_can_be_read_a_run_is_not_begun_anew(two_saved, one_device):
    for step in ("1", "2"):
        shutil.rmtree(two_saved / checkpoint.FOLDER / step / "params")
    store = Checkpoints(two_saved, CheckpointConfig(), lambda text: None)
    with pytest.raises(UserError, match="no checkpoint in .* can be read"):
        store.restore_latest(abstract(state_at(0, one_device)))


def test_reading_a_damaged_checkpoint_names_it_and_its_neighbours(two_saved, one_device):
    folder = two_saved / checkpoint.FOLDER / "2"
    shutil.rmtree(folder / "params")
    shutil.rmtree(folder / "ema")
    with pytest.raises(UserError, match=r"checkpoints/2 cannot be read.*other steps: 1"):
        checkpoint.Checkpoint(folder, {}).load_params(abstract(state_at(2, one_device).params))


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_no_checkpoint_is_one_line(tmp_path, path):
    with pytest.raises(UserError, match="no checkpoint at"):
        checkpoint.find_checkpoint(tmp_path / path)


@pytest.mark.parametrize(
    ("before", "every", "to", "left"),
    [(5, 2, 2, {"2"}), (5, 3, 3, {"2", "3"}), (5, 100, 4, {"2", "3", "4"}), (2, 1, None, None)],
)
def test_going_back_is_to_the_newest_regular_one_before_a_step(
    tmp_path, one_device, before, every, to, left
):
    """Or, where there is none, to the newest; what is newer is deleted, and may be saved again."""
    store = Checkpoints(tmp_path, CheckpointConfig(keep_latest=9), print)
    saved = (2, 3, 4, 6)
    steps = [step for step in saved if not (every == 2 and step == 4)]
    for step in steps:
        store.save(step, state_at(step, one_device), {}, bound=None)
    assert store.go_back(before, every) == to
    kept = {p.name for p in (tmp_path / checkpoint.FOLDER).iterdir() if p.name.isdigit()}
    assert kept == (left or {str(step) for step in steps})
    if to:
        store.save(6, state_at(60, one_device), {}, bound=None)
        store.wait()
        restored, _ = store.restore_latest(abstract(state_at(0, one_device)))
        assert_equal(restored.params, state_at(60, one_device).params)


def test_what_was_usual_is_saved_and_begun_anew_by_a_run_that_had_not_looked(tmp_path, one_device):
    store = Checkpoints(tmp_path, CheckpointConfig(), print)
    plain = state_at(1, one_device)
    seen = jax.device_put(jnp.arange(2.0 * WINDOW).reshape(2, WINDOW), plain.step.sharding)
    store.save(1, plain, {}, bound=None)
    restored, _ = store.restore_latest(abstract(plain._replace(recent=seen)))
    np.testing.assert_array_equal(restored.recent, nothing_seen())
    store.save(2, plain._replace(recent=seen), {}, bound=None)
    store.wait()
    restored, _ = store.restore_latest(abstract(plain._replace(recent=seen)))
    np.testing.assert_array_equal(restored.recent, seen)
    restored, _ = store.restore_latest(abstract(plain))  # spikes no longer looked for
    assert restored.recent is None
