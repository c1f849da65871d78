"""What a run tells Google's goodput tools, and that their calculator finds what goodput.csv has.

Google's own recorder, sender and calculator run; only their Cloud Logging client is in memory.
"""

import io
import logging
import sys
import threading
import types

import pytest
from rich.console import Console

from dlms_jax.errors import UserError
from dlms_jax.parallel import hosts
from dlms_jax.runtime import google_goodput, setup
from dlms_jax.runtime.goodput import KINDS, read_goodput
from dlms_jax.runtime.google_goodput import GoogleGoodput, make_goodput
from dlms_jax.runtime.interrupt import Interrupted
from dlms_jax.testing import small_config
from dlms_jax.trainer import Trainer

JOB = "a-job"


class Cloud:
    """Google Cloud Logging in memory: what its client, logger and batches do."""

    project = "a-project"

    def __init__(self):
        self.texts, self.sent, self._handlers, self.refuses = [], [], set(), None

    def __call__(self):
        return self

    def logger(self, name, **_):
        assert name == f"goodput_{JOB}"
        return self

    def log_text(self, text):
        if self.refuses:
            raise self.refuses
        self.texts.append(text)

    def batch(self):
        entries = []

        def commit():
            if self.refuses:
                raise self.refuses
            self.sent.extend(entries)

        return types.SimpleNamespace(
            entries=entries, commit=commit, log=lambda **entry: entries.append(entry)
        )

    def list_entries(self, filter_, **_):
        assert f'jsonPayload.job_name="{JOB}"' in filter_
        for number, entry in enumerate(self.sent):
            yield types.SimpleNamespace(
                payload=entry["message"], timestamp=entry["timestamp"], insert_id=str(number)
            )

    def told(self):
        """Returns [(what, when)], with the step's number or the event's name in `what`."""
        told = []
        for entry in (dict(sent["message"]) for sent in self.sent):
            assert entry.pop("job_name") == JOB
            name = entry.pop("custom_badput_event_type", "") or entry.pop("step_count", "")
            ((what, when),) = entry.items()
            told.append((f"{what.removesuffix('_time')} {name}".strip(), when))
        return told

    def seconds(self, folder):
        """Returns the seconds of each kind, productive ones as "good", by Google's calculator."""
        from ml_goodput_measurement.src.goodput import GoodputCalculator

        calculator = GoodputCalculator(JOB, f"goodput_{JOB}", cache_dir=str(folder))
        calculator.get_job_goodput()
        details = calculator.get_job_goodput_details()
        kinds = {kind.name: value for kind, value in details["badput_time"].items()}
        kinds |= {name.lower(): value for name, value in kinds.pop("CUSTOM_BADPUT_EVENTS").items()}
        (good,) = details["goodput_time"].values()
        return kinds | {"good": good, "total": details["total_elapsed_time"]}


@pytest.fixture
def cloud(one_device):
    recorder = pytest.importorskip("ml_goodput_measurement").goodput.GoodputRecorder
    import google.cloud.logging

    cloud = Cloud()
    with pytest.MonkeyPatch.context() as patch:  # of its own, for stop_after undoes the other
        patch.setattr(google.cloud.logging, "Client", cloud)
        # Entries are not kept for 2 s, to be sent with others.
        patch.setitem(recorder.__init__.__kwdefaults__, "background_max_latency_s", 0.0)
        patch.setattr(setup, "make_mesh", lambda _: one_device)  # compiles sooner
        yield cloud


class Time:
    """A clock that goes by hand."""

    now = 1000.0

    def __call__(self):
        return self.now


def start(workdir, clock, steps, say=print):
    """Returns a start that takes these steps, of 2 s, and 9 s where it compiles; killed then."""
    goodput = GoogleGoodput(workdir, JOB, say, clock)
    clock.now += 5
    goodput.begin(steps[0] - 1)
    for number, step in enumerate(steps):
        goodput.now("data")
        clock.now += 0.5
        goodput.step(step, compiles=number == 0)
        clock.now += 2 if number else 9
        if step % 2 == 0:
            goodput.now("evaluation")
            clock.now += 3
            goodput.now("checkpoint")
            clock.now += 1
            goodput.now("other")
            goodput.save()
    goodput._recorder.flush()
    return goodput


