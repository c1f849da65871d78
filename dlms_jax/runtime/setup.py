"""What a run is made of: built once, and checked before anything is written or compiled."""

import dataclasses
import math
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh

from dlms_jax.checkpoints.checkpoint import newest_readable, versions
from dlms_jax.config import Config
from dlms_jax.data.feed.dataset import Dataset, build_dataset
from dlms_jax.data.feed.loader import TrainBatches, train_batches
from dlms_jax.denoiser import vocabulary_of
from dlms_jax.errors import UserError, optional_import
from dlms_jax.parallel import hardware, hosts
from dlms_jax.parallel.mesh import check_rows, local_rows, make_mesh
from dlms_jax.runtime.checkpoint_manager import check_resumable
from dlms_jax.runtime.determinism import check_deterministic
from dlms_jax.runtime.local_saves import check_local_saves
from dlms_jax.runtime.same_run import check_same_run
from dlms_jax.training.assembly import Assembly, assemble
from dlms_jax.training.first_weights import check_embeddings
from dlms_jax.training.warm_start import Start, check_fits, find_start


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run before its first step.

    Attributes:
      mesh: the device mesh.
      workdir: the run's folder.
      metadata: what is saved beside the arrays of its checkpoints.
      dataset: the text, split and packed.
      batches: which rows form the batch of each step.
      assembly: objective, network, optimizer and state.
      start: the checkpoint whose weights it starts from; None if they are random, or if the run
        resumes.
      done: the step of the checkpoint that it resumes from; 0 if it is new.
    """

    mesh: Mesh
    workdir: pathlib.Path
    metadata: dict[str, Any]
    dataset: Dataset
    batches: TrainBatches
    assembly: Assembly
    start: Start | None
    done: int

    @property
    def config(self) -> Config:
        return self.assembly.config


def set_up(config: Config, workdir: pathlib.Path) -> Setup:
    """Returns a run of a config in a workdir, which may hold checkpoints of it.

    Raises:
      UserError: the devices, the data, the checkpoint to start from or the run in the workdir do
        not fit the config.
    """
    hardware.check_backend()
    mesh = make_mesh(config.mesh)
    _check_devices(config, mesh)
    check_resumable(workdir)
    saved = newest_readable(workdir)
    start = None if saved else find_start(config, workdir)
    origin = start.checkpoint if start else saved  # its tokenizer is the run's
    if config.training.start_from and origin:
        config = dataclasses.replace(config, tokenizer=origin.config.tokenizer)
    if saved:
        check_same_run(config, saved.metadata, workdir)
    dataset = build_dataset(config, origin.tokenizer if origin else None)
    metadata = _metadata(config, dataset, start, saved.metadata if saved else {})
    if saved and saved.metadata["data"] != metadata["data"]:
        raise UserError(
            f"{_text_of(config)} is not what the run in {workdir} was trained on (its fingerprint "
            "differs; another Python or changed files?); use another --workdir"
        )
    batches = train_batches(dataset, config, local_rows(mesh, config.training.batch_size))
    _check_epochs(batches, dataset, config)
    assembly = assemble(config, vocabulary_of(dataset.tokenizer), mesh)
    if start:
        check_fits(start, assembly.state.params, config)
    check_embeddings(assembly.network)
    _check_state(assembly)
    done = saved.step if saved else 0
    return Setup(mesh, workdir, metadata, dataset, batches, assembly, start, done)


def _check_devices(config: Config, mesh: Mesh):
    """Raises UserError for what these devices and libraries cannot train."""
    training = config.training
    if training.deterministic:
        check_deterministic()
    if config.model.quantization != "none":
        optional_import("qwix", "quant")
    check_rows(mesh, training.batch_size // training.accumulation_steps, "training.batch_size")
    rows = training.batch_size // jax.process_count()
    hardware.check_memory(
        16 * rows * config.data.sequence_length,
        f"the rows of config.training.batch_size={training.batch_size}",
        "lower it",
    )
    if config.checkpoint.local_directory:
        check_local_saves(config.checkpoint, mesh)


def _check_state(assembly: Assembly):
    """Raises UserError if a device has no memory for its part of the state."""
    leaves = jax.tree.leaves(assembly.state)
    parts = [math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves]
    shared = jax.local_device_count() if jax.default_backend() == "cpu" else 1
    hardware.check_memory(
        sum(parts) * shared,
        "the weights and the optimizer's state of this model",
        "use a smaller config.model, or more devices with config.mesh.fsdp",
    )


def _metadata(
    config: Config, dataset: Dataset, start: Start | None, saved: dict[str, Any]
) -> dict[str, Any]:
    """Returns the metadata of a run's checkpoints; saved: that of the checkpoint it resumes."""
    metadata = {
        "config": config.to_dict(),
        "tokenizer": dataset.tokenizer.to_dict(),
        "data": {
            "train": [split.fingerprint for split in dataset.train],
            "heldout": dataset.heldout.fingerprint,
        },
        "chat_template": dataset.chat_template,
        "versions": versions(),
    }
    if config.checkpoint.local_directory:
        metadata["run"] = saved.get("run") or f"{hosts.random_number():08x}"
    if origin := start.origin() if start else saved.get("start_from"):
        metadata["start_from"] = origin
    return metadata


def _check_epochs(batches: TrainBatches, dataset: Dataset, config: Config):
    """Raises UserError if the steps see a corpus more often than config.data.max_epochs allows."""
    epochs = batches.epochs(config.training.steps)
    for seen, split in zip(epochs, dataset.train, strict=True):
        if config.data.max_epochs and seen > config.data.max_epochs:
            raise UserError(
                f"{config.training.steps} steps see the {split.name} {seen:.2f} times; "
                f"config.data.max_epochs={config.data.max_epochs}: take fewer config.training.steps"
            )


def _text_of(config: Config) -> str:
    mixture = config.data.mixture
    return f"the mixture of {', '.join(mixture)}" if mixture else f"the corpus {config.data.corpus}"
