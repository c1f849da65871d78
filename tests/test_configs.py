"""Every recipe parses, says what it must, and builds at full size (abstractly)."""

import ast
import pathlib

import jax
import pytest

from dlms_jax.config import load_config
from dlms_jax.diffusion import schedule_size
from dlms_jax.models import count_parameters
from dlms_jax.parallel.mesh import make_mesh
from dlms_jax.planning.program import vocabulary_from
from dlms_jax.training.assembly import assemble

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
PARAMETERS = {
    "tiny": 902_784,
    "adapt": 902_784,
    "small": 13_768_320,
    "base": 97_538_304,
    "medium": 398_512_128,
    "large": 1_732_895_744,
    "xl_8b": 8_190_735_360,
    "moe": 7_859_707_904,
    "gaussian_base": 126_516_096,
    "family/masked": 1_066_624,
    "family/uniform": 1_228_800,
    "family/gaussian": 1_138_882,
    "family/unet_gaussian": 1_156_290,
    "family/block4": 1_066_624,
    "family/block16": 1_066_624,
    "family/autoregressive": 1_066_624,
}


def test_every_recipe_is_tested():
    recipes = {path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.py")}
    assert {path.with_suffix("").as_posix() for path in recipes} == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_recipe_builds_at_full_size(name):
    config = load_config(CONFIGS / f"{name}.py")
    assert config.name == name.replace("/", "-")
    vocabulary = vocabulary_from(config)
    rows, state = vocabulary.padded_size, assemble(config, vocabulary, make_mesh(config.mesh)).state
    assert sum(x.size for x in jax.tree.leaves(state.params)) == PARAMETERS[name]
    assert count_parameters(config, rows, schedule_size(config)) == PARAMETERS[name]
    if config.model.name == "transformer" and not config.model.experts:
        layers = state.params["layers"]["mlp"]["up_proj"]["kernel"]
        assert layers.shape == (config.model.num_layers, config.model.width, config.model.hidden)


@pytest.mark.parametrize("name", PARAMETERS)
def test_docstring_says_what_a_reader_needs(name):
    text = ast.get_docstring(ast.parse((CONFIGS / f"{name}.py").read_text()))
    text = text.replace("\\\n" + " " * 16, "")
    for heading in ("Reproduces:", "Command:", "Hardware:", "Hours:", "Expected:", "Budget:"):
        assert heading in text, heading
    assert f"--config=configs/{name}.py --workdir=runs/{name.replace('/', '-')}" in text


def test_the_papers_model_is_the_papers():
    config = load_config(CONFIGS / "large.py")
    m = config.model
    assert (m.num_layers, m.width, m.num_heads, m.hidden) == (28, 2048, 16, 6144)
    assert m.qk_norm and not m.tie_embeddings and not m.qkv_bias
    assert (config.data.sequence_length, config.training.batch_size) == (2048, 256)


def test_the_experts_are_of_the_papers_setting():
    """8B parameters, 1B active, a billion unique tokens for 96 epochs."""
    config = load_config(CONFIGS / "moe.py")
    active = count_parameters(config, 50_304, active=True)
    assert round(PARAMETERS["moe"] / 1e9) == 8 and round(active / 1e9) == 1
    training = config.training
    tokens = training.steps * training.batch_size * config.data.sequence_length
    assert round(tokens / config.data.max_unique_tokens) == 96


def test_base_is_the_single_device_recipe():
    c = load_config(CONFIGS / "base.py")
    assert (c.training.batch_size, c.data.sequence_length, c.model.width) == (64, 512, 768)
    assert (c.optimizer.name, c.optimizer.peak_learning_rate) == ("adamw", 2e-4)
    assert (c.optimizer.schedule, c.training.steps, c.checkpoint.every) == ("cosine", 200_000, 5000)


def test_the_seed_of_the_project_is_its_recipe():
    c = load_config(CONFIGS / "gaussian_base.py")
    assert (c.objective.name, c.objective.schedule, c.model.name) == ("gaussian", "cosine", "unet")
    assert (c.gaussian.loss, c.model.conditioning) == ("score_matching", "film")
    assert c.objective.prompt_drop > 0
    assert (c.training.batch_size, c.data.sequence_length) == (64, 512)
    assert (c.optimizer.name, c.optimizer.peak_learning_rate) == ("adamw", 2e-4)
    assert c.training.steps == 200_000


def test_the_family_differs_in_the_process_only():
    """The same text, tokens, optimizer and budget."""
    members = [load_config(path) for path in (CONFIGS / "family").glob("*.py")]
    for section in ("data", "tokenizer", "optimizer", "training"):
        assert len({str(getattr(c, section)) for c in members}) == 1, section
