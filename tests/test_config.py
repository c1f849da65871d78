"""Settings: what a recipe or command line says is what the run gets, or one clear line."""

import dataclasses
import json
import math
import pathlib
import typing

import ml_collections
import numpy as np
import pytest

from dlms_jax import main as command
from dlms_jax.config import (
    SETTINGS,
    Config,
    OptimizerConfig,
    changed_settings,
    default_config,
    from_dict,
    load_config,
)
from dlms_jax.config.describe import settings_help, settings_page
from dlms_jax.denoiser import abstract_params
from dlms_jax.errors import UserError

LEAVES = {key: setting.type for key, setting in SETTINGS.items()}
NUMBERS = [key for key, hint in LEAVES.items() if hint in (int, float)]
FLOATS = [key for key, hint in LEAVES.items() if hint is float]


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe whose get_config() is the given lines, and returns its path."""

    def write(*body: str) -> str:
        lines = body or ("return c",)
        path = tmp_path / "recipe.py"
        path.write_text(
            "from dlms_jax.config import Config, default_config\n\n\ndef get_config():\n"
            "    c = default_config()\n" + "".join(f"    {line}\n" for line in lines)
        )
        return str(path)

    return write


def nested(key: str, value) -> dict:
    """Returns {"section": {"leaf": value}} of "section.leaf"."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def get(config: Config, key: str):
    value = config.to_dict()
    for part in key.split("."):
        value = value[part]
    return value


# What a value of another setting must be beside, or what another value of it is.
_NEEDED = {
    "objective.mask_share": {"objective.name": "uniform"},
    "mesh.expert": {"model.experts": 4},
    "model.routing": {"model.experts": 4},
    "model.classes": {
        "model.conditioning": "film", "data.mixture": {"a": 1.0, "b": 1.0},
    },
    "model.unet_attention_levels": {"model.unet_levels": 4},
    "gaussian.parameterisation": {"gaussian.head": "embedding"},
    "checkpoint.local_directory": {"checkpoint.local_every": 2},
    "checkpoint.local_every": {"checkpoint.local_directory": "disk"},
}  # fmt: skip


def another_value(key: str):
    """Returns a valid value of a setting that is not its default; None where it has one only."""
    hint, value = LEAVES[key], get(Config(), key)
    if typing.get_origin(hint) is typing.Literal:
        return next((choice for choice in typing.get_args(hint) if choice != value), None)
    if hint is bool:
        return not value
    if hint is str:
        return value + "x"
    if key == "training.spike_factor":
        return 3.0  # at most 1 would skip every other step
    if hint is float:
        return value / 2 or 0.5
    if key == "block.curriculum":
        return {"0": 1.0, "100": 8.0}
    if typing.get_origin(hint) is dict:
        return {"python-docs": 0.7, "my/texts": 0.3}
    if typing.get_origin(hint) is tuple:
        return ("<|a|>", "<|b|>")
    return 2 if value in (0, -1) else 2 * value


def refused(settings) -> str:
    """Returns the one line with which from_dict refuses settings."""
    with pytest.raises(UserError) as error:
        from_dict(settings)
    text = str(error.value)
    assert text and "\n" not in text
    return text


# Overrides from the command line


