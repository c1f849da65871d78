"""Whole runs: resume, interruption, broken steps, and what a run leaves behind."""

import dataclasses
import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from dlms_jax.checkpoints import checkpoint
from dlms_jax.conversion.export_source import open_export_source
from dlms_jax.data.feed.dataset import build_dataset
from dlms_jax.data.feed.loader import train_batches
from dlms_jax.errors import UserError
from dlms_jax.model import DiffusionLM
from dlms_jax.parallel.mesh import make_mesh
from dlms_jax.runtime import loop, setup
from dlms_jax.runtime.interrupt import Interrupted, StopSignals
from dlms_jax.runtime.metric_writer import read_metrics
from dlms_jax.testing import small_config
from dlms_jax.trainer import Trainer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of small texts."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(30)]
    for number in range(40):
        (folder / f"{number}.txt").write_text(" ".join(rng.choice(words, 60)) + "\n")
    return folder


def config_for(corpus, **settings):
    return small_config(data__corpus=str(corpus), data__heldout_fraction=0.2, **settings)


def run(workdir, config):
    """Returns (final metrics, what was printed) of training in a workdir."""
    out = io.StringIO()
    console = Console(file=out, width=200, soft_wrap=True)
    try:
        return Trainer(workdir, console).train(config), out.getvalue()
    finally:
        run.printed = out.getvalue()


def weights(workdir, config):
    lm = DiffusionLM.load_checkpoint(workdir)
    return jax.device_get(lm.params)


@pytest.fixture
def on_devices(monkeypatch):
    """Returns a function that lets the next runs see so many devices."""

    def arrange(number):
        monkeypatch.setattr(
            setup, "make_mesh", lambda config: make_mesh(config, jax.devices()[:number])
        )

    return arrange


def test_a_checkpoint_is_read_where_there_is_no_such_kernel_of_attention(
    uninterrupted, monkeypatch
):
    """Trained on a GPU, sampled from on a laptop."""
    workdir, config, *_ = uninterrupted
    there = checkpoint.load_metadata(checkpoint.find_checkpoint(workdir))
    there["config"]["model"]["attention"] = "cudnn"
    monkeypatch.setattr(checkpoint, "load_metadata", lambda _: there)
    lm = DiffusionLM.load_checkpoint(workdir)
    assert lm.sample("ab", length=4)
    assert open_export_source(workdir).config == lm.config
    named = dataclasses.replace(config.model, attention="cudnn")
    with pytest.raises(UserError, match="attention=cudnn is for NVIDIA"):
        run(workdir, dataclasses.replace(config, model=named))


@pytest.fixture(scope="module")
def uninterrupted(corpus, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    config = config_for(corpus, training__ema_decay=0.9)
    metrics, printed = run(workdir, config)
    return workdir, config, metrics, printed


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    uninterrupted, tmp_path, stop_after
):
    whole, config, metrics, _ = uninterrupted
    stop_after(3)
    with pytest.raises(Interrupted, match=r"SIGTERM: saved step 3; resume with: .*--resume="):
        run(tmp_path / "cut", config)
    resumed, printed = run(tmp_path / "cut", config)
    assert "after step 3" in printed
    assert resumed == metrics
    jax.tree.map(
        np.testing.assert_array_equal, weights(whole, config), weights(tmp_path / "cut", config)
    )
    # and so does what it logged, but for the times
    rows = [read_metrics(d / "metrics.csv") for d in (whole, tmp_path / "cut")]
    assert [row["step"] for row in rows[1]] == ["1", "2", "3", "4", "5", "6"]
    for a, b in zip(*rows, strict=True):
        for column in ("loss", "bound", "grad_norm", "learning_rate", "epoch"):
            assert a[column] == b[column], column


def test_the_same_seed_gives_the_same_bits_when_run_twice(uninterrupted, tmp_path):
    whole, config, metrics, _ = uninterrupted
    strict = dataclasses.replace(config.training, deterministic=True)
    again, printed = run(tmp_path / "again", dataclasses.replace(config, training=strict))
    assert again == metrics
    jax.tree.map(
        np.testing.assert_array_equal, weights(whole, config), weights(tmp_path / "again", config)
    )
    assert re.search(r"│ time +│ 0:\d\d: .*compile \d+%", printed)


