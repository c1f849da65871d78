"""docs/features.md: which features work with which objectives and networks.

Each cell is found by the program's own checks: python tests/feature_table.py > docs/features.md
"""

from collections.abc import Callable
import functools
import sys
from typing import Any, NamedTuple

import conftest  # noqa: F401 (8 fake devices)
import jax
import numpy as np

from dlms_jax.config import Config
from dlms_jax.conversion.formats import FORMATS, check_format
from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.denoiser import make_network, vocabulary_of
from dlms_jax.diffusion import Objective, make_batch, make_objective
from dlms_jax.errors import UserError
from dlms_jax.parallel.mesh import make_mesh
from dlms_jax.sampling import SAMPLERS, make_canvas, make_sampler, settings_of
from dlms_jax.testing import small_config

OBJECTIVES = ("masked", "uniform", "gaussian", "block", "autoregressive")
NETWORKS = {
    "T": {},
    "E": {"model__experts": 4, "model__experts_per_token": 2},
    "U": {"model__name": "unet", "model__unet_levels": 2},
}
TOKENIZER = ByteTokenizer()
CLASSES = {"data__mixture": {"python-docs": 1.0, "synthetic": 1.0}, "model__classes": 2}

Check = Callable[[Config, Objective], Any]


def trains(config: Config, objective: Objective):
    """Builds the network on the config's mesh."""
    make_network(config, objective.vocabulary.padded_size, _mesh(config.mesh))


@functools.cache
def _mesh(config):
    return make_mesh(config, jax.devices()[:2])


def samples(config: Config, objective: Objective, piece: str = ""):
    """Builds the sampler, and asks it for its steps on a canvas with holes before the text."""
    sampler = make_sampler(config.objective.name, objective, config.sampling)
    canvas = make_canvas([["a", 2, piece]], TOKENIZER, config.data.sequence_length)
    sampler.num_steps(canvas)


def reads(setting: str) -> Check:
    """Returns a check that the sampler reads a setting of config.sampling."""

    def check(config, objective):
        if setting not in settings_of(config.objective.name, config.sampling):
            raise UserError(f"{setting} plays no part")

    return check


def is_exact(config, objective):
    if not objective.traits.exact:
        raise UserError("the likelihood is bounded, not computed")


def is_bounded(config, objective):
    if objective.traits.exact:
        raise UserError("the likelihood is computed, not bounded")


def masks_on_request(config, objective):
    zeros_1x4, ones_1x4 = np.zeros((1, 4), np.int32), np.ones((1, 4), np.int32)
    scored_1x4 = np.arange(4)[None] > 0
    batch = make_batch(zeros_1x4, ones_1x4, np.arange(4)[None], scored_1x4, np.arange(1))
    objective.corrupt_with(batch, scored_1x4)


class Feature(NamedTuple):
    """A row of the table: what is changed in the config, and the check that it must pass."""

    name: str
    settings: dict[str, Any] = {}
    check: Check = trains


