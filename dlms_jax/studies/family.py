"""The family study: compares a small model of each process on the same text, tokens and time.

Each recipe gets an equal share of the minutes as training time. Its number of steps follows from a
measured step and is saved before training, so that an interrupted study resumes. Then each model is
measured by its bound on held-out text and by its samples.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
import pathlib
import statistics
import time
from typing import Any

import jax
from rich.console import Console

from dlms_jax.config import FORMAT, Config, changed_settings, from_dict, traits_of, upgrade_run
from dlms_jax.data.feed.dataset import Dataset, build_dataset
from dlms_jax.errors import UserError
from dlms_jax.evaluation.quality import (
    GenerativePerplexity,
    SampleMetrics,
    heldout_samples,
    samples_of,
    texts_of,
    unigram_samples,
)
from dlms_jax.files import write_json
from dlms_jax.runtime.metric_writer import read_metrics
from dlms_jax.sampling import settings_of
from dlms_jax.studies import pace, tables
from dlms_jax.studies.tables import Drawn, Member
from dlms_jax.terminal import say

_LOG = "study.json"
_EVALUATIONS = 12  # evaluations in each run: the points of its curve
_WARMUP = 0.1  # longest warm-up, as a share of the steps
# Sections that may change after a run began, because they do not affect training.
_FREE = ("sampling", "evaluation", "checkpoint", "mesh")
# Settings of config.sampling that the study sets itself.
_OWN = ("length", "steps", "temperature", "prompt")


@dataclasses.dataclass(frozen=True)
class FamilySettings:
    """Settings of the family study.

    Attributes:
      minutes: training time of all recipes together.
      steps: numbers of sampling steps; a block model divides them among its blocks.
      num: samples per recipe and number of steps.
      temperature: of sampling; 1 is the model's own distribution.
    """

    minutes: float
    steps: tuple[int, ...] = (8, 32, 128)
    num: int = 32
    temperature: float = 1.0


def run_family(
    recipes: Mapping[str, Config],
    only: tuple[str, ...],
    settings: FamilySettings,
    workdir: pathlib.Path,
    out: pathlib.Path,
    train: Callable[[pathlib.Path, Config], dict[str, float]],
    load: Callable[[pathlib.Path], Any],
    console: Console,
) -> list[Member]:
    """Runs the study, writes tables and a figure, and returns the results, the best bound first.

    Samples are scored by the autoregressive recipe if it has been trained.

    Args:
      recipes: all recipes of the family, by name.
      only: the names of those to run.
      settings: the study's settings.
      workdir: the folder of the runs.
      out: the folder of the tables and the figure.
      train: (workdir, config) -> final metrics; it starts or resumes a run (trainer.Trainer).
      load: workdir -> the trained model.DiffusionLM.
      console: prints progress and the tables.

    Raises:
      UserError: the recipes differ in text or tokenizer, or the workdir holds runs with another
        training time or other recipes.
    """
    _check_comparable(recipes)
    log = _Log(workdir / _LOG)
    share = 60 * settings.minutes / len(only)
    for name in only:
        log.check(name, recipes[name], share, len(only))
    dataset = build_dataset(recipes[only[0]])
    _decide_steps({name: recipes[name] for name in only}, dataset, share, log, console)

    for name in only:
        if "metrics" in log[name]:
            say(console, f"{workdir / name}: already trained")
            continue
        say(console, f"\n{name}: {log[name]['steps']} steps in {share / 60:.1f} minutes")
        metrics = train(workdir / name, _with_steps(recipes[name], log[name]["steps"]))
        log.put(name, metrics=metrics)

    exact = [name for name in recipes if traits_of(recipes[name]).exact]
    trained = [name for name in exact if "metrics" in log[name]]
    twin = GenerativePerplexity(load(workdir / trained[0])) if trained else None
    length = recipes[only[0]].data.sequence_length - 1
    measure, references = _references(dataset, settings.num, length, twin)
    members = []
    for name in only:
        say(console, f"sampling from {workdir / name} ...")
        lm = load(workdir / name)
        drawn = []
        for steps, sampling in ways_to_sample(recipes[name], settings, length):
            samples, seconds = _draw(lm, settings.num, length, sampling)
            loss = twin(samples) if twin else None
            drawn.append(Drawn(steps, seconds, measure(samples), loss, samples))
        members.append(_member(name, recipes[name], log[name], workdir / name, lm, drawn))
    members.sort(key=lambda member: member.bits_per_byte)
    tables.write(out, members, references, settings, share, console)
    return members


def ways_to_sample(
    config: Config, settings: FamilySettings, length: int
) -> list[tuple[int, dict[str, Any]]]:
    """Returns (total steps, settings for DiffusionLM.stream) for each row of the table.

    The settings come from the recipe, except for temperature and steps. A sampler that takes one
    step per token has one row. A block model takes at least one step per block, so it skips numbers
    of steps that are too small.

    Args:
      config: the recipe.
      settings: the study's settings.
      length: tokens per sample.
    """
    used = settings_of(config.objective.name, config.sampling)
    shared = {name: getattr(config.sampling, name) for name in used - set(_OWN)}
    shared["temperature"] = settings.temperature
    if "steps" not in used:
        return [(length, shared)]
    # Blocks are aligned to BOS.
    blocks = -(-(length + 1) // config.block.size) if traits_of(config).order == "blocks" else 1
    each = sorted({steps // blocks for steps in settings.steps} - {0})
    return [(blocks * steps, shared | {"steps": steps}) for steps in each]


class _Log:
    """The decisions and results of a study by recipe, in a file that is written atomically.

    A recipe whose folder was deleted starts again.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        try:
            known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise UserError(f"{path} cannot be read ({error}); use another --workdir") from None
        self._recipes = {
            name: upgrade_run(what, path)
            for name, what in known.items()
            if self._folder(name).exists()
        }

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self._recipes.get(name, {})

    def put(self, name: str, **what):
        """Adds entries to a recipe's record."""
        self._recipes[name] = self[name] | what | {"format": FORMAT}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, self._recipes)
        self._folder(name).mkdir(exist_ok=True)

    def check(self, name: str, config: Config, share: float, number: int):
        """Raises UserError if the recipe's run has another training time or other settings."""
        begun, workdir = self[name], self._folder(name)
        if not begun:
            if workdir.exists():
                raise UserError(f"{workdir} was not created by this study; use another --workdir")
            return
        where = f"{workdir} was started"
        if abs(begun["share"] - share) > 0.01 * share:
            raise UserError(
                f"{where} with {begun['share'] / 60:.3g} minutes of training, not "
                f"{share / 60:.3g}; use --minutes={begun['share'] * number / 60:.6g}, or another "
                "--workdir, or delete it"
            )
        changed = [
            f"config.{key} was {before!r}, is {now!r}"
            for key, before, now in changed_settings(from_dict(begun["config"]), config)
            if key.split(".")[0] not in _FREE
        ]
        if changed:
            raise UserError(
                f"{where} with another recipe ({', '.join(changed)}); use another --workdir, or "
                "delete it to train it again"
            )

    def _folder(self, name: str) -> pathlib.Path:
        return self._path.parent / name