def test_each_time_is_told_once_in_order_with_its_step(tmp_path, cloud):
    with start(tmp_path, Time(), [1, 2]):
        pass
    assert cloud.told() == [
        ("job_start", 1000), ("training_prep_start", 1000), ("training_prep_end", 1005),
        ("data_loading_start", 1005), ("data_loading_end", 1005.5), ("step_start 1", 1005.5),
        ("data_loading_start", 1014.5), ("data_loading_end", 1015), ("step_start 2", 1015),
        ("custom_badput_event_start evaluation", 1017),
        ("custom_badput_event_end evaluation", 1020),
        ("custom_badput_event_start checkpoint", 1020),
        ("custom_badput_event_end checkpoint", 1021),
        ("custom_badput_event_start other", 1021), ("custom_badput_event_end other", 1021),
        ("step_start 3", 1021), ("job_end", 1021),
    ]  # fmt: skip


def test_their_calculator_knows_a_kill_from_a_stop_and_both_from_steps(tmp_path, cloud):
    clock = Time()
    start(tmp_path, clock, [1, 2, 3, 4, 5])  # killed; the checkpoint of step 4 was not whole
    clock.now += 60
    with pytest.raises(Interrupted), start(tmp_path, clock, [3, 4, 5, 6]):
        raise Interrupted("SIGTERM")
    clock.now += 30
    with start(tmp_path, clock, [7, 8]):
        pass
    found = cloud.seconds(tmp_path)
    assert found["total"] == clock.now - 1000 == 173.5
    # Until the next step starts, so with 0.5 s for its data but in the last of a start. Of each
    # start the first step counts as long as the others' mean, the rest of it as start-up.
    steps, means = [2.5, 2.5 + 2.5 + 2, 2], [2.5, (2.5 + 2.5 + 2) / 3, 2]
    assert found["good"] == pytest.approx(sum(steps) + sum(means))
    assert found["PROGRAM_STARTUP"] == pytest.approx(3 * 9.5 - sum(means))
    assert found["WASTED_PROGRESS_FROM_DISRUPTION"] == pytest.approx(2.5 + 6.5)  # steps 3 and 4
    assert found["INFRASTRUCTURE_RECOVERY_FROM_DISRUPTION"] == pytest.approx((2 + 60) + 30)
    assert found["TRAINING_PREP"] == 15
    assert (found["evaluation"], found["checkpoint"]) == (3 * 4, 4)  # step 4's first is wasted


def test_steps_that_a_rollback_undid_are_wasted(tmp_path, cloud):
    with start(tmp_path, Time(), [1, 2, 3, 4, 3, 4]):
        pass
    found = cloud.seconds(tmp_path)
    assert found["WASTED_PROGRESS_FROM_DISRUPTION"] == pytest.approx(2.5)
    assert "INFRASTRUCTURE_RECOVERY_FROM_DISRUPTION" not in found
    assert found["good"] == pytest.approx((2.5 + 2.5) + (2 + 2))