TRAINING = [
    Feature("pre-training"),
    Feature("one output for the next position (`objective.shift`)", {"objective__shift": True}),
    Feature("attention annealing (`objective.anneal_steps`)", {"objective__anneal_steps": 10}),
    Feature("random context (`objective.random_context`)", {"objective__random_context": 0.5}),
    Feature(
        "time conditioning (`model.conditioning=film`, `adaln_zero`)",
        {"model__conditioning": "film"},
    ),
    Feature("classes (`model.classes`)", {"model__conditioning": "adaln_zero"} | CLASSES),
    Feature(
        "prompt encoder (`model.prompt_encoder=cross_attention`)",
        {"model__prompt_encoder": "cross_attention"},
    ),
    Feature("tied embeddings (`model.tie_embeddings`)", {"model__tie_embeddings": True}),
    Feature("quantised matmuls (`model.quantization`)", {"model__quantization": "int8"}),
    Feature("offloaded activations (`model.remat=offload`)", {"model__remat": "offload"}),
    Feature("expert choice (`model.routing=expert_choice`)", {"model__routing": "expert_choice"}),
    Feature("weights split over devices (`mesh.fsdp`)", {"mesh__data": 1, "mesh__fsdp": 2}),
    Feature("tensor parallelism (`mesh.tensor`)", {"mesh__data": 1, "mesh__tensor": 2}),
    Feature("rows split over devices (`mesh.sequence`)", {"mesh__data": 1, "mesh__sequence": 2}),
    Feature("experts split over devices (`mesh.expert`)", {"mesh__data": 1, "mesh__expert": 2}),
]
SAMPLING = [
    Feature("text after a prompt", check=samples),
    Feature("infilling", check=functools.partial(samples, piece="b")),
    Feature("guidance (`sampling.guidance`)", {"sampling__guidance": 1.0}, reads("guidance")),
    Feature("keys and values are cached (`sampling.cache`)", check=reads("cache")),
    Feature("`sampling.steps`, `sampling.timestep_spacing`", check=reads("steps")),
    Feature("`sampling.clamp`", check=reads("clamp")),
    *(
        Feature(f"`{name}`", {"sampling__sampler": name, "sampling__eta": 0.5}, samples)
        for name in dict.fromkeys(name for names in SAMPLERS.values() for name in names)
    ),
]
EVALUATION = [
    Feature("exact likelihood", check=is_exact),
    Feature("upper bound on -log p", check=is_bounded),
    Feature("corruption with given masks (`corrupt_with`)", check=masks_on_request),
]


# What each format asks of settings that are not in the table.
PUBLISHED = {
    "llada": {"model__qk_norm": False},
    "dream": {"model__qk_norm": False, "model__qkv_bias": True, "objective__shift": True},
}


def _export(name: str) -> Feature:
    def check(config, objective):
        try:
            check_format(name, config, TOKENIZER)
        except UserError as error:
            if "the mask to be" not in str(error):  # of the tokenizer, which is not in the table
                raise

    return Feature(f"`{name}`", PUBLISHED.get(name, {}), check)


SECTIONS = {
    "Training": TRAINING,
    "Sampling": SAMPLING,
    "Evaluation": EVALUATION,
    "Export formats (`convert --layout`)": [_export(name) for name in FORMATS],
}

_PAGE = """\
# What works with what

A cell names the networks that a feature works with, for one objective: T is the Transformer, E the
Transformer with experts, U the U-Net. Every other combination is refused with one line that names
the setting. The table is generated from these checks by `python tests/feature_table.py`, and a test
compares the two.
"""


def config_of(objective: str, network: str, feature: Feature) -> Config:
    """Returns a config with a feature. Raises UserError where settings do not fit one another."""
    base = {"objective__name": objective, "data__sequence_length": 16} | NETWORKS[network]
    return small_config(**base | feature.settings)


def refusal(objective: str, network: str, feature: Feature) -> str | None:
    """Returns why a combination is refused; None where it works."""
    try:
        for wanted in (Feature("the network itself"), feature):
            config = config_of(objective, network, wanted)
            wanted.check(config, make_objective(config, vocabulary_of(TOKENIZER)))
    except UserError as error:
        return str(error)
    return None


def page() -> str:
    """Returns docs/features.md."""
    parts = [_PAGE]
    for title, features in SECTIONS.items():
        lines = [f"## {title}\n", f"| | {' | '.join(OBJECTIVES)} |", "|-" * 6 + "|"]
        for feature in features:
            cells = [_cell(objective, feature) for objective in OBJECTIVES]
            lines.append(f"| {feature.name} | {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _cell(objective: str, feature: Feature) -> str:
    return " ".join(n for n in NETWORKS if refusal(objective, n, feature) is None) or "-"


if __name__ == "__main__":
    sys.stdout.write(page())