@pytest.mark.parametrize("key", [key for key in LEAVES if another_value(key) is not None])
def test_each_setting_can_be_overridden_alone(key, recipe):
    value = another_value(key)
    texts = {
        k: json.dumps(v) if isinstance(v, dict | tuple) else str(v)
        for k, v in (_NEEDED.get(key, {}) | {key: value}).items()
    }
    config = load_config(recipe(), texts)
    changed = [
        change
        for change in changed_settings(Config(), config)
        if change[0] not in _NEEDED.get(key, {})
    ]
    assert changed == [(key, get(Config(), key), value)]
    assert type(get(config, key)) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("training.steps", "1_000_000", 1_000_000),
        ("mesh.data", "-1", -1),
        ("optimizer.peak_learning_rate", "3e-4", 3e-4),
        ("optimizer.peak_learning_rate", "1", 1.0),
        ("model.rope_theta", "1_000_000.0", 1e6),
        ("model.qk_norm", "false", False),
        ("model.qk_norm", "False", False),
        ("model.qk_norm", "0", False),
        ("model.qk_norm", "no", False),
        ("model.tie_embeddings", "TRUE", True),
        ("model.tie_embeddings", "1", True),
        ("model.tie_embeddings", "yes", True),
        ("objective.name", "autoregressive", "autoregressive"),
        ("data.corpus", "my_corpus_1.txt", "my_corpus_1.txt"),  # no number: keeps its _
        ("sampling.prompt", "a = b, 'c'", "a = b, 'c'"),
        ("sampling.prompt", "", ""),
        ("name", "true", "true"),
        ("name", "123", "123"),
        ("data.mixture", '{"a/b.c": 1}', {"a/b.c": 1.0}),
        ("tokenizer.special_tokens", "[]", ()),
    ],
)
def test_override_is_read_by_the_settings_type(key, text, value, recipe):
    read = get(load_config(recipe(), {key: text}), key)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "hint"),
    [
        ("training.steps", "1.5", "a whole number"),
        ("training.steps", "1e3", "a whole number"),
        ("training.steps", "", "a whole number"),
        ("training.steps", "many", "a whole number"),
        ("optimizer.b1", "high", "a number"),
        ("optimizer.b1", "0,9", "a number"),
        ("model.qk_norm", "maybe", "true or false"),
        ("model.qk_norm", "", "true or false"),
        ("objective.name", "mask", "masked, uniform, gaussian, block, autoregressive"),
        ("objective.name", "Masked", "masked, uniform, gaussian, block, autoregressive"),
    ],
)
def test_override_of_a_wrong_type(key, text, hint, recipe):
    with pytest.raises(UserError) as error:
        load_config(recipe(), {key: text})
    assert str(error.value).startswith(f"config.{key}=") and hint in str(error.value)


def test_overrides_win_over_the_recipe_and_leave_the_rest(recipe):
    path = recipe("c.model.width = 64", "c.model.num_heads = 4", "return c")
    config = load_config(path, {"model.width": "32"})
    assert (config.model.width, config.model.num_heads) == (32, 4)


# Misspelt keys and sections


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("model.widht", "model.width"),
        ("optimizer.learning_rate", "optimizer.peak_learning_rate"),
        ("optimiser.b1", "optimizer.b1"),
        ("training.batchsize", "training.batch_size"),
        ("trainig.seed", "training.seed"),
        ("objective.nam", "objective.name"),
        ("model.width.x", "model.width"),
    ],
)
def test_misspelt_key_names_the_nearest(key, meant, recipe):
    with pytest.raises(UserError) as error:
        load_config(recipe(), {key: "1"})
    assert str(error.value) == f"unknown setting config.{key}; did you mean config.{meant}?"


@pytest.mark.parametrize("key", [key for key in LEAVES if len(key.partition(".")[2]) > 3])
def test_a_key_with_a_letter_missing_names_the_key(key):
    section, _, leaf = key.partition(".")
    misspelt = f"{section}.{leaf[:1]}{leaf[2:]}"
    assert refused(nested(misspelt, 1)).endswith(f"did you mean config.{key}?")


def test_misspelt_key_in_a_recipe(recipe):
    with pytest.raises(UserError, match=r"config.model.widht; .* config.model.width\?"):
        load_config(recipe("c.model.widht = 64", "return c"))


def test_section_set_as_a_value(recipe):
    with pytest.raises(UserError, match="config.model is a section") as error:
        load_config(recipe(), {"model": "transformer"})
    assert "model.width" in str(error.value)
    assert "config.model is a section" in refused({"model": 3})
    assert "config.model is a section" in refused({"model": None})


def test_section_misspelt():
    assert "unknown setting config.optimzer; did you mean config.optimizer" in refused(
        {"optimzer": {"b1": 0.5}}
    )


def test_dotted_key_in_a_dict():
    """{"model.width": 64} looks right, as the command line has it so, but is no nesting."""
    assert "model.width" in refused({"model.width": 64})


