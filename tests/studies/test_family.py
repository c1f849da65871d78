"""The family study: equal time, runs that go on, ways to sample, tables that say what was found.

Training, models and clocks are replaced, but for one study from start to end.
"""

import csv
import dataclasses
import io
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from rich.console import Console

from dlms_jax import experiment
from dlms_jax.config import SamplingConfig, load_config
from dlms_jax.errors import UserError
from dlms_jax.runtime.metric_writer import COLUMNS
from dlms_jax.sampling import make_canvas
from dlms_jax.studies import FamilySettings, family, pace, run_family, tables
from dlms_jax.studies.family import ways_to_sample
from dlms_jax.testing import small_config

RECIPES = pathlib.Path(__file__).parents[2] / "configs" / "family"
SETTINGS = FamilySettings(minutes=1.0, steps=(4, 8), num=5)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of eighty short texts."""
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(80):
        (folder / f"{i}.txt").write_text(f"The number {i} is {i * i} when squared. " * (1 + i % 3))
    return str(folder)


@pytest.fixture
def recipes(corpus):
    shared = {"data__corpus": corpus, "data__heldout_fraction": 0.2}
    return {
        "block4": small_config(objective__name="block", block__size=4, **shared),
        "masked": small_config(**shared),
        "uniform": small_config(objective__name="uniform", **shared),
    }


class FakeModel:
    """A model that writes a fixed text, and moves the clock as it does."""

    def __init__(self, config, tokenizer, clock):
        self.config, self.tokenizer = config, tokenizer
        self.params = {"kernel": np.zeros((3, 4)), "scale": np.zeros(4)}
        self.clock, self.asked = clock, []

    def stream(self, rows, num, seed=0, **sampling):
        self.asked.append({"rows": rows, "num": num, "seed": seed, **sampling})
        first = not [ask for ask in self.asked[:-1] if ask["steps"] == sampling["steps"]]
        self.clock.now += 100 * first + 0.5 * num * sampling["steps"]
        canvas = make_canvas(rows * num, self.tokenizer, self.config.data.sequence_length)
        text = self.tokenizer.encode("The number 4 is 16 " * 9)[: canvas.holes_BxL[0].sum()]
        canvas.tokens_BxL[canvas.holes_BxL] = np.tile(text, num)
        yield canvas


class Bench:
    """A study whose training, models and clock are replaced. paces: seconds a step of recipes."""

    def __init__(self, recipes, workdir, monkeypatch):
        self.recipes, self.workdir = recipes, workdir
        self.paces = {"block4": 4.0, "masked": 2.0, "uniform": 2.5}
        self.bounds = {"block4": 2.0, "masked": 3.0, "uniform": 2.5}
        self.measured, self.trained, self.models = [], {}, {}
        self.now, self.killed_at, self.width = 0.0, None, 250
        self.draws, draw = False, tables.draw_figure  # a figure takes longer than all the rest
        monkeypatch.setattr(tables, "draw_figure", lambda *a: draw(*a) if self.draws else None)
        monkeypatch.setattr(family.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(pace, "seconds_per_step", self._measure)

    def run(self, only=None, settings=SETTINGS, out=None):
        self.printed = io.StringIO()
        console = Console(file=self.printed, width=self.width)
        return run_family(
            self.recipes, only or tuple(self.recipes), settings, self.workdir,
            out or self.workdir, self._train, self._load, console,
        )  # fmt: skip

    def _measure(self, configs, dataset):
        self.tokenizer = dataset.tokenizer
        self.measured += configs
        return {name: self.paces[name] for name in configs}

    def _train(self, workdir, config):
        if workdir.name == self.killed_at:
            raise KeyboardInterrupt
        self.trained[workdir.name] = config
        bits = self.bounds[workdir.name]
        lines = [",".join(COLUMNS)]
        for step, more in ((1, 1.0), (config.training.steps, 0.0)):
            values = {"step": step, "bits_per_byte": bits + more, "tokens_per_second": 512}
            lines.append(",".join(str(values.get(column, "")) for column in COLUMNS))
        (workdir / "metrics.csv").write_text("\n".join(lines) + "\n")
        return {"bits_per_byte": bits, "stderr": 0.01, "bound": 1.5 * bits}

    def _load(self, workdir):
        model = FakeModel(self.recipes[workdir.name], self.tokenizer, self)
        return self.models.setdefault(workdir.name, model)


@pytest.fixture
def bench(recipes, tmp_path, monkeypatch):
    return Bench(recipes, tmp_path / "study", monkeypatch)


# Time


def test_each_recipe_gets_an_equal_share_of_the_minutes(bench):
    bench.run()
    steps = {name: config.training.steps for name, config in bench.trained.items()}
    assert steps == {"block4": 5, "masked": 10, "uniform": 8}  # of 20 seconds each


def test_some_recipes_share_all_of_the_minutes(bench):
    bench.run(("block4", "masked"))
    assert {n: c.training.steps for n, c in bench.trained.items()} == {"block4": 8, "masked": 15}


def test_a_run_is_the_recipe_but_for_its_steps_and_how_often_it_looks(bench):
    bench.run(("masked",), dataclasses.replace(SETTINGS, minutes=10.0))
    config, recipe = bench.trained["masked"], bench.recipes["masked"]
    assert config.training.steps == 300
    assert (config.evaluation.every, config.checkpoint.every) == (25, 25)
    assert config.optimizer.warmup_steps == recipe.optimizer.warmup_steps == 2
    replaced = ("training", "evaluation", "checkpoint")
    assert dataclasses.replace(config, **{s: getattr(recipe, s) for s in replaced}) == recipe


def test_a_short_run_warms_up_in_a_tenth_of_its_steps(bench):
    bench.run(("masked",), dataclasses.replace(SETTINGS, minutes=0.5))
    assert bench.trained["masked"].optimizer.warmup_steps == 1  # of 15


def test_a_budget_below_a_step_is_one_step(bench):
    bench.run(settings=dataclasses.replace(SETTINGS, minutes=1e-6))
    assert all(config.training.steps == 1 for config in bench.trained.values())


def test_paces_are_measured_in_turns_after_a_warm_up(monkeypatch):
    ran = []

    class Stepper:
        def __init__(self, config, dataset):
            self.name = config

        def run(self, steps):
            ran.append(self.name)
            if ran.count(self.name) == 1:
                return 1e6  # it compiles
            # The machine slows down as time goes by.
            return len(ran) * steps * {"a": 1, "b": 2}[self.name]

    monkeypatch.setattr(pace, "_Stepper", Stepper)
    paces = pace.seconds_per_step({"a": "a", "b": "b"}, None)
    assert ran == ["a", "b"] * (len(ran) // 2)
    assert paces["b"] / paces["a"] == pytest.approx(2, rel=0.2) and paces["a"] < 1e3


# Going on


def test_a_study_that_was_killed_goes_on(bench):
    bench.killed_at = "masked"
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    assert list(bench.trained) == ["block4"]
    bench.killed_at, bench.trained = None, {}
    bench.paces = dict.fromkeys(bench.paces, 1e9)  # were they measured again, all would be 1 step
    bench.run()
    steps = {name: config.training.steps for name, config in bench.trained.items()}
    assert steps == {"masked": 10, "uniform": 8}
    assert sorted(bench.measured) == sorted(bench.recipes)


def test_a_finished_study_is_sampled_again_and_not_trained(bench):
    before = bench.run()
    bench.trained = {}
    after = bench.run(settings=dataclasses.replace(SETTINGS, temperature=0.5, num=3))
    assert not bench.trained and "already trained" in bench.printed.getvalue()
    assert [member[:-1] for member in before] == [member[:-1] for member in after]
    assert {len(drawn.samples) for member in after for drawn in member.drawn} == {3}
    assert {ask["temperature"] for ask in bench.models["masked"].asked} == {1.0, 0.5}


def test_another_budget_is_refused_with_the_one_that_goes_on(bench):
    bench.run()
    with pytest.raises(UserError, match="--minutes=1, or") as error:
        bench.run(settings=dataclasses.replace(SETTINGS, minutes=2.0))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="--minutes=0.333333, or"):
        bench.run(("masked",))
    assert bench.run(("masked",), dataclasses.replace(SETTINGS, minutes=0.333333))


@pytest.mark.parametrize(
    ("setting", "refused"),
    [("optimizer__peak_learning_rate", True), ("objective__random_context", True),
     ("sampling__top_k", False), ("evaluation__samples", False)],
)  # fmt: skip
def test_a_recipe_that_was_changed_is_refused_where_training_is(bench, corpus, setting, refused):
    bench.run(("masked",))
    changed = {"data__corpus": corpus, "data__heldout_fraction": 0.2, setting: 1}
    bench.recipes = {"masked": small_config(**changed)}
    if refused:
        with pytest.raises(UserError, match="another recipe .config." + setting.split("__")[0]):
            bench.run(("masked",))
    else:
        bench.run(("masked",))


def test_a_changed_sampler_is_used_though_the_checkpoint_has_another(bench, corpus):
    bench.run(("masked",))
    bench.recipes = {
        "masked": small_config(
            data__corpus=corpus, data__heldout_fraction=0.2, sampling__sampler="confidence"
        )
    }
    bench.run(("masked",))
    assert bench.models["masked"].asked[-1]["sampler"] == "confidence"


def test_a_run_of_something_else_is_not_taken_for_the_studys(bench):
    (bench.workdir / "masked").mkdir(parents=True)
    with pytest.raises(UserError, match="not created by this study"):
        bench.run()


def test_a_recipe_whose_folder_was_deleted_is_begun_anew(bench):
    bench.run()
    bench.trained, bench.paces = {}, {"masked": 1.0}
    shutil.rmtree(bench.workdir / "masked")
    bench.run()
    assert {n: c.training.steps for n, c in bench.trained.items()} == {"masked": 20}


def test_a_damaged_log_is_one_line(bench):
    bench.workdir.mkdir()
    (bench.workdir / "study.json").write_text("{")
    with pytest.raises(UserError, match="study.json cannot be read"):
        bench.run()


def test_recipes_of_other_text_are_refused(bench, corpus):
    bench.recipes["uniform"] = small_config(data__corpus=corpus, data__heldout_fraction=0.3)
    with pytest.raises(UserError, match="config.data.heldout_fraction is 0.2 in block4 and 0.3"):
        bench.run()


# Samples


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [(8, 8), (32, 32), (128, 128)]),
        ({"objective__name": "autoregressive"}, [(127, None)]),
        # 128 places with BOS, so 32 blocks of 4 and 8 of 16.
        ({"objective__name": "block", "block__size": 4}, [(32, 1), (128, 4)]),
        ({"objective__name": "block", "block__size": 16}, [(8, 1), (32, 4), (128, 16)]),
        ({"objective__name": "block", "block__size": 3}, [(86, 2)]),
        ({"objective__name": "block", "block__size": 1}, [(128, 1)]),
        ({"objective__name": "block", "block__size": 200}, [(8, 8), (32, 32), (128, 128)]),
        ({"sampling__sampler": "first_hitting"}, [(127, None)]),
    ],
)
def test_steps_are_those_of_all_blocks_together(settings, expected):
    ways = ways_to_sample(small_config(**settings), FamilySettings(1.0), 127)
    assert sorted((total, each.get("steps")) for total, each in ways) == sorted(expected)


def test_two_numbers_of_steps_that_are_one_are_sampled_once():
    config = small_config(objective__name="block", block__size=16)
    ways = ways_to_sample(config, FamilySettings(1.0, steps=(8, 9, 15, 16)), 127)
    assert [total for total, _ in ways] == [8, 16]


def test_the_recipes_own_sampler_is_used_and_its_temperature_is_not():
    config = small_config(sampling__sampler="confidence", sampling__top_p=0.9, sampling__prompt="A")
    ((_, sampling),) = ways_to_sample(config, FamilySettings(1.0, steps=(4,)), 31)
    assert sampling["sampler"] == "confidence" and sampling["top_p"] == 0.9
    assert sampling["temperature"] == 1.0 and not {"prompt", "length"} & set(sampling)
    assert set(sampling) < {field.name for field in dataclasses.fields(SamplingConfig)}


def test_seconds_are_of_the_second_batch_which_compiles_nothing(bench):
    (member,) = bench.run(("masked",))
    # 0.5 s a step and sample, and 100 s to compile each way to sample.
    assert [(d.steps, d.seconds) for d in member.drawn] == [(4, 2.0), (8, 4.0)]
    asked = bench.models["masked"].asked
    assert [(ask["num"], ask["seed"]) for ask in asked] == [(3, 0), (2, 1)] * 2
    assert all(ask["rows"] == [["", 31]] for ask in asked)
    assert all(len(d.samples) == 5 for d in member.drawn)


# What is written


def test_the_best_bound_comes_first(bench):
    assert [m.name for m in bench.run()] == ["block4", "uniform", "masked"]
    page = (bench.workdir / "table.md").read_text()
    assert page.index("| block4 |") < page.index("| uniform |") < page.index("| masked |")


def test_the_csv_has_a_row_for_each_way_of_sampling(bench):
    bench.run()
    with open(bench.workdir / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["sampling_steps"]) for row in rows] == [
        ("held-out text", ""), ("tokens by frequency", ""),
        ("block4", "8"), ("uniform", "4"), ("uniform", "8"), ("masked", "4"), ("masked", "8"),
    ]  # fmt: skip
    masked = rows[-1]
    assert set(masked) == {
        "name", "process", "parameters", "steps", "tokens", "step_seconds", "bits_per_byte",
        "stderr", "nats_per_token", "sampling_steps", "seconds_per_sample", "twin_bits_per_byte",
        "twin_nats_per_token", "entropy", "repetition", "distinct_1", "distinct_2", "distinct_3",
        "unigram_agreement", "bigram_agreement", "known_words", "sample_tokens",
    }  # fmt: skip
    expected = {"process": "masked, transformer", "parameters": 16, "steps": 10, "tokens": 2560,
                "step_seconds": 0.5, "bits_per_byte": 3.0, "stderr": 0.01, "nats_per_token": 4.5,
                "sampling_steps": 8, "seconds_per_sample": 4.0, "sample_tokens": 31.0}  # fmt: skip
    for column, value in expected.items():
        assert masked[column] == str(value), column
    assert 0.4 < float(masked["known_words"]) <= 1  # "The number 4 is 16"
    assert float(masked["entropy"]) > 2
    assert masked["twin_bits_per_byte"] == ""  # no autoregressive recipe
    text, frequency = rows[:2]
    assert float(text["bigram_agreement"]) > float(frequency["bigram_agreement"]) + 0.2
    assert text["bits_per_byte"] == text["seconds_per_sample"] == ""


def test_the_markdown_says_how_it_was_made(bench):
    bench.run()
    page = (bench.workdir / "table.md").read_text()
    assert "`python -m dlms_jax.experiment family --minutes 1`" in page
    assert "0.333 minutes of training each, on " in page and "temperature 1" in page
    for block in page.split("\n\n")[1:]:
        header, line, *rows = block.strip().split("\n")
        assert rows and {row.count("|") for row in (header, line, *rows)} == {header.count("|")}
    assert "3.000 +- 0.010" in page and "3.000 +- 0.010" in bench.printed.getvalue()


@pytest.mark.parametrize(("width", "borders"), [(60, False), (200, True)])
def test_no_cell_is_cut_on_a_narrow_terminal(bench, monkeypatch, width, borders):
    monkeypatch.setattr(bench, "width", width)
    bench.run(("masked",))
    printed = bench.printed.getvalue()
    assert ("━" in printed) == borders and "…" not in printed
    assert "3.000 +- 0.010" in printed and "held-out text" in printed


def test_a_model_that_cannot_be_sampled_in_so_few_steps_keeps_its_bound(bench):
    bench.run(("block4",), dataclasses.replace(SETTINGS, steps=(4,)))
    with open(bench.workdir / "table.csv", newline="") as file:
        *_, last = csv.DictReader(file)
    assert (last["name"], last["bits_per_byte"], last["sampling_steps"]) == ("block4", "2.0", "")


def test_samples_stand_beside_their_agreement_with_held_out_text(bench):
    bench.run(("masked",))
    page = (bench.workdir / "samples.md").read_text()
    part = page[page.index("## masked, 8 steps") :]
    assert "bigrams 0." in part and "known words" in part and "entropy" in part
    assert part.count("\n    The number 4 is 16 The number 4\n") == 3
    assert "## held-out text" in page and "## tokens by frequency" in page


def test_what_is_written_to_another_folder(bench, tmp_path):
    bench.draws = True
    bench.run(("masked",), out=tmp_path / "docs" / "family")
    written = sorted(path.name for path in (tmp_path / "docs" / "family").iterdir())
    assert written == ["family.png", "samples.md", "table.csv", "table.md"]
    assert (tmp_path / "docs/family/family.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert sorted(path.name for path in bench.workdir.iterdir()) == ["masked", "study.json"]


def test_a_folder_that_cannot_be_written_is_one_line(bench, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to .*file"):
        bench.run(("masked",), out=tmp_path / "file")


def test_the_curves_are_tokens_and_training_seconds(bench, monkeypatch):
    import matplotlib.figure

    figures = []
    save = matplotlib.figure.Figure.savefig

    def keep(figure, *arguments, **settings):
        figures.append(figure)
        save(figure, *arguments, **settings)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    bench.draws = True
    bench.run(("masked", "uniform"))
    lines = [{line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
              for line in axis.lines} for axis in figures[0].axes]  # fmt: skip
    # A step has 8 rows of 32 tokens, at 512 tokens a second.
    assert lines[0]["masked"] == ([256, 256 * 15], [4.0, 3.0])
    assert lines[1]["masked"] == ([0.5, 7.5], [4.0, 3.0])
    assert lines[1]["uniform"] == ([0.5, 6.0], [3.5, 2.5])


# The recipes


def test_the_recipes_differ_in_process_alone():
    """One size, one text, one budget; what a process needs of its own is not among these."""
    configs = {path.stem: load_config(path) for path in RECIPES.glob("*.py")}
    assert set(configs) == {
        "autoregressive", "block16", "block4", "gaussian", "masked", "uniform", "unet_gaussian"
    }  # fmt: skip
    for name, config in configs.items():
        assert config.name == f"family-{name}"
        for section in ("data", "tokenizer", "optimizer", "training", "evaluation", "checkpoint"):
            assert getattr(config, section) == getattr(configs["masked"], section), (name, section)
    transformers = [c.model for c in configs.values() if c.model.name == "transformer"]
    assert {dataclasses.replace(m, conditioning="none") for m in transformers} == {
        configs["masked"].model
    }
    assert {name: c.objective.name for name, c in configs.items()} == {
        name: {"block4": "block", "block16": "block", "unet_gaussian": "gaussian"}.get(name, name)
        for name in configs
    }
    assert (configs["block4"].block.size, configs["block16"].block.size) == (4, 16)
    assert configs["unet_gaussian"].model.name == "unet"


# The command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "0"], "--minutes=0 should be above 0"),
        (["--minutes", "nan"], "--minutes=nan"),
        (["--minutes", "5", "--num", "1"], "--num=1 should be at least 2"),
        (["--minutes", "5", "--steps", "8,,2"], "each of --steps= should be a whole number"),
        (["--minutes", "5", "--steps", "0"], "--steps=0"),
        (["--minutes", "5", "--temperature", "-1"], "--temperature=-1"),
        (
            ["--minutes", "5", "--only", "masked,blok4"],
            "unknown recipe 'blok4'; use autoregressive",
        ),
        (["--minutes", "5", "--only", ""], "unknown recipe ''; use"),
        (["--minutes", "5", "--recipes", "nowhere"], "nowhere has no recipe"),
    ],
)
def test_wrong_flags_end_with_status_2_and_one_line(arguments, message, tmp_path, capsys):
    arguments = ["family", "--workdir", str(tmp_path / "x"), "--recipes", str(RECIPES), *arguments]
    with pytest.raises(SystemExit) as ended:
        experiment.main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err and not out
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["family", "--help"]])
def test_help_shows_commands(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        experiment.main(arguments)
    assert ended.value.code == 0
    assert "python -m dlms_jax.experiment family --minutes 35" in capsys.readouterr().out


def test_wrong_flags_do_not_wait_for_jax():
    program = "import sys, dlms_jax.experiment; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


# From start to end


@pytest.fixture
def one_device_seen(monkeypatch):
    """Programs for one device compile faster than those for eight."""
    device = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: device)
    monkeypatch.setattr(jax, "device_count", lambda *_: 1)


def study(names, corpus, tmp_path, monkeypatch, *arguments) -> dict[str, list[dict[str, str]]]:
    """Returns the rows of table.csv, by name, of a study of recipes made small; nothing is fake."""
    monkeypatch.setattr(pace, "_ROUNDS", 1)
    monkeypatch.setattr(family, "_EVALUATIONS", 1)
    small = (
        "    c.model.width, c.model.num_layers, c.model.feed_forward = 32, 1, 64\n"
        "    c.model.num_heads, c.model.conditioning_size, c.gaussian.embedding_size = 2, 16, 16\n"
        f"    c.tokenizer.name, c.data.corpus, c.data.sequence_length = 'bytes', {corpus!r}, 32\n"
        "    c.data.heldout_fraction, c.training.batch_size, c.training.log_every = 0.2, 8, 1\n"
        "    c.evaluation.rows = c.evaluation.final_rows = c.evaluation.batch_size = 8\n"
        "    c.evaluation.samples, c.sampling.length, c.sampling.steps = 2, 8, 2\n"
    )
    folder = tmp_path / "recipes"
    folder.mkdir()
    for name in names:
        (folder / f"{name}.py").write_text(
            f"import runpy\n\ndef get_config():\n"
            f"    c = runpy.run_path({str(RECIPES / f'{name}.py')!r})['get_config']()\n{small}"
            "    return c\n"
        )
    experiment.main(["family", "--recipes", str(folder), "--workdir", str(tmp_path / "s"),
                     *arguments])  # fmt: skip
    log = json.loads((tmp_path / "s" / "study.json").read_text())
    assert set(log) == set(names)
    assert all(recipe["metrics"]["step"] == recipe["steps"] for recipe in log.values())
    rows = {}
    with open(tmp_path / "s" / "table.csv", newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["name"], []).append(row)
    return rows


def test_a_study_from_start_to_end(corpus, tmp_path, capsys, monkeypatch, one_device_seen):
    """The twin's loss on held-out text is near its bound on it, which both measure."""
    rows = study(["autoregressive"], corpus, tmp_path, monkeypatch, "--minutes", "0.005",
                 "--num", "16")  # fmt: skip
    assert "written: " in capsys.readouterr().out
    (own,), (text,) = rows["autoregressive"], rows["held-out text"]
    assert own["sampling_steps"] == "31"
    assert float(text["twin_nats_per_token"]) == pytest.approx(
        float(own["nats_per_token"]), rel=0.1
    )
    # At temperature 1 a model's own samples have, on average, its own entropy: hardly trained, near
    # that of all symbols.
    assert float(own["twin_nats_per_token"]) > 0.6 * np.log(260)


@pytest.mark.slow
def test_the_whole_family_from_start_to_end(corpus, tmp_path, monkeypatch, one_device_seen):
    names = sorted(path.stem for path in RECIPES.glob("*.py"))
    rows = study(names, corpus, tmp_path, monkeypatch, "--minutes", "0.1", "--num", "4",
                 "--steps", "2,16")  # fmt: skip
    assert {name: [row["sampling_steps"] for row in rows[name]] for name in names} == {
        "autoregressive": ["31"], "block16": ["2", "16"], "block4": ["16"], "gaussian": ["2", "16"],
        "masked": ["2", "16"], "uniform": ["2", "16"], "unet_gaussian": ["2", "16"],
    }  # fmt: skip
    for name in names:
        for row in rows[name]:
            assert 0 < float(row["bits_per_byte"]) < 100
            assert np.isfinite(float(row["twin_nats_per_token"]))
