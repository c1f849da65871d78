"""Saves to a machine's own disk come back bit for bit, and never in the place of what they are not.

One process of 8 devices here; tests/test_faults.py has two, of which one loses its disk.
"""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from runtime.test_checkpoint_manager import abstract, assert_equal, state_at

from dlms_jax.config import FORMAT, CheckpointConfig, MeshConfig
from dlms_jax.errors import UserError
from dlms_jax.parallel.mesh import make_mesh
from dlms_jax.runtime import local_saves
from dlms_jax.runtime.checkpoint_manager import Checkpoints
from dlms_jax.runtime.local_saves import LocalSaves, check_local_saves
from dlms_jax.testing import small_config


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(2, 4))


@pytest.fixture
def opened(tmp_path, mesh):
    """Returns a function that starts a run (again): its Checkpoints, and the lines it says."""
    config = CheckpointConfig(local_directory=str(tmp_path / "disk"), local_every=1)
    stores = []

    def open_again(run="a", mesh=mesh, workdir="run"):
        said = []
        local = LocalSaves(config, run, mesh)
        stores.append(Checkpoints(tmp_path / workdir, config, said.append, local))
        return stores[-1], said

    yield open_again
    for store in stores:
        store.close()


def saved(opened, mesh, shared=2, own=5, left_out=0, metadata=None):
    """Leaves a run behind that has saved for all at one step, and on its own disk at another."""
    store, _ = opened()
    store.save(shared, state_at(shared, mesh), metadata or {}, None)
    store.save_locally(own, state_at(own, mesh), left_out)
    store.wait()
    store.close()


def test_the_newer_of_both_is_read(opened, mesh):
    saved(opened, mesh, metadata={"run": "a"})
    store, said = opened()
    state, metadata = store.restore_latest(abstract(state_at(0, mesh)))
    assert_equal(state, state_at(5, mesh))
    assert (metadata["run"], metadata["format"]) == ("a", FORMAT)  # of the shared one
    assert len(said) == 1 and "step 5 is the machines' own save; " in said[0]
    assert all(x.sharding.mesh == mesh for x in jax.tree.leaves(state))


def test_one_that_is_older_is_deleted(opened, mesh, tmp_path):
    saved(opened, mesh, shared=7, own=5)
    store, said = opened()
    state, _ = store.restore_latest(abstract(state_at(0, mesh)))
    assert int(state.step) == 7 and not said
    assert not list(tmp_path.glob("disk/*/process-0/5"))
    store.save_locally(5, state_at(5, mesh), 0)  # and is not in the way of the next


@pytest.mark.parametrize(
    "other", [dict(run="b"), dict(mesh=MeshConfig(4, 2)), dict(workdir="another")], ids=str
)
def test_another_runs_or_layouts_are_not_taken(opened, mesh, other):
    """Nor where nothing is shared yet, whose corpus and tokenizer nothing would tell."""
    saved(opened, mesh)
    if "mesh" in other:
        other = {"mesh": make_mesh(other["mesh"])}
    store, _ = opened(**other)
    restored = store.restore_latest(abstract(state_at(0, other.get("mesh", mesh))))
    assert restored is None if "workdir" in other else int(restored[0].step) == 2


def test_one_from_before_a_rollback_is_not_taken(opened, mesh):
    """Other batches were left out than the shared checkpoint says: its step is not the run's."""
    rolled_back = {"rollbacks": [{"to": 1, "first_bad": 2, "last_bad": 3}]}
    saved(opened, mesh, left_out=0, metadata=rolled_back)
    store, said = opened()
    assert int(store.restore_latest(abstract(state_at(0, mesh)))[0].step) == 2
    assert said == ["the machines' own saves of step 5 cannot be used"]
    store.save_locally(4, state_at(4, mesh), 2)
    store.wait()
    store.close()
    assert int(opened()[0].restore_latest(abstract(state_at(0, mesh)))[0].step) == 4