def test_a_resume_on_two_of_eight_devices_goes_on_with_the_same_batches_and_masks(
    uninterrupted, tmp_path, stop_after, on_devices
):
    """Losses before and after the move agree with those of a run that never moved."""
    whole, config, _, _ = uninterrupted
    stop_after(3)
    with pytest.raises(Interrupted):
        run(tmp_path / "moved", config)
    on_devices(2)
    run(tmp_path / "moved", config)
    losses = [
        [float(row["loss"]) for row in read_metrics(workdir / "metrics.csv")]
        for workdir in (whole, tmp_path / "moved")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_a_run_leaves_what_it_promises(uninterrupted):
    workdir, config, metrics, printed = uninterrupted
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((workdir / "tensorboard").glob("events.*"))
    for line in (
        r"masked transformer: .*parameters",
        r"training part: \d+ documents, \d+ bytes, .* sha256 [0-9a-f]{16}",
        r"held-out part: \d+ documents",
        r"step 6/6  loss \d.*held-out \d.*lr .*grad .*tok/s.*MFU.*epoch .*left",
        r"sample at step 6",
        r"held-out bits/byte .* \+- .*standard error",
        r"unigram entropy",
        r"python -m dlms_jax\.sample --checkpoint",
    ):
        assert re.search(line, printed), line
    assert metrics["step"] == 6
    assert metrics["perplexity"] == pytest.approx(np.exp(metrics["bound"]))
    table = (workdir / "parameters.txt").read_text()
    assert re.search(r"layers/mlp/up_proj/kernel +\| \(2, 32, 64\) \| float32 +\| 4,096 ", table)
    assert "Total: " in table


def test_a_finished_run_is_not_trained_further(uninterrupted):
    workdir, config, metrics, _ = uninterrupted
    before = (workdir / "metrics.csv").read_text()
    again, printed = run(workdir, config)
    assert f"{workdir} has finished its 6 steps; raise config.training.steps" in printed
    assert again == metrics and (workdir / "metrics.csv").read_text() == before
    assert Trainer(console=Console(file=io.StringIO())).resume(workdir) == metrics


def test_evaluation_agrees_with_the_trainers_and_uses_the_moving_average(uninterrupted):
    workdir, config, metrics, _ = uninterrupted
    lm = DiffusionLM.load_checkpoint(workdir)
    assert lm.evaluate(rows=8).nats_per_token == pytest.approx(metrics["bound"], rel=1e-5)


def test_a_workdir_of_another_run_is_refused(uninterrupted, corpus):
    workdir, _, _, _ = uninterrupted
    with pytest.raises(UserError, match=r"holds another run \(config.model.width was 32, is 64\)"):
        run(workdir, config_for(corpus, model__width=64, training__ema_decay=0.9))


def test_a_changed_corpus_is_refused(corpus, tmp_path, stop_after):
    folder = tmp_path / "texts"
    folder.mkdir()
    for file in corpus.iterdir():
        (folder / file.name).write_text(file.read_text())
    config = config_for(folder)
    stop_after(2)
    with pytest.raises(Interrupted):
        run(tmp_path / "run", config)
    (folder / "0.txt").write_text("something else altogether\n")
    with pytest.raises(UserError, match="is not what the run in .* was trained on"):
        run(tmp_path / "run", config)


def test_broken_steps_stop_the_run_and_name_the_batch(corpus, tmp_path):
    """A learning rate without bound makes the loss overflow."""
    config = config_for(
        corpus, optimizer__peak_learning_rate=1e30, optimizer__clip_norm=0.0,
        training__max_skipped_steps=3, training__steps=20, checkpoint__every=1,
        model__qk_norm=False,
    )  # fmt: skip
    with pytest.raises(UserError) as stopped:
        run(tmp_path / "run", config)
    message = str(stopped.value)
    first_bad = int(re.search(r"3 steps in a row, from step (\d+)", message)[1])
    assert re.search(rf"last checkpoint: \S*checkpoints/{first_bad - 1}", message)
    rows = re.search(r"\(corpus, row\) of step \d+: \[([\d, ()]+)\]", message)[1]
    assert len(re.findall(r"\(0, \d+\)", rows)) == config.training.batch_size
    assert "\n" not in message


class TestRollback:
    """Three batches whose loss is NaN: the run goes back to the checkpoint before, past them."""

    BAD = range(4, 7)  # batches, from 0: of steps 5 to 7

    @pytest.fixture
    def poisoned(self, corpus, monkeypatch):
        """A config, and from now on the objective gives NaN for the bad batches."""
        config = config_for(
            corpus, training__max_skipped_steps=3, training__steps=10, checkpoint__every=2,
            training__spike_factor=50.0,
        )  # fmt: skip
        dataset = build_dataset(config)
        rows = train_batches(dataset, config, np.arange(8))
        sums = [int(rows[batch].tokens_RxL.sum()) for batch in range(20)]
        assert len(set(sums)) == 20
        bad = np.array([sums[batch] for batch in self.BAD])

        class Poisoned:
            def __init__(self, objective):
                self._objective = objective

            def __getattr__(self, name):
                return getattr(self._objective, name)

            def loss(self, denoise, batch, key, step):
                loss = self._objective.loss(denoise, batch, key, step)
                hit = jnp.isin(jnp.sum(batch.tokens_BxL), bad)
                return loss._replace(total=jnp.where(hit, jnp.nan, loss.total))

        assemble = setup.assemble

        def poisoned(*arguments):
            assembly = assemble(*arguments)
            return dataclasses.replace(assembly, objective=Poisoned(assembly.objective))

        monkeypatch.setattr(setup, "assemble", poisoned)
        return config

    def test_it_goes_on_past_them_and_says_so_whenever_it_looks_or_is_cut(self, poisoned, tmp_path):
        metrics, printed = run(tmp_path / "whole", poisoned)
        assert "3 steps in a row, from step 5: rolling back to step 4 (1 of at most 3)" in printed
        assert "leaving out the batches of the 3 steps since" in printed
        rows = read_metrics(tmp_path / "whole/metrics.csv")
        assert [row["step"] for row in rows] == [str(step) for step in range(1, 11)]
        assert [row["rollbacks"] for row in rows] == ["0"] * 4 + ["1"] * 6
        assert all(row["loss"] != "nan" for row in rows) and rows[-1]["skipped"] == "0"
        epochs = [float(row["epoch"]) for row in rows]
        assert epochs[-1] == pytest.approx((10 + 3) * epochs[0], rel=1e-4)
        metadata = checkpoint.load_metadata(checkpoint.find_checkpoint(tmp_path / "whole"))
        assert metadata["rollbacks"] == [{"to": 4, "first_bad": 5, "last_bad": 7}]

        seldom = dataclasses.replace(poisoned.training, log_every=9)
        run(tmp_path / "seldom", dataclasses.replace(poisoned, training=seldom))

        class Signals(StopSignals):
            last = 0

            def at(self, step):
                return "SIGTERM" if step == self.last else None

        # before, among the bad steps, at the last of them (when it looks), and after the rollback
        for Signals.last in (3, 6, 7, 9):
            before, loop.StopSignals = loop.StopSignals, Signals
            try:
                with pytest.raises(Interrupted):
                    run(tmp_path / "cut", poisoned)
            finally:
                loop.StopSignals = before
        assert run(tmp_path / "cut", poisoned)[0] == metrics
        expected = weights(tmp_path / "whole", poisoned)
        for other in ("seldom", "cut"):
            jax.tree.map(
                np.testing.assert_array_equal, expected, weights(tmp_path / other, poisoned)
            )

    def test_not_more_often_than_allowed(self, poisoned, tmp_path):
        none = dataclasses.replace(poisoned.training, max_rollbacks=0)
        with pytest.raises(UserError, match=r"rolled back before: 0 times; last checkpoint: .*/4"):
            run(tmp_path / "run", dataclasses.replace(poisoned, training=none))


def test_the_autoregressive_twin_trains_under_the_same_trainer(corpus, tmp_path):
    metrics, printed = run(tmp_path / "ar", config_for(corpus, objective__name="autoregressive"))
    assert np.isfinite(metrics["bound"])
    lm = DiffusionLM.load_checkpoint(tmp_path / "ar")
    assert lm.sample("ab", length=5).startswith("ab")
    with pytest.raises(UserError, match="left to right"):
        lm.infill("a{}b")
    with pytest.raises(UserError, match="steps has no effect on sampler"):
        lm.sample("ab", steps=4)
    with pytest.raises(UserError, match="exact; leave out samples and seed"):
        lm.evaluate(samples=3)


class TestSampling:
    """DiffusionLM on the trained weights."""

    @pytest.fixture(scope="class")
    def lm(self, uninterrupted):
        return DiffusionLM.load_checkpoint(uninterrupted[0])

    def test_the_seed_decides(self, lm):
        texts = [lm.sample("ab", length=12, seed=seed, temperature=1.0) for seed in (0, 0, 1)]
        assert texts[0] == texts[1] != texts[2]

    def test_a_sample_does_not_depend_on_how_many_are_drawn(self, lm):
        *_, few = lm.stream([["ab", 12]], num=1, temperature=1.0)
        *_, many = lm.stream([["ab", 12]], num=11, temperature=1.0)
        assert lm.texts(many)[0] == lm.texts(few)[0]
        assert len(set(lm.texts(many))) > 5

    def test_prompts_of_different_lengths_are_written_as_one_by_one(self, lm):
        prompts = ["a", "abc def", ""]
        alone = [lm.sample(prompt, 10, seed=3, temperature=1.0) for prompt in prompts]
        assert lm.samples(prompts, 10, seed=3, temperature=1.0) == alone
        assert len(set(alone)) == 3

    def test_given_text_stays_and_holes_are_filled(self, lm):
        *_, canvas = lm.stream([["ab ", 3, " cd ", 4, "!"]], temperature=1.0)
        tokens = canvas.tokens_BxL[0]
        assert (tokens != lm.tokenizer.mask_id).all()
        given = tokens[~canvas.holes_BxL[0]].tolist()
        assert lm.tokenizer.decode(given) == "ab  cd !"

    def test_a_stream_fills_in_and_never_changes_what_stands(self, lm):
        seen = list(lm.stream([["ab", 20]], steps=8, every=1, temperature=1.0))
        assert len(seen) == 8
        mask = lm.tokenizer.mask_id
        for before, after in zip(seen, seen[1:], strict=False):
            stood = before.tokens_BxL != mask
            assert (after.tokens_BxL[stood] == before.tokens_BxL[stood]).all()
        shares = [(c.tokens_BxL == mask).sum() for c in seen]
        assert shares[0] > shares[-1] == 0
        assert "░" in lm.texts(seen[0], unfilled="░")[0]

    def test_guidance_changes_the_distribution(self, lm):
        def texts(w):
            return [lm.sample("abcd ", 20, guidance=w, temperature=1.0, seed=s) for s in range(4)]

        assert texts(0.0) != texts(50.0)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda lm: lm.sample("x" * 100), "context of 32 tokens"),
            (lambda lm: lm.sample("x", length=500), "use 30 tokens or fewer"),
            (lambda lm: lm.sample("x", length=0), "length=0 should be at least 1"),
            (lambda lm: lm.sample("x", steps=0), "steps=0 should be at least 1"),
            (lambda lm: lm.sample("x", temperature=-1.0), "temperature=-1.0 should be at least 0"),
            (lambda lm: lm.sample("x", sampler="ddim"), "sampler=ddim"),
            (lambda lm: lm.sample("x", tempature=1.0), "unknown setting config.sampling.tempature"),
            (lambda lm: list(lm.stream([["x", 3]], class_name="a")), "unknown class 'a'"),
            (lambda lm: lm.infill("no hole"), "has no hole"),
            (lambda lm: list(lm.stream([["x", 3]], num=0)), "should be at least 1"),
            (lambda lm: lm.sample("x", seed=-1), "^seed=-1 should be at least 0"),
            (lambda lm: lm.sample("x", seed=2**32), "^seed=4294967296 should be at least 0"),
            (lambda lm: lm.sample("x", seed=1.5), "^seed=1.5 should be a whole number"),
            (lambda lm: lm.evaluate(samples=-1), "^samples=-1 should be at least 1"),
            (lambda lm: lm.evaluate(samples=0), "^samples=0 should be at least 1"),
            (lambda lm: lm.evaluate(rows=-1), "^rows=-1 should be at least 0"),
            (lambda lm: lm.evaluate(seed=-1), "^seed=-1 should be at least 0"),
            (lambda lm: lm.evaluate(samples=2**31), "^samples=2147483648 should be at least 1 and"),
            (lambda lm: lm.sample("x", length=10**9), "exceed the model's context of 32"),
            (lambda lm: lm.infill("a {1000000000}"), "a hole of 100000000... tokens exceeds"),
            (lambda lm: lm.infill("a {" + "9" * 5000 + "}"), "exceeds any context"),
            (lambda lm: list(lm.stream([["x", 3]], num=10**9)), "1000000000 samples need about"),
        ],
    )
    def test_what_cannot_be_sampled_or_evaluated_is_one_line(self, lm, call, message):
        with pytest.raises(UserError, match=message) as error:
            call(lm)
        assert "\n" not in str(error.value)