@pytest.mark.parametrize(
    ("key", "text", "new"),
    [
        ("model.matmuls", "dtype", "model.quantization=none"),
        ("model.matmuls", "int8", "model.quantization=int8"),
        ("model.source", "concatenation", "model.prompt_encoder=none"),
        ("training.hang_minutes", "5", "training.watchdog_minutes=5"),
        ("sampling.rounding", "true", "sampling.clamp=true"),
    ],
)
def test_an_old_name_gives_the_new_one(key, text, new, recipe):
    with pytest.raises(UserError) as error:
        load_config(recipe(), {key: text})
    name = new.partition("=")[0]
    assert str(error.value) == f"config.{key} is now config.{name}; write config.{new}"
    with pytest.raises(UserError, match=f"config.{key} is now config.{name}"):
        load_config(recipe(f"c.{key} = {text!r}", "return c"))


# Types


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.width", 128.0),
        ("model.width", "128"),
        ("model.width", True),
        ("model.width", None),
        ("optimizer.b1", "0.9"),
        ("optimizer.b1", True),
        ("optimizer.b1", [0.9]),
        ("model.qk_norm", 1),
        ("model.qk_norm", "true"),
        ("data.corpus", 5),
        ("objective.name", "gauss"),
        ("objective.name", 0),
        ("objective.name", ["masked"]),
    ],
)
def test_wrong_type(key, value):
    text = refused(nested(key, value))
    assert text.startswith(f"config.{key}={value!r} should be") or "is not one of" in text


def test_an_int_passes_for_a_float():
    theta = from_dict(nested("model.rope_theta", 500)).model.rope_theta
    assert theta == 500.0 and type(theta) is float


@pytest.mark.parametrize(
    "line", ["c.model.width = 128.5", "c.model.width = 'wide'", "c.model = 3", "c.model = None"]
)
def test_wrong_type_in_a_recipe(line, recipe):
    """ml_collections has its own say on types, with a traceback."""
    with pytest.raises(UserError, match="config.model"):
        load_config(recipe(line, "return c"))


# Sizes and ranges


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"model": {"width": 100, "num_heads": 3}}, "model.width=100 model.num_heads=3"),
        (
            {"model": {"num_heads": 12, "num_kv_heads": 5}},
            "model.num_heads=12 model.num_kv_heads=5",
        ),
        ({"model": {"num_heads": 4, "num_kv_heads": 8}}, "model.num_heads=4 model.num_kv_heads=8"),
        ({"model": {"width": 36, "num_heads": 4}}, "model.head_size=9"),
        ({"model": {"head_size": 33}}, "model.head_size=33"),
        (
            {"training": {"batch_size": 10, "accumulation_steps": 4}},
            "training.batch_size=10 training.accumulation_steps=4",
        ),
        ({"model": {"name": "unet"}, "objective": {"name": "block"}}, "model.name=unet"),
        ({"model": {"name": "unet"}, "objective": {"name": "autoregressive"}}, "model.name=unet"),
        (
            {"model": {"prompt_encoder": "cross_attention"}, "objective": {"name": "block"}},
            "model.prompt_encoder=cross_attention",
        ),
        (
            {"model": {"prompt_encoder": "cross_attention", "name": "unet"}},
            "model.prompt_encoder=cross_attention",
        ),
        ({"model": {"name": "unet", "remat": "offload"}}, "model.remat=offload"),
        ({"model": {"name": "unet", "quantization": "int8"}}, "model.quantization=int8"),
        ({"model": {"experts": 4, "quantization": "fp8"}}, "model.quantization=fp8"),
        ({"model": {"classes": 2, "conditioning": "film"}}, "model.classes=2"),
        (
            {"model": {"classes": 2}, "data": {"mixture": {"a": 1.0, "b": 1.0}}},
            "model.classes=2 model.conditioning=film",
        ),
        (
            {"model": {"tie_embeddings": True}, "objective": {"name": "gaussian"}},
            "model.tie_embeddings",
        ),
        (
            {"model": {"unet_levels": 2, "unet_attention_levels": 3}},
            "model.unet_attention_levels=3 model.unet_levels=2",
        ),
        ({"objective": {"schedule": "warped"}}, "objective.schedule=warped"),
        (
            {"objective": {"name": "gaussian", "schedule": "polynomial"}},
            "objective.schedule=polynomial",
        ),
        ({"objective": {"mask_share": 0.5}}, "objective.mask_share=0.5"),
        ({"objective": {"shift": True, "name": "block"}}, "objective.shift"),
        ({"objective": {"shift": True, "name": "autoregressive"}}, "objective.shift"),
        (
            {"objective": {"anneal_steps": 9, "name": "autoregressive"}},
            "objective.anneal_steps=9 objective.name=autoregressive",
        ),
        (
            {"objective": {"anneal_steps": 9}, "model": {"name": "unet"}},
            "objective.anneal_steps=9 model.name=unet",
        ),
        (
            {"objective": {"anneal_steps": 9}, "model": {"prompt_encoder": "cross_attention"}},
            "objective.anneal_steps=9 model.prompt_encoder=cross_attention",
        ),
        ({"gaussian": {"gamma_min": 7.0}}, "gaussian.gamma_min=7.0 gaussian.gamma_max=6.0"),
        ({"gaussian": {"parameterisation": "v"}}, "gaussian.parameterisation=v"),
        ({"block": {"curriculum": {"0": 1.5}}}, "block.curriculum"),
        ({"block": {"curriculum": {"soon": 4}}}, "block.curriculum"),
        ({"sampling": {"top_p": 0.0}}, "sampling.top_p=0.0"),
        ({"sampling": {"eta": 1.5}}, "sampling.eta=1.5"),
        ({"data": {"sequence_length": 1}}, "data.sequence_length=1"),
        ({"data": {"heldout_fraction": 0.0}}, "data.heldout_fraction=0.0"),
        ({"data": {"heldout_fraction": 1.0}}, "data.heldout_fraction=1.0"),
        ({"training": {"ema_decay": 1.0}}, "training.ema_decay=1.0"),
        ({"objective": {"schedule_power": 0.0}}, "objective.schedule_power=0.0"),
        ({"training": {"batch_size": 0}}, "training.batch_size=0"),
        ({"mesh": {"fsdp": 0}}, "mesh.fsdp=0"),
        ({"mesh": {"data": 0, "fsdp": -1}}, "mesh.data=0"),
        ({"optimizer": {"b1": 1.0}}, "optimizer.b1=1.0"),
        ({"optimizer": {"b2": 1.0}}, "optimizer.b2=1.0"),
        ({"model": {"rope_theta": 0.0}}, "model.rope_theta=0.0"),
        ({"training": {"seed": 2**63}}, "training.seed="),  # JAX takes no such key
    ],
)
def test_settings_that_no_run_could_use(settings, names):
    text = refused(settings)
    for name in names.split():
        assert f"config.{name}" in text


