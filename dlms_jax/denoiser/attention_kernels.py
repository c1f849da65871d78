"""Attention by what the devices of a mesh have for it."""

from collections.abc import Callable

import jax
from jax.sharding import AbstractMesh, Mesh

from dlms_jax.config import Config, traits_of
from dlms_jax.errors import UserError
from dlms_jax.models.attention import Visibility, attend
from dlms_jax.models.splash import LONGEST_DOUBLED, TILE, splash, splash_fits
from dlms_jax.parallel.attention import over_mesh
from dlms_jax.parallel.mesh import SEQUENCE_AXIS, batch_shards, places_axis

_BY_PLATFORM = {"tpu": "splash", "gpu": "cudnn"}


def make_attend(config: Config, mesh: Mesh) -> Callable:
    """Returns the function (q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, visibility) -> y_BxLxHxK."""
    kernel = attention_kernel(config, mesh)
    return _splash_over(mesh) if kernel == "splash" else {"cudnn": _cudnn, "xla": attend}[kernel]


def attention_kernel(config: Config, mesh: Mesh) -> str:
    """Returns xla, splash or cudnn: what config.model.attention names; of "auto", what the devices
    have, or xla where it does not fit. Raises UserError where what is named does not."""
    asked = config.model.attention
    kernel = _BY_PLATFORM.get(_platform(mesh), "xla") if asked == "auto" else asked
    misfit = {"splash": _splash_misfit, "cudnn": _cudnn_misfit}.get(kernel, lambda *_: None)
    if (why := misfit(config, mesh)) is None:
        return kernel
    if asked == "auto":
        return "xla"
    raise UserError(f"config.model.attention={asked} {why}, or use auto or xla")


def _platform(mesh: Mesh | AbstractMesh) -> str:
    """Returns what a mesh's devices are; a mesh without any is one of TPUs that is planned for."""
    return "tpu" if isinstance(mesh, AbstractMesh) else mesh.devices.flat[0].platform


def _splash_misfit(config: Config, mesh: Mesh) -> str | None:
    """Returns why the rows of training do not fit JAX's TPU kernel, and what would."""
    length, copies = config.data.sequence_length, traits_of(config).copies
    if config.model.name == "unet":
        return "takes no U-Net, whose levels are shorter than rows; leave it"
    here = length * copies // mesh.shape[SEQUENCE_AXIS]
    if here % TILE:
        return (
            f"takes multiples of {TILE} places, and a device holds {here} of a row; change "
            f"config.data.sequence_length={length} or config.mesh.sequence"
        )
    if copies == 2 and 2 * length > LONGEST_DOUBLED:
        return (
            f"takes rows of at most {LONGEST_DOUBLED // 2} places in block diffusion; change "
            f"config.data.sequence_length={length}"
        )
    return _heads_misfit(config, mesh)


def _heads_misfit(config: Config, mesh: Mesh) -> str | None:
    if config.model.kv_heads % mesh.shape["tensor"]:
        return (
            f"splits heads over config.mesh.tensor={mesh.shape['tensor']}, of which the "
            f"{config.model.kv_heads} of config.model.num_kv_heads are no multiple; change either"
        )
    return None


def _cudnn_misfit(config: Config, mesh: Mesh) -> str | None:
    """Returns why a model does not fit cuDNN's kernel, and what would."""
    model, length = config.model, config.data.sequence_length
    if _platform(mesh) != "gpu" or not _is_ampere(mesh.devices.flat[0]):
        return "is for NVIDIA GPUs from Ampere (8.0) on; use one"
    if model.dtype != "bfloat16":
        return f"computes in bfloat16; change config.model.dtype={model.dtype}"
    if model.per_head % 8 or model.per_head > 128:
        return (
            f"takes heads of a multiple of 8, up to 128, not of {model.per_head}; change "
            "config.model.head_size"
        )
    if length % 2:
        return f"learns from rows of even length; change config.data.sequence_length={length}"
    if mesh.shape[SEQUENCE_AXIS] > 1:
        return f"does not split rows; change config.mesh.sequence={mesh.shape[SEQUENCE_AXIS]}"
    return _heads_misfit(config, mesh)


def _is_ampere(gpu) -> bool:
    """Returns whether a GPU is NVIDIA's, of 8.0 or later; AMD's name theirs otherwise (gfx90a)."""
    try:
        return float(gpu.compute_capability) >= 8.0
    except ValueError:
        return False


def _cudnn(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, visibility: Visibility) -> jax.Array:
    """Returns what `attend` does, by cuDNN, whose backward pass takes even lengths only; those of
    samplers and of a U-Net's levels may be odd."""
    even = q_BxLxHxK.shape[1] % 2 == 0 and k_BxSxGxK.shape[1] % 2 == 0
    return attend(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, visibility, "cudnn" if even else "xla")


def _splash_over(mesh: Mesh) -> Callable:
    """Returns what does as `attend`, by the kernel where that can: rows that divide over the mesh,
    of lengths that it takes. A sampler's few tokens and rows often do not."""
    interpret = _platform(mesh) != "tpu"

    def kernel(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, of_queries, k_segments_BxS):
        spans = of_queries._replace(k_segments_BxS=k_segments_BxS)
        return splash(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, spans, interpret)

    on_mesh = over_mesh(kernel, mesh)

    def run(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, visibility: Visibility):
        rows, queries = q_BxLxHxK.shape[:2]
        here = queries // (mesh.shape[SEQUENCE_AXIS] if places_axis(mesh, queries) else 1)
        fits = splash_fits(here, k_BxSxGxK.shape[1]) and rows % batch_shards(mesh) == 0
        if visibility.spans is None or not fits:
            return attend(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, visibility)
        of_queries = visibility.spans._replace(k_segments_BxS=None)
        return on_mesh(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, of_queries, visibility.spans.k_segments_BxS)

    return run
