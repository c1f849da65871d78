"""What a run of days needs beside its steps: an account of its time, a watchdog, a trace."""

import re
import time

import jax
import jax.numpy as jnp
import pytest

from dlms_jax.errors import UserError
from dlms_jax.runtime import compiled, report
from dlms_jax.runtime.determinism import check_deterministic
from dlms_jax.runtime.goodput import KINDS, Goodput, read_goodput, totals
from dlms_jax.runtime.profiling import Profile, steps_to_profile
from dlms_jax.runtime.watchdog import Watchdog


class Time:
    """A clock that goes by hand."""

    now = 1000.0

    def __call__(self):
        return self.now


class TestGoodput:
    @pytest.fixture
    def clock(self):
        return Time()

    def run(self, workdir, clock, first, last, each=2.0):
        """A start that goes on after `first`, is last heard of at step `last`."""
        goodput = Goodput(workdir, clock)
        clock.now += 5
        goodput.begin(first)
        for step in range(first + 1, last + 1):
            goodput.now("data")
            clock.now += 0.5
            goodput.step(step, compiles=step == first + 1)
            clock.now += each
        goodput.now("checkpoint")
        clock.now += 1
        goodput.save()
        return goodput

    def test_each_second_counts_once(self, tmp_path, clock):
        goodput = self.run(tmp_path, clock, 0, 4)
        (row,) = read_goodput(tmp_path / "goodput.csv")
        expected = dict.fromkeys(KINDS, 0.0) | {
            "start": 5, "compile": 2, "step": 6, "data": 2, "checkpoint": 1
        }  # fmt: skip
        assert {kind: row[kind] for kind in KINDS} == expected
        assert sum(expected.values()) == clock.now - 1000
        assert goodput.share() == pytest.approx(6 / 16)

    def test_over_restarts_what_was_lost_and_done_again_is_no_progress(self, tmp_path, clock):
        self.run(tmp_path, clock, 0, 4)  # killed; its last checkpoint was of step 2
        clock.now += 60
        self.run(tmp_path, clock, 2, 6)
        first, second = read_goodput(tmp_path / "goodput.csv")
        assert (second["first_step"], second["last_step"], second["before"]) == (2, 6, 60)
        assert (second["compile"], second["repeated"], second["step"]) == (2, 2, 4)
        shares, seconds, between = totals([first, second])
        assert (seconds, between) == (32, 60)
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["step"] == pytest.approx(10 / 32)

    def test_a_start_without_a_step_leaves_no_row(self, tmp_path, clock):
        self.run(tmp_path, clock, 6, 6)
        assert not (tmp_path / "goodput.csv").exists()

    def test_a_clock_set_back_counts_nothing(self, tmp_path, clock):
        goodput = Goodput(tmp_path, clock)
        clock.now -= 100
        goodput.begin(0)
        goodput.step(1)
        clock.now += 1
        assert goodput.share() == 1.0


class TestWatchdog:
    def test_it_shows_all_stacks_and_last_steps_once_no_step_ends(self, tmp_path):
        said = open(tmp_path / "stderr", "w+")  # noqa: SIM115 (faulthandler wants a real file)
        (tmp_path / "logs").mkdir()
        with Watchdog(tmp_path, 0.3 / 60, stderr=said) as watchdog:
            for step in range(1, 7):  # a run that goes on
                watchdog.beat(step)
                time.sleep(0.02)
            assert not (tmp_path / "logs/stacks-0.txt").exists()
            deadline = time.monotonic() + 30
            while not (tmp_path / "logs/stacks-0.txt").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.2)
        text = (tmp_path / "logs/stacks-0.txt").read_text()
        said.seek(0)
        for shown in (text, said.read()):
            assert "no step has ended for 0.005 minutes; last steps: process 0: 6" in shown
            assert "test_it_shows_all_stacks" in shown and "in _watch" in shown
        assert (tmp_path / "logs/step-0.txt").read_text() == "6\n"

    def test_0_is_none(self, tmp_path):
        with Watchdog(tmp_path, 0) as watchdog:
            watchdog.beat(1)
        assert not list(tmp_path.iterdir())