def test_sizes_that_do_fit():
    """The checks must not refuse what works: own head size, grouped queries, accumulation."""
    from_dict({"model": {"width": 100, "num_heads": 3, "head_size": 32}})
    from_dict({"model": {"num_heads": 12, "num_kv_heads": 1}})
    from_dict({"training": {"batch_size": 12, "accumulation_steps": 4}})
    from_dict({"data": {"sequence_length": 2}, "optimizer": {"warmup_steps": 0, "clip_norm": 0.0}})
    from_dict({"mesh": {"data": 2, "fsdp": -1}, "checkpoint": {"keep_best": 0}})
    from_dict({"sampling": {"temperature": 0.0}, "optimizer": {"weight_decay": 0.0, "b1": 0.0}})


@pytest.mark.parametrize("key", FLOATS)
def test_numbers_are_finite(key):
    for value in (float("nan"), float("inf"), float("-inf")):
        assert f"config.{key}={value}" in refused(nested(key, value))


@pytest.mark.parametrize("key", [key for key in NUMBERS if "gamma" not in key])
def test_numbers_are_not_negative(key):
    """No setting but a log has a use for -2 (-1 is 'the rest' on a mesh axis)."""
    value = LEAVES[key](-2)
    assert f"config.{key}={value}" in refused(nested(key, value))