def test_a_damaged_one_is_not_taken(opened, mesh, tmp_path):
    saved(opened, mesh)
    arrays = max(tmp_path.glob("disk/*/*/5/state/**/d/*"), key=lambda path: path.stat().st_size)
    arrays.write_bytes(arrays.read_bytes()[: arrays.stat().st_size // 2])
    store, said = opened()
    assert int(store.restore_latest(abstract(state_at(0, mesh)))[0].step) == 2
    assert said == ["the machines' own saves of step 5 cannot be used"]


def test_another_kind_of_state_is_not_taken(opened, mesh):
    """A moving average that was not kept then, say."""
    saved(opened, mesh)
    store, _ = opened()
    without = state_at(0, mesh, ema=False)
    assert int(store.restore_latest(abstract(without))[0].step) == 2


def test_a_rollback_deletes_them_and_the_end_of_the_run_too(opened, mesh, tmp_path):
    store, _ = opened()
    store.save(2, state_at(2, mesh), {}, None)
    store.save_locally(5, state_at(5, mesh), 0)
    assert store.go_back(before=4, every=1) == 2
    assert int(store.restore_latest(abstract(state_at(0, mesh)))[0].step) == 2
    store.save_locally(3, state_at(3, mesh), 0)
    neighbour = next(tmp_path.glob("disk/*")) / "process-1"  # on the same machine, still at it
    neighbour.mkdir()
    store.finish()
    assert [path.name for path in tmp_path.glob("disk/*/*")] == ["process-1"]


def test_half_written_ones_of_a_killed_process_are_removed(opened, mesh, tmp_path):
    saved(opened, mesh)
    half = next(tmp_path.glob("disk/*/process-0")) / "6.orbax-checkpoint-tmp"
    half.mkdir()
    store, _ = opened()
    assert int(store.restore_latest(abstract(state_at(0, mesh)))[0].step) == 5
    assert not half.exists()


def test_a_folder_that_cannot_be_made_is_one_line(mesh, tmp_path):
    (tmp_path / "file").write_text("")
    config = CheckpointConfig(local_directory=str(tmp_path / "file"), local_every=1)
    with pytest.raises(UserError, match=r"file/a-.* cannot be made \(Not a directory\); give ano"):
        LocalSaves(config, "a", mesh)


def test_one_process_is_refused(mesh):
    with pytest.raises(UserError, match="local_directory=/tmp/x is for several processes"):
        check_local_saves(CheckpointConfig(local_directory="/tmp/x", local_every=1), mesh)


@pytest.mark.parametrize(
    ("processes", "alike"),
    [
        ([[0, 0, 1, 1], [2, 2, 3, 3]], True),
        ([[0, 0, 1, 1], [0, 0, 1, 1]], True),  # a process has two rows
        ([[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]], True),
        ([[0, 0, 1, 1], [2, 3, 2, 3]], False),
        ([[0, 0, 0, 1], [1, 1, 2, 2]], False),
    ],
)
def test_peers_must_hold_the_same_parts(processes, alike, monkeypatch):
    """What a machine gets from a peer is read as its own."""
    devices = np.vectorize(lambda p: SimpleNamespace(process_index=p))(np.array(processes))
    fake = SimpleNamespace(devices=devices[:, :, None])
    monkeypatch.setattr(local_saves.jax, "process_count", lambda: 4)
    config = CheckpointConfig(local_directory="/tmp/x", local_every=1)
    if alike:
        check_local_saves(config, fake)
    else:
        with pytest.raises(UserError, match="hold different parts of the state here"):
            check_local_saves(config, fake)


@pytest.mark.parametrize(
    "settings", [dict(checkpoint__local_every=3), dict(checkpoint__local_directory="/tmp/x")]
)
def test_a_directory_and_how_often_go_together(settings):
    with pytest.raises(UserError, match="go together; set both, or neither"):
        small_config(**settings)
