"""Every parameter of every network has a rule of its rank, and large parameters are split."""

import jax
import numpy as np
import pytest

from dlms_jax.config import GaussianConfig, MeshConfig, ModelConfig
from dlms_jax.denoiser import initial_params
from dlms_jax.models import Transformer
from dlms_jax.models.unet import UNet
from dlms_jax.parallel.mesh import make_mesh
from dlms_jax.parallel.rules import largest_mesh, path_string, shardings, spec_of

EVERYTHING = dict(
    width=32,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    feed_forward=48,
    qkv_bias=True,
    conditioning="adaln_zero",
    conditioning_size=10,
    classes=2,
    unet_levels=2,
    unet_blocks=1,
    prompt_encoder_layers=1,
)
NETWORKS = {
    "transformer": (Transformer, {"prompt_encoder": "cross_attention"}, None),
    "transformer, gaussian": (Transformer, {}, GaussianConfig(embedding_size=16)),
    "transformer, vectors": (Transformer, {}, GaussianConfig(embedding_size=16, head="embedding")),
    "unet": (UNet, {"name": "unet"}, None),
    "unet, gaussian": (UNet, {"name": "unet"}, GaussianConfig(embedding_size=16)),
}


def parameters(name):
    """Returns {path: abstract array} of a network."""
    network, settings, gaussian = NETWORKS[name]
    config = ModelConfig(**EVERYTHING | settings)
    model = network(config, 128, gaussian=gaussian, schedule_size=5 if gaussian else 0)
    tree = jax.eval_shape(lambda: initial_params(model, jax.random.key(0)))
    return {path_string(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_has_a_rule_of_its_rank(name):
    """Matrices and tables are split over all 8 devices (fsdp 4, tensor 2). The narrow side of the
    conditioning (10) and the layer axis (3), which 4 does not divide, are not split."""
    mesh = make_mesh(MeshConfig(1, 4, 2))
    params = parameters(name)
    for path, sharding in shardings(params, mesh).items():
        leaf, spec = params[path], spec_of(path)
        assert len(spec) <= leaf.ndim, path
        split = leaf.size // np.prod(sharding.shard_shape(leaf.shape), dtype=int)
        if "modulation" in path:
            assert split == (4 if path.endswith("kernel") else 1), path
        elif path.startswith("conditioning"):
            assert split == 1, path
        elif leaf.ndim > 1 and path.endswith(("kernel", "table", "embedding")):
            assert split == 8, path
        if path.startswith(("layers", "source_layers")):
            assert not spec or spec[0] is None, path


def test_the_first_of_two_matmuls_is_split_by_columns_and_the_second_by_rows():
    """Over `tensor`, so that no communication is needed between the two (arXiv 1909.08053)."""
    params = parameters("transformer") | parameters("unet")
    for path, leaf in params.items():
        if path.endswith(("q_proj/kernel", "k_proj/kernel", "v_proj/kernel", "up_proj/kernel")):
            assert spec_of(path)[leaf.ndim - 1] == "tensor", path
        if path.endswith(("o_proj/kernel", "down_proj/kernel")):
            assert spec_of(path)[leaf.ndim - 2] == "tensor", path


@pytest.mark.parametrize(
    ("size", "most", "number"), [(48, 8, 8), (12, 8, 4), (6, 8, 2), (9, 8, 1), (9, 6, 3)]
)
def test_largest_mesh_has_as_many_devices_as_sizes_divide_by(size, most, number):
    shapes = {"embed": {"in_proj": {"kernel": jax.ShapeDtypeStruct((size, 16), "float32")}}}
    assert largest_mesh(shapes, most).shape["fsdp"] == number
