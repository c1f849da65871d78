"""The attention kernel for the devices of a mesh."""

from collections.abc import Callable

import jax
from jax.sharding import AbstractMesh

from dlms_jax.config import Config, traits_of
from dlms_jax.errors import UserError
from dlms_jax.models.attention import Visibility, attend
from dlms_jax.models.spans import Spans
from dlms_jax.models.splash import LONGEST_DOUBLED, TILE, splash, splash_fits
from dlms_jax.parallel.attention import over_mesh
from dlms_jax.parallel.mesh import SEQUENCE_AXIS, AnyMesh, batch_shards, places_axis

_BY_PLATFORM = {"tpu": "splash", "gpu": "cudnn"}


def make_attend(config: Config, mesh: AnyMesh) -> Callable:
    """Returns the attention function (q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, visibility) -> y_BxLxHxK.

    Raises:
      UserError: the model or the mesh does not support the kernel that the config names.
    """
    kernel = attention_kernel(config, mesh)
    return _splash_over(mesh) if kernel == "splash" else {"cudnn": _cudnn, "xla": attend}[kernel]


def attention_kernel(config: Config, mesh: AnyMesh) -> str:
    """Returns the name of the attention kernel: "xla", "splash" or "cudnn".

    It is config.model.attention. With "auto" it is the kernel of the devices, or "xla" if the model
    or the mesh does not support that.

    Raises:
      UserError: the model or the mesh does not support the kernel that the config names.
    """
    asked = config.model.attention
    kernel = _BY_PLATFORM.get(_platform(mesh), "xla") if asked == "auto" else asked
    misfit = {"splash": _splash_misfit, "cudnn": _cudnn_misfit}.get(kernel, lambda *_: None)
    if (why := misfit(config, mesh)) is None:
        return kernel
    if asked == "auto":
        return "xla"
    raise UserError(f"config.model.attention={asked} {why}, or use auto or xla")


def _platform(mesh: AnyMesh) -> str:
    """Returns the platform of a mesh; an AbstractMesh, which has no devices, counts as TPU."""
    return "tpu" if isinstance(mesh, AbstractMesh) else mesh.devices.flat[0].platform


def _splash_misfit(config: Config, mesh: AnyMesh) -> str | None:
    """Returns why the rows of training do not fit JAX's TPU kernel, with a remedy, or None."""
    length, copies = config.data.sequence_length, traits_of(config).copies
    if config.model.name == "unet":
        return "does not support the short levels of a U-Net; use config.model.name=transformer"
    here = length * copies // mesh.shape[SEQUENCE_AXIS]
    if here % TILE:
        return (
            f"needs a multiple of {TILE} positions on each device, not {here}; change "
            f"config.data.sequence_length={length} or config.mesh.sequence"
        )
    if copies == 2 and 2 * length > LONGEST_DOUBLED:
        return (
            f"supports rows of at most {LONGEST_DOUBLED // 2} positions in block diffusion; change "
            f"config.data.sequence_length={length}"
        )
    return _heads_misfit(config, mesh)


def _heads_misfit(config: Config, mesh: AnyMesh) -> str | None:
    if config.model.kv_heads % mesh.shape["tensor"]:
        return (
            f"splits heads over the mesh, but config.model.num_kv_heads={config.model.kv_heads} is "
            f"not a multiple of config.mesh.tensor={mesh.shape['tensor']}; change either"
        )
    return None


def _cudnn_misfit(config: Config, mesh: AnyMesh) -> str | None:
    """Returns why a model does not fit cuDNN's kernel, with a remedy, or None."""
    model, length = config.model, config.data.sequence_length
    device = None if isinstance(mesh, AbstractMesh) else mesh.devices.flat[0]
    if device is None or device.platform != "gpu" or not _is_ampere(device):
        return "is for NVIDIA GPUs of compute capability 8.0 (Ampere) or later; use one"
    if model.dtype != "bfloat16":
        return f"computes in bfloat16; change config.model.dtype={model.dtype}"
    if model.per_head % 8 or model.per_head > 128:
        return (
            f"needs a head size that is a multiple of 8 up to 128, not {model.per_head}; change "
            "config.model.head_size"
        )
    if length % 2:
        return f"trains only on rows of even length; change config.data.sequence_length={length}"
    if mesh.shape[SEQUENCE_AXIS] > 1:
        return f"does not split rows; change config.mesh.sequence={mesh.shape[SEQUENCE_AXIS]}"
    return _heads_misfit(config, mesh)


def _is_ampere(gpu) -> bool:
    """Returns whether a GPU has CUDA compute capability 8.0 or later (AMD's is a name: gfx90a)."""
    try:
        return float(gpu.compute_capability) >= 8.0
    except ValueError:
        return False


def _cudnn(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, visibility: Visibility) -> jax.Array:
    """Returns the result of `attend`, by cuDNN if both lengths are even.

    cuDNN's backward pass needs even lengths; samplers and the levels of a U-Net may have odd ones.
    """
    even = q_BxLxHxK.shape[1] % 2 == 0 and k_BxSxGxK.shape[1] % 2 == 0
    return attend(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, visibility, "cudnn" if even else "xla")


def _splash_over(mesh: AnyMesh) -> Callable:
    """Returns a function like `attend` that uses the splash kernel if the inputs fit it.

    The number of rows must divide over the mesh and the lengths must be multiples of TILE. Samplers
    often pass fewer tokens or rows; these use `attend`.
    """
    interpret = _platform(mesh) != "tpu"

    def kernel(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, of_queries, k_segments_BxS):
        q_segments_BxL, stop_BxL, start_BxL = of_queries
        spans = Spans(q_segments_BxL, k_segments_BxS, stop_BxL, start_BxL)
        return splash(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, spans, interpret)

    on_mesh = over_mesh(kernel, mesh)

    def run(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, visibility: Visibility):
        rows, queries = q_BxLxHxK.shape[:2]
        here = queries // (mesh.shape[SEQUENCE_AXIS] if places_axis(mesh, queries) else 1)
        fits = splash_fits(here, k_BxSxGxK.shape[1]) and rows % batch_shards(mesh) == 0
        spans = visibility.spans
        if spans is None or not fits:
            return attend(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, visibility)
        of_queries = spans.q_segments_BxL, spans.stop_BxL, spans.start_BxL
        return on_mesh(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, of_queries, spans.k_segments_BxS)

    return run
