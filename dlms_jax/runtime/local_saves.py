"""Frequent saves to a disk or RAM disk of each machine, between the shared checkpoints.

Each process saves only its part of the state, through Orbax's peer-to-peer manager. After a restart
it reads its part from its own disk; a machine that lost it gets it from one that holds the same
part of another copy (another index of the mesh axis `data`). The metadata are not saved: they are
those of the newest shared checkpoint, which comes before these saves.
"""

import contextlib
import hashlib
import pathlib
import shutil
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.experimental.emergency.p2p import args as p2p_args, options
from orbax.checkpoint.experimental.emergency.p2p.checkpoint_manager import CheckpointManager

from dlms_jax.config import CheckpointConfig
from dlms_jax.errors import UserError
from dlms_jax.parallel import hosts
from dlms_jax.parallel.mesh import replicated
from dlms_jax.parallel.rules import path_string

_ITEM = "state"  # orbax's name for what its peers exchange
_LEFT_OUT = "left_out"


class LocalSaves:
    """The saves of a run on this process's own disk: the newest, and the one being written."""

    def __init__(self, config: CheckpointConfig, run: str, mesh: Mesh):
        """Opens the saves of a run. All processes must call this together.

        Args:
          config: config.checkpoint.
          run: a name that no other run has. The layout of processes on the mesh becomes part of the
            folder's name, since the parts of another layout cannot be used.
          mesh: the device mesh.

        Raises:
          UserError: the folder cannot be made.
        """
        processes = [device.process_index for device in mesh.devices.flat]
        layout = hashlib.blake2s(repr((mesh.devices.shape, processes)).encode(), digest_size=4)
        name = f"{run}-{layout.hexdigest()}"
        self._run = pathlib.Path(config.local_directory).absolute() / name
        self.folder, self._mesh = self._run / f"process-{jax.process_index()}", mesh
        self._manager = self._open()

    def latest_step(self) -> int | None:
        """Returns the newest step of which the processes together hold every part."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, left_out: int):
        """Starts to save; returns as soon as the state is copied. left_out: the number of batches
        that rollbacks left out so far."""
        left_out = jax.device_put(np.int32(left_out), replicated(self._mesh))
        tree = _by_path(state) | {_LEFT_OUT: left_out}
        args = p2p_args.Composite(**{_ITEM: ocp.args.PyTreeSave(tree)})
        self._manager.save(step, args=args)

    def restore(self, step: int, abstract: Any, left_out: int) -> Any | None:
        """Returns the state of a step; None if some process cannot read it, or if other batches
        were left out on the way to it. All processes must call this."""
        wanted = _by_path(abstract)
        wanted[_LEFT_OUT] = jax.ShapeDtypeStruct((), np.int32, sharding=replicated(self._mesh))
        args = p2p_args.Composite(**{_ITEM: ocp.args.PyTreeRestore(wanted)})
        try:
            saved = self._manager.restore(step, args)[_ITEM]
            if int(saved.pop(_LEFT_OUT)) != left_out:
                saved = None
        except Exception:  # orbax and tensorstore raise all kinds on damaged or missing files
            saved = None
        if not hosts.on_all(saved is not None):
            return None
        leaves = [saved[name] for name in _by_path(abstract)]
        return jax.tree.unflatten(jax.tree.structure(abstract), leaves)

    def forget(self):
        """Deletes all saves. All processes must call this."""
        self._manager.close()
        shutil.rmtree(self.folder)
        self._manager = self._open()

    def wait(self):
        self._manager.wait_until_finished()

    def close(self, delete: bool = False):
        self._manager.close()
        if delete:
            shutil.rmtree(self.folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # another process of this machine uses it
                self._run.rmdir()

    def _open(self) -> CheckpointManager:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be made ({error.strerror}); give another "
                "--config.checkpoint.local_directory"
            ) from None
        for path in self.folder.iterdir():  # left by a process that was killed
            if not path.name.isdigit():
                shutil.rmtree(path, ignore_errors=True)
        every = options.LocalCheckpointOptions(save_interval_steps=1, max_to_keep=1)
        return CheckpointManager(
            self._mesh, None, self.folder, options=options.CheckpointManagerOptions(local=every)
        )


def check_local_saves(config: CheckpointConfig, mesh: Mesh):
    """Raises UserError if these processes cannot save to disks of their own."""
    where = f"config.checkpoint.local_directory={config.local_directory}"
    if jax.process_count() == 1:
        raise UserError(f"{where} is for several processes; in one, lower config.checkpoint.every")
    if not _peers_hold_the_same(mesh):
        raise UserError(
            f"{where}: processes at the same place of different indices of mesh.data hold "
            "different parts of the state here; let mesh.fsdp x mesh.tensor be a multiple or a "
            "divisor of the devices of a process"
        )


def _peers_hold_the_same(mesh: Mesh) -> bool:
    """Returns whether the processes that Orbax takes for peers (the n-th of each index of `data`)
    hold the same parts."""
    rows = mesh.devices.reshape(mesh.devices.shape[0], -1)
    parts: dict[int, set[int]] = {}
    place: dict[int, int] = {}
    for row in rows:
        order = list(dict.fromkeys(device.process_index for device in row))
        for column, device in enumerate(row):
            parts.setdefault(device.process_index, set()).add(column)
            place[device.process_index] = order.index(device.process_index)
    held: dict[int, set[frozenset[int]]] = {}
    for process, columns in parts.items():
        held.setdefault(place[process], set()).add(frozenset(columns))
    return all(len(kinds) == 1 for kinds in held.values())


def _by_path(state: Any) -> dict[str, Any]:
    """Returns the leaves of a state by path, without slashes, at which Orbax would split."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {path_string(path).replace("/", "."): leaf for path, leaf in leaves}