@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_may_have_every_value_of_its_range(key):
    """The limits themselves, where they belong to it, and what is beside them."""
    setting = SETTINGS[key]
    limits = setting.range
    for limit, opened, beyond in (
        (limits.low, limits.low_open, -1), (limits.high, limits.high_open, 1)
    ):  # fmt: skip
        if math.isinf(limit):
            continue
        value = setting.type(limit)
        outside = value if opened else value + beyond
        with pytest.raises(UserError, match=f"config.{key}="):
            setting.check(outside)
        inside = value if not opened else value - beyond * 1e-6
        assert setting.check(inside) == inside
    if limits.also is not None:
        assert setting.check(setting.type(limits.also)) == limits.also


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer.final_fraction", 7.0),  # shares
        ("optimizer.decay_fraction", 3.0),
        ("data.seed", 2**32),
        ("evaluation.seed", -1),
        ("training.spike_factor", 0.5),
        ("mesh.fsdp", -2),
        ("data.mixture", {"a": 0.0}),
        ("block.curriculum", {"0": 0}),
    ],
)
def test_values_out_of_range(key, value):
    assert f"config.{key}" in refused(nested(key, value))


def test_numbers_of_numpy_become_pythons():
    config = from_dict({"training": {"seed": np.int64(3)}, "optimizer": {"b1": np.float32(0.5)}})
    assert type(config.training.seed) is int and config.training.seed == 3
    assert type(config.optimizer.b1) is float and config.optimizer.b1 == 0.5


def test_checks_hold_for_a_config_made_by_hand():
    with pytest.raises(UserError, match="optimizer.warmup_steps"):
        Config(optimizer=OptimizerConfig(warmup_steps=-1))
    with pytest.raises(UserError, match="optimizer.warmup_steps"):
        dataclasses.replace(Config(), optimizer=OptimizerConfig(warmup_steps=-1))


def test_derived_sizes():
    model = from_dict({"model": {"width": 768, "num_heads": 12}}).model
    assert (model.kv_heads, model.per_head, model.hidden) == (12, 64, 2048)
    model = from_dict({"model": {"num_kv_heads": 4, "head_size": 80, "feed_forward": 100}}).model
    assert (model.kv_heads, model.per_head, model.hidden) == (4, 80, 100)


# Recipes


def test_missing_recipe(tmp_path):
    for path in (tmp_path / "no.py", tmp_path):
        with pytest.raises(UserError, match="no such file") as error:
            load_config(str(path))
        assert str(path) in str(error.value)