def test_a_stopped_and_resumed_run_has_the_seconds_of_goodput_csv(tmp_path, cloud, stop_after):
    config = small_config(
        training__goodput_job=JOB,
        evaluation__every=2,
        checkpoint__every=2,
        data__corpus="synthetic",
        data__synthetic_documents=200,
    )
    stop_after(3)
    with pytest.raises(Interrupted):
        Trainer(tmp_path / "run", Console(file=io.StringIO())).train(config)
    stopped = len(cloud.sent)
    trainer = Trainer(tmp_path / "run", Console(file=io.StringIO()))
    trainer.train(config)
    told = [what for what, _ in cloud.told()]
    steps = [what for what in told if what.startswith("step_start")]
    assert steps == [f"step_start {step}" for step in (1, 2, 3, 4, 4, 5, 6, 7)]
    assert [told.index(what) for what in ("job_start", "job_end")] == [0, len(told) - 1]
    assert told[stopped] == "job_start" and cloud.texts == ["dlms_jax starts"] * 2

    rows = read_goodput(tmp_path / "run" / "goodput.csv")
    ours = {kind: sum(row[kind] for row in rows) for kind in (*KINDS, "before")}
    found = cloud.seconds(tmp_path)
    same = {
        "TRAINING_PREP": "start", "INFRASTRUCTURE_RECOVERY_FROM_DISRUPTION": "before",
        "evaluation": "evaluation", "checkpoint": "checkpoint", "other": "other",
    }  # fmt: skip
    for theirs, kind in same.items():
        assert found[theirs] == pytest.approx(ours[kind], abs=0.01), kind
    assert found["total"] == pytest.approx(sum(ours.values()), abs=0.01)
    # They count data as a part of steps, but for the first of a start.
    times = cloud.told()
    first = sum(times[at + 4][1] - times[at + 3][1] for at in (0, stopped))
    assert found["good"] + found["PROGRAM_STARTUP"] == pytest.approx(
        ours["compile"] + ours["step"] + ours["data"] - first, abs=0.01
    )

    told = len(cloud.sent)
    trainer.train(config)  # has ended: nothing to tell
    assert len(cloud.sent) == told


def test_entries_that_are_not_taken_are_said_once_and_stop_nothing(
    tmp_path, cloud, caplog, monkeypatch
):
    said = []
    with start(tmp_path, clock := Time(), [1, 2], said.append) as goodput:
        cloud.refuses = PermissionError("the role\nwas taken away")
        for step in (3, 4):
            goodput.now("data")
            goodput.step(step)
            clock.now += 2
            goodput._recorder.flush()
        monkeypatch.setattr(goodput._recorder, "record_step_start_time", None)
        goodput.step(5)
    assert said == [
        "Google's goodput of a-job lacks entries (PermissionError: the role was taken away; not "
        "said again); goodput.csv has all"
    ]
    # The sender's own reports, with a traceback each; INFO is what it was told to send.
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    assert read_goodput(tmp_path / "goodput.csv")[0]["last_step"] == 5


def test_a_sender_that_hangs_does_not_hold_the_end(tmp_path, cloud, monkeypatch):
    monkeypatch.setattr(google_goodput, "_PATIENCE", 0.1)
    said, go_on = [], threading.Event()
    with start(tmp_path, Time(), [1], said.append) as goodput:
        monkeypatch.setattr(goodput._recorder, "flush", lambda: go_on.wait(10))
    go_on.set()
    assert ["the last were not sent" in text for text in said] == [True]


def test_the_first_process_alone_tells(tmp_path, cloud, monkeypatch):
    monkeypatch.setattr(hosts, "is_first", lambda: False)
    with start(tmp_path, Time(), [1, 2]):
        pass
    assert (cloud.texts, cloud.sent) == ([], [])


@pytest.mark.parametrize("what", ["library", "credentials", "permission"])
def test_what_is_missing_is_a_line_before_any_data_is_read(what, tmp_path, monkeypatch, request):
    if what == "library":
        monkeypatch.setitem(sys.modules, "ml_goodput_measurement", None)
        message = r"needs ml_goodput_measurement .*: pip install 'dlms_jax\[goodput\]'"
    elif what == "credentials":
        pytest.importorskip("ml_goodput_measurement")
        for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        message = r"goodput_job=a-job: Google Cloud Logging takes no entry \(DefaultCredentialsEr"
    else:
        request.getfixturevalue("cloud").refuses = PermissionError("not\nyours")
        message = r"takes no entry \(PermissionError: not yours\); give credentials"
    config = small_config(training__goodput_job=JOB, data__corpus=str(tmp_path / "none"))
    with pytest.raises(UserError, match=message) as error:
        Trainer(tmp_path / "run").train(config)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_name_that_queries_could_not_find_is_refused():
    with pytest.raises(UserError, match=r"config.training.goodput_job='a\\nb' should be"):
        small_config(training__goodput_job="a\nb")


def test_without_a_job_nothing_of_google_is_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_goodput_measurement", None)
    assert not isinstance(make_goodput(tmp_path, "", print), GoogleGoodput)
