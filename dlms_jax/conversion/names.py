"""The PyTorch names of the parameters: one table over the paths of the parameter tree.

Names are Qwen3's if Qwen3 has that part; the others keep our own, under `model.`. A PyTorch matrix
is the transpose of a kernel. A parameter under `layers` holds all layers: in PyTorch it is one
tensor per layer, and {n} in its name stands for the layer's number. A parameter of experts is one
tensor per layer and expert, and {e} stands for the expert's number.
"""

from collections.abc import Iterator
import dataclasses
import itertools
import math
import re

import jax

from dlms_jax.config import Config
from dlms_jax.denoiser import abstract_params
from dlms_jax.models import gaussian_of
from dlms_jax.parallel.rules import path_string

# The first pattern that matches applies; the rest of the path stays as it is.
_RENAMED = (
    (r"^embed/embedding$", "embed_tokens/kernel"),
    (r"^lm_head/", "/lm_head/"),  # the only part outside model.
    (r"^final_norm/", "norm/"),
    (r"^layers/attn_norm/", "layers/{n}/input_layernorm/"),
    (r"^layers/mlp_norm/", "layers/{n}/post_attention_layernorm/"),
    (r"^layers/attn/", "layers/{n}/self_attn/"),
    (r"^layers/mlp/experts/", "layers/{n}/mlp/experts/{e}/"),
    (r"^layers/", "layers/{n}/"),
    (r"^source_layers/attn_norm/", "source_layers/{n}/input_layernorm/"),
    (r"^source_layers/mlp_norm/", "source_layers/{n}/post_attention_layernorm/"),
    (r"^source_layers/attn/", "source_layers/{n}/self_attn/"),
    (r"^source_layers/", "source_layers/{n}/"),
    (r"^(down|up)_(\d+)_(\d+)/", r"unet/\1/\2/\3/"),
    (r"^(shorten|lengthen)_(\d+)/", r"unet/\1/\2/"),
    (r"^mid/", "unet/mid/"),
)
_LEAVES = {"kernel": "weight", "scale": "weight"}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A parameter of the tree, and the tensor or tensors that hold it in PyTorch.

    Attributes:
      path: its path in the tree, such as "layers/attn/q_proj/kernel".
      name: its PyTorch name, such as "model.layers.{n}.self_attn.q_proj.weight".
      stack: the leading axes of the parameter, one tensor for each index: (), (layers,) or
        (layers, experts).
      shape: the shape of one tensor, in PyTorch's order.
      transposed: whether that order is the reverse of the parameter's.
      vocabulary: whether the tensor has one row for each symbol of the vocabulary.
    """

    path: str
    name: str
    stack: tuple[int, ...]
    shape: tuple[int, ...]
    transposed: bool
    vocabulary: bool

    def names(self) -> list[str]:
        """Returns the name of each of its tensors, in the order of the leading axes."""
        indices = itertools.product(*map(range, self.stack))
        return [self.name.format(**dict(zip("ne", index, strict=False))) for index in indices]

    @property
    def size(self) -> int:
        """The number of elements of all its tensors together."""
        return math.prod(self.stack) * math.prod(self.shape)


def tensors_of(config: Config, rows: int) -> Iterator[Tensor]:
    """Yields the Tensor of each parameter of a config's network, in the order of the tree.

    Args:
      config: the config of the run.
      rows: the padded size of the vocabulary.
    """
    gaussian = gaussian_of(config)
    vocabulary = {"embed/embedding", "embed/table"}
    if gaussian is None or gaussian.head == "logits":
        vocabulary.add("lm_head/kernel")
    for keys, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(config, rows)):
        path = path_string(keys)
        name, transposed = torch_name(path), path.endswith("/kernel")
        stacked = name.count("{")
        stack, shape = leaf.shape[:stacked], leaf.shape[stacked:]
        if transposed:
            shape = shape[::-1]
        yield Tensor(path, name, stack, shape, transposed, path in vocabulary)


def torch_name(path: str) -> str:
    """Returns the PyTorch name of a parameter, with {n} for its layer and {e} for its expert."""
    for pattern, replacement in _RENAMED:
        renamed = re.sub(pattern, replacement, path)
        if renamed != path:
            path = renamed
            break
    *parts, leaf = path.split("/")
    parts = [part for part in parts if part] if path.startswith("/") else ["model", *parts]
    return ".".join([*parts, _LEAVES.get(leaf, leaf)])