def test_recipe_without_get_config(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text("config = {}\n")
    with pytest.raises(UserError, match=r"get_config\(\)"):
        load_config(str(path))


def test_recipe_that_returns_nothing(recipe):
    """A forgotten `return c`."""
    with pytest.raises(UserError, match="get_config"):
        load_config(recipe("c.model.width = 96"))


@pytest.mark.parametrize("line", ["return c", "return c.to_dict()", "return Config()", "return {}"])
def test_recipe_may_return_any_form_of_config(line, recipe):
    assert load_config(recipe(line)) == Config()
    assert load_config(recipe(line), {"optimizer.b1": "0.5"}).optimizer.b1 == 0.5


def test_override_of_a_section_that_the_recipe_leaves_out(recipe):
    config = load_config(recipe("return {'model': {'width': 96}}"), {"optimizer.b1": "0.5"})
    assert (config.model.width, config.optimizer.b1) == (96, 0.5)


def test_override_in_a_section_that_the_recipe_set_as_a_value(recipe):
    with pytest.raises(UserError, match="config.model is a section"):
        load_config(recipe("return {'model': 3}"), {"model.width": "96"})


# Forms of a config


def test_round_trips():
    settings = {"model": {"width": 96, "dtype": "float32"}, "name": "x", "optimizer": {"b1": 0.5}}
    config = from_dict(settings)
    assert from_dict(config.to_dict()) == config
    assert from_dict(json.loads(json.dumps(config.to_dict()))) == config  # as a checkpoint keeps it
    assert from_dict(ml_collections.ConfigDict(settings)) == config
    assert from_dict(ml_collections.FrozenConfigDict(settings)) == config
    assert from_dict(config) is config
    assert from_dict(default_config()) == Config() == from_dict({})


def test_changed_settings():
    before = from_dict({"model": {"width": 96}})
    now = from_dict({"model": {"width": 192}, "name": "other"})
    assert changed_settings(before, now) == [("name", "base", "other"), ("model.width", 96, 192)]
    assert changed_settings(now, before) == [("name", "other", "base"), ("model.width", 192, 96)]
    assert changed_settings(now, from_dict(now.to_dict())) == []


# What is known of each setting


def test_each_setting_has_a_meaning():
    meanings = [setting.meaning for setting in SETTINGS.values()]
    assert all(m.startswith("gamma") or m[0].isupper() for m in meanings)
    assert all(m.endswith(".") and len(m) < 300 for m in meanings)
    assert len(set(meanings)) == len(meanings)


def test_defaults_are_in_their_ranges():
    for setting in SETTINGS.values():
        assert setting.check(setting.default) == setting.default


def test_what_shapes_or_reads_the_weights_is_fixed_for_a_run():
    for key, setting in SETTINGS.items():
        assert not (setting.changeable and (setting.shapes or setting.computes)), key


def test_help_and_page_have_each_setting():
    page = (pathlib.Path(__file__).parents[1] / "docs/settings.md").read_text(encoding="utf-8")
    assert page == settings_page(), "run: python -m dlms_jax.config > docs/settings.md"
    shown = " ".join(settings_help().split())
    for key, setting in SETTINGS.items():
        assert f"--config.{key}=" in shown and setting.meaning in shown and setting.meaning in page


# The networks whose parameters a setting may shape: the first whose name begins its key.
_NETWORKS = {
    "objective.shift": {},
    "objective.mask_share": {"objective.name": "uniform"},
    "objective.schedule": {"objective.name": "gaussian", "objective.schedule": "learned"},
    "objective.": {"objective.name": "gaussian"},
    "gaussian.": {"objective.name": "gaussian"},
    "block.": {"objective.name": "block"},
    "model.unet_": {"model.name": "unet"},
    "model.expert": {"model.experts": 4},
    "model.routing": {"model.experts": 4},
    "model.conditioning_size": {"model.conditioning": "film"},
    "model.prompt_encoder_layers": {"model.prompt_encoder": "cross_attention"},
    "": {},
}
_TINY = {
    "model.width": 8, "model.num_layers": 2, "model.num_heads": 2, "model.feed_forward": 16,
    "model.scan_layers": False,
}  # fmt: skip
_NOT_DOUBLED = {"model.width": 16, "model.num_layers": 3, "model.num_heads": 4,
                "model.num_kv_heads": 1}  # fmt: skip


def parameter_shapes(settings: dict) -> str:
    sections = {}
    for key, value in settings.items():
        section, _, leaf = key.partition(".")
        sections.setdefault(section, {})[leaf] = value
    return str(abstract_params(from_dict(sections), 384))


@pytest.mark.parametrize(
    "key", [key for key in LEAVES if key.startswith(("objective", "gaussian", "block", "model"))]
)
def test_shapes_says_whether_a_setting_decides_the_parameters(key):
    """A warm start names by it what to set, and blames another version where nothing is left."""
    network = next(v for k, v in _NETWORKS.items() if key.startswith(k))
    before = _TINY | network | _NEEDED.get(key, {})
    now = before | {key: _NOT_DOUBLED.get(key, another_value(key))}
    assert (parameter_shapes(before) != parameter_shapes(now)) == bool(SETTINGS[key].shapes)


# The command line


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config.model.widht=64"],
        ["--config.model.width", "wide"],
        ["--config.model.width"],
        ["--config.model.width", "--config.model.num_heads=2"],
        ["--model.width=64"],
        ["runs/tiny"],
        ["--config.training.batch_size=0"],
    ],
)
def test_wrong_arguments_end_with_status_2_and_one_line(arguments, recipe, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([f"--config={recipe()}", *arguments])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and not out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config.model.width=96", "--config.name=a=b"],
        ["--config.model.width", "96", "--config.name", "a=b"],
    ],
)
def test_settings_of_the_command_line_are_read(arguments):
    assert command.read_overrides(arguments) == {"model.width": "96", "name": "a=b"}


def test_negative_number_as_a_word_of_its_own():
    assert command.read_overrides(["--config.mesh.data", "-1"]) == {"mesh.data": "-1"}


@pytest.mark.parametrize("source", ["def get_config(:", "import nothing_of_that_name", "1 / 0"])
def test_a_recipe_that_fails_is_one_line(tmp_path, source):
    (tmp_path / "recipe.py").write_text(source)
    with pytest.raises(UserError, match=r"recipe.py: \w+Error: ") as error:
        load_config(str(tmp_path / "recipe.py"))
    assert "\n" not in str(error.value)
