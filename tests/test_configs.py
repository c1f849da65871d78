"""Every recipe parses, says what it must, and builds at full size (abstractly)."""

import ast
import pathlib

import jax
import pytest

from dlms_jax.config import load_config
from dlms_jax.models import count_parameters
from dlms_jax.parallel.mesh import make_mesh
from dlms_jax.training.denoiser import make_model
from dlms_jax.training.optimizer import make_optimizer
from dlms_jax.training.state import abstract_state

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
PARAMETERS = {
    "tiny": 902_784,
    "small": 13_768_320,
    "base": 97_538_304,
    "medium": 398_512_128,
    "large": 1_732_895_744,
}


def test_every_recipe_is_tested():
    assert {path.stem for path in CONFIGS.glob("*.py")} == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_recipe_builds_at_full_size(name):
    config = load_config(CONFIGS / f"{name}.py")
    assert config.name == name
    size = 260 if config.tokenizer.name == "bytes" else config.tokenizer.vocab_size
    rows = -(-size // 128) * 128
    mesh = make_mesh(config.mesh)
    model = make_model(config, rows, mesh)
    tx = make_optimizer(config.optimizer, config.training.steps)
    state = abstract_state(config, model, tx, mesh)
    assert sum(x.size for x in jax.tree.leaves(state.params)) == PARAMETERS[name]
    assert count_parameters(config.model, rows) == PARAMETERS[name]
    layers = state.params["layers"]["mlp"]["up_proj"]["kernel"]
    assert layers.shape == (config.model.num_layers, config.model.width, config.model.hidden)


@pytest.mark.parametrize("name", PARAMETERS)
def test_docstring_says_what_a_reader_needs(name):
    text = ast.get_docstring(ast.parse((CONFIGS / f"{name}.py").read_text()))
    for heading in ("Reproduces:", "Command:", "Hardware:", "Hours:", "Expected:", "Budget:"):
        assert heading in text, heading
    assert f"--config=configs/{name}.py --workdir=runs/{name}" in text


def test_the_papers_model_is_the_papers():
    config = load_config(CONFIGS / "large.py")
    m = config.model
    assert (m.num_layers, m.width, m.num_heads, m.hidden) == (28, 2048, 16, 6144)
    assert m.qk_norm and not m.tie_embeddings and not m.qkv_bias
    assert (config.data.sequence_length, config.training.batch_size) == (2048, 256)


def test_base_is_the_single_device_recipe():
    c = load_config(CONFIGS / "base.py")
    assert (c.training.batch_size, c.data.sequence_length, c.model.width) == (64, 512, 768)
    assert (c.optimizer.name, c.optimizer.peak_learning_rate) == ("adamw", 2e-4)
    assert (c.optimizer.schedule, c.training.steps, c.checkpoint.every) == ("cosine", 200_000, 5000)