def _check_comparable(recipes: Mapping[str, Config]):
    """Raises UserError unless all recipes read the same text as the same tokens."""
    first, *others = recipes
    for name in others:
        for key, one, other in changed_settings(recipes[first], recipes[name]):
            if key.split(".")[0] in ("data", "tokenizer"):
                raise UserError(
                    f"config.{key} is {one!r} in {first} and {other!r} in {name}; all recipes of a "
                    "study need the same data and tokenizer settings"
                )


def _decide_steps(recipes, dataset: Dataset, share: float, log: _Log, console: Console):
    """Saves the number of steps of each new recipe, from its share of the time."""
    new = {name: config for name, config in recipes.items() if not log[name]}
    if not new:
        return
    say(console, f"measuring the training step of {', '.join(new)} ...")
    for name, seconds in pace.seconds_per_step(new, dataset).items():
        steps = max(1, round(share / seconds))
        say(console, f"{name}: {seconds:.3f} s per step, so {steps} steps")
        log.put(name, share=share, steps=steps, step_seconds=seconds, config=new[name].to_dict())


def _with_steps(config: Config, steps: int) -> Config:
    """Returns a recipe with a number of steps, and evaluations and checkpoints during training."""
    every = max(1, steps // _EVALUATIONS)
    replace = dataclasses.replace
    warmup = min(config.optimizer.warmup_steps, int(_WARMUP * steps))
    return replace(
        config,
        training=replace(config.training, steps=steps),
        optimizer=replace(config.optimizer, warmup_steps=warmup),
        evaluation=replace(config.evaluation, every=every),
        checkpoint=replace(config.checkpoint, every=every),
    )


def _references(dataset: Dataset, num: int, length: int, twin):
    """Returns (the metrics, {name: Drawn} of held-out text and of tokens drawn by frequency)."""
    tokenizer, rows = dataset.tokenizer, dataset.heldout.rows
    samples, others = heldout_samples(rows, num, length, tokenizer)
    training = [split.rows.take(slice(None)) for split in dataset.train]
    words = (text for rows in training for text in texts_of(rows, tokenizer))
    measure = SampleMetrics(tokenizer, texts_of(others, tokenizer), words)
    found = {}
    for name, some in {
        "held-out text": samples,
        "tokens by frequency": unigram_samples(training[0], num, length, tokenizer),
    }.items():
        found[name] = Drawn(None, None, measure(some), twin(some) if twin else None, some)
    return measure, found


def _draw(lm, num: int, length: int, sampling: dict[str, Any]):
    """Returns (samples, seconds per sample) of `num` texts without a prompt.

    They are drawn in two batches. The first compiles, the second is timed.
    """
    samples = []
    for seed, number in enumerate((num - num // 2, num // 2)):
        begun = time.perf_counter()
        *_, canvas = lm.stream([["", length]], number, seed=seed, **sampling)
        seconds = (time.perf_counter() - begun) / number
        samples += samples_of(canvas, lm.tokenizer)
    return samples, seconds


def _member(name, config, logged, workdir, lm, drawn) -> Member:
    history = read_metrics(workdir / "metrics.csv")
    tokens = config.training.batch_size * config.data.sequence_length
    speeds = [float(row["tokens_per_second"]) for row in history if row["tokens_per_second"]]
    step_seconds = tokens / statistics.median(speeds) if speeds else logged["step_seconds"]
    curve = [
        (int(row["step"]) * tokens, int(row["step"]) * step_seconds, float(row["bits_per_byte"]))
        for row in history
        if row["bits_per_byte"]
    ]
    metrics = logged["metrics"]
    return Member(
        name=name,
        process=f"{config.objective.name}, {config.model.name}",
        parameters=sum(x.size for x in jax.tree.leaves(lm.params)),
        steps=logged["steps"],
        tokens=logged["steps"] * tokens,
        step_seconds=step_seconds,
        bits_per_byte=metrics["bits_per_byte"],
        stderr=metrics["stderr"],
        nats_per_token=metrics["bound"],
        curve=curve,
        drawn=drawn,
    )