class TestProfile:
    @pytest.mark.parametrize("text", ["5", "7-5", "0-3", "a-b", "-3"])
    def test_what_is_no_range_is_refused(self, text):
        with pytest.raises(UserError, match="should be FIRST-LAST"):
            steps_to_profile(text)

    @pytest.mark.parametrize("steps", [(3, 8), (9, 11), (5, 6)])
    def test_steps_that_will_not_come_are_refused(self, tmp_path, steps):
        with pytest.raises(UserError, match="not among the steps that are left, 6-10"):
            Profile(tmp_path, steps, 5, 10, print)

    def test_a_trace_is_left_and_how_to_open_it_said(self, tmp_path):
        said = []
        double = jax.jit(lambda x: x * 2)
        with Profile(tmp_path, steps_to_profile("2-3"), 0, 5, said.append) as profile:
            for step in range(1, 6):
                profile.before(step)
                profile.after(step, double(jnp.ones(3)))
        assert list((tmp_path / "profile").rglob("*.xplane.pb"))
        assert len(said) == 1 and re.search(r"steps 2-3\).*xprof --logdir=.*profile", said[0])


class TestCompiled:
    @pytest.fixture(autouse=True)
    def as_before(self):
        before = jax.config.jax_compilation_cache_dir
        yield
        jax.config.update("jax_compilation_cache_dir", before)

    def test_what_the_environment_or_the_program_says_stays(self, tmp_path):
        before = jax.config.jax_compilation_cache_dir
        assert before and str(compiled.keep_compiled(tmp_path)) == before

    def test_else_one_process_uses_the_users_cache_and_several_the_workdir(
        self, tmp_path, monkeypatch
    ):
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        for processes, folder in ((1, "cache/dlms_jax"), (4, "run")):
            jax.config.update("jax_compilation_cache_dir", None)
            monkeypatch.setattr(jax, "process_count", lambda n=processes: n)
            assert compiled.keep_compiled(tmp_path / "run") == tmp_path / folder / "compiled"

    def test_hits_are_counted_inside_the_context_alone(self):
        hit = "/jax/compilation_cache/cache_hits"
        jax.monitoring.record_event(hit)
        with compiled.CacheHits() as hits:
            jax.monitoring.record_event(hit)
            jax.monitoring.record_event("/jax/other")
        jax.monitoring.record_event(hit)
        assert hits.number == 1


class TestDeterministic:
    def test_a_gpu_needs_its_flag(self, monkeypatch):
        for flags in ("", "--xla_gpu_deterministic_ops=false", "--xla_gpu_deterministic_ops_x"):
            monkeypatch.setenv("XLA_FLAGS", flags)
            with pytest.raises(UserError, match="needs the environment variable XLA_FLAGS="):
                check_deterministic("gpu")
        for flags in ("--a=b --xla_gpu_deterministic_ops=true --c", "--xla_gpu_deterministic_ops"):
            monkeypatch.setenv("XLA_FLAGS", flags)
            check_deterministic("gpu")

    @pytest.mark.parametrize("platform", ["cpu", "tpu"])
    def test_others_need_none(self, monkeypatch, platform):
        monkeypatch.setenv("XLA_FLAGS", "")
        check_deterministic(platform)


def test_the_summary_shows_where_the_time_went(tmp_path):
    clock = Time()
    TestGoodput().run(tmp_path, clock, 0, 4)
    clock.now += 90
    TestGoodput().run(tmp_path, clock, 2, 6)
    assert report._time(tmp_path) == (
        "0:32: start 31%, compile 12%, step 31%, repeated 6%, data 12%, checkpoint 6%; 2 starts, "
        "1:30 between them"
    )


@pytest.mark.parametrize("content", [b"\xff\xfe", b"begun,step\nyesterday,1\n", b"begun\n1e400x\n"])
def test_a_damaged_goodput_file_is_named(content, tmp_path):
    (tmp_path / "goodput.csv").write_bytes(content)
    with pytest.raises(UserError, match="goodput.csv is damaged .*move it away") as error:
        read_goodput(tmp_path / "goodput.csv")
    assert "\n" not in str(error.value)
