"""What the parameters are called in PyTorch: one table, from the paths of the parameter tree.

Names are Qwen3's where Qwen3 has the part; the rest keep our own, under `model.`. A PyTorch matrix
is the transpose of a kernel. A path under `layers` holds all layers at once: it is one tensor a
layer, whose name has the layer's number in place of {n}; one of experts has one a layer and expert,
whose number stands in place of {e}.
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

_RENAMED = (  # the first that matches; then what is left of a path keeps its parts
    (r"^embed/embedding$", "embed_tokens/kernel"),
    (r"^lm_head/", "/lm_head/"),  # the one part that is not under model.
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
    """A parameter of the tree, and the tensors that it is in PyTorch.

    path: "layers/attn/q_proj/kernel". name: "model.layers.{n}.self_attn.q_proj.weight". stack:
    the parameter's first axes, which number its tensors: none, (layers,), (layers, experts).
    shape: of one tensor, in PyTorch's order. transposed: whether that is the reverse of the
    parameter's. vocabulary: whether the first axis of the tensor has a row for each symbol.
    """

    path: str
    name: str
    stack: tuple[int, ...]
    shape: tuple[int, ...]
    transposed: bool
    vocabulary: bool

    def names(self) -> list[str]:
        """Returns the name of each of its tensors, in the parameter's order."""
        places = itertools.product(*map(range, self.stack))
        return [self.name.format(**dict(zip("ne", place, strict=False))) for place in places]

    @property
    def size(self) -> int:
        """Returns how many numbers all of its tensors have."""
        return math.prod(self.stack) * math.prod(self.shape)


def tensors_of(config: Config, rows: int) -> Iterator[Tensor]:
    """Yields the Tensor of each parameter of a config's network, whose vocabulary has `rows` rows,
    in the tree's order."""
    gaussian = gaussian_of(config)
    vocabulary = {"embed/embedding", "embed/table"}
    if gaussian is None or gaussian.head == "logits":
        vocabulary.add("lm_head/kernel")
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(config, rows)):
        path = path_string(path)
        name, transposed = torch_name(path), path.endswith("/kernel")
        stacked = name.count("{")
        stack, shape = leaf.shape[:stacked], leaf.shape[stacked:]
        yield Tensor(
            path, name, stack, shape[::-1] if transposed else shape, transposed, path in vocabulary
        )


def torch_name(path: str) -> str:
    """Returns the PyTorch name of a parameter, {n} for the number of its layer, {e} for that of its
    expert."""
    for pattern, replacement in _RENAMED:
        renamed = re.sub(pattern, replacement, path)
        if renamed != path:
            path = renamed
            break
    *parts, leaf = path.split("/")
    parts = [part for part in parts if part] if path.startswith("/") else ["model", *parts]
    return ".".join([*parts, _LEAVES.get(leaf, leaf)])
