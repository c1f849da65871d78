"""metrics.csv: one row a step, whatever killed the run and however often it went on."""

import csv

import jax
import pytest

from dlms_jax.errors import UserError
from dlms_jax.runtime.metric_writer import COLUMNS, MetricWriter, make_writer, read_metrics


@pytest.fixture(autouse=True)
def no_tensorboard(request, monkeypatch):
    """Its files are slow to make; the one test that is about them asks for them."""
    if "tensorboard" not in request.node.name:
        monkeypatch.setattr("dlms_jax.runtime.metric_writer.SummaryWriter", Board)


class Board:
    """Keeps what a SummaryWriter was made with."""

    last = None

    def __init__(self, folder, purge_step):
        Board.last = self
        self.purge_step = purge_step
        self.scalars = []

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def close(self):
        pass


def write(workdir, first: int, steps, loss=0.0):
    """Does what a run does that begins after step `first`, logs `steps` and is killed."""
    writer = MetricWriter(workdir, first)
    for step in steps:
        writer.write_scalars(step, {"loss": loss + step, "tokens": 8.0 * step})
    writer.close()


def steps_of(workdir) -> list[int]:
    return [int(row["step"]) for row in read_metrics(workdir / "metrics.csv")]


def header_of(workdir) -> list[str]:
    with open(workdir / "metrics.csv", newline="") as file:
        return next(csv.reader(file))


def test_values_come_back(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    values = {"loss": 1.25, "learning_rate": 3e-4, "tokens": 4096.0, "mfu": float("nan")}
    writer.write_scalars(10, values)
    writer.write_scalars(20, {"bound": 0.1})
    writer.close()
    first, second = read_metrics(tmp_path / "metrics.csv")
    assert first["step"] == "10" and second["step"] == "20"
    assert {name: first[name] for name in values} == {
        "loss": "1.25", "learning_rate": "0.0003", "tokens": "4096", "mfu": "nan"
    }  # fmt: skip
    assert second["bound"] == "0.1"
    assert second["loss"] == "" == first["bound"]  # not logged at that step


def test_rows_can_be_read_while_the_run_goes_on(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    for step in (1, 2):
        writer.write_scalars(step, {"loss": 0.5})
        assert steps_of(tmp_path)[-1] == step
    writer.close()


def test_resume_appends(tmp_path):
    write(tmp_path, 0, [1, 2, 3])
    write(tmp_path, 3, [4, 5])
    write(tmp_path, 5, [6])
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6]
    losses = [float(row["loss"]) for row in read_metrics(tmp_path / "metrics.csv")]
    assert losses == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "metrics.csv").read_text().count("step") == 1  # one header


def test_rows_beyond_the_resumed_step_are_dropped(tmp_path):
    """A run killed at step 5 goes on from its checkpoint of step 3, and logs 4 and 5 anew."""
    write(tmp_path, 0, [1, 2, 3, 4, 5])
    write(tmp_path, 3, [4, 5], loss=100.0)
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5]
    losses = [float(row["loss"]) for row in read_metrics(tmp_path / "metrics.csv")]
    assert losses == [1, 2, 3, 104, 105]


def test_resume_that_logs_nothing_keeps_what_was_there(tmp_path):
    write(tmp_path, 0, [1, 2])
    write(tmp_path, 2, [])
    assert steps_of(tmp_path) == [1, 2]
    write(tmp_path, 0, [])  # no checkpoint: all again
    assert steps_of(tmp_path) == []


def test_rows_are_compared_as_numbers(tmp_path):
    """Step 10 comes after 9."""
    write(tmp_path, 0, [8, 9, 10, 11, 100])
    write(tmp_path, 10, [])
    assert steps_of(tmp_path) == [8, 9, 10]


def test_half_written_line_is_dropped_wherever_it_was_cut(tmp_path):
    """A row is what it was, or is not there: no value may be cut short."""
    writer = MetricWriter(tmp_path, 0)
    writer.write_scalars(1, {"loss": 0.5, "seconds": 1.25})
    before = (tmp_path / "metrics.csv").read_bytes()
    writer.write_scalars(123, dict.fromkeys(COLUMNS[1:], 12.5))
    writer.close()
    content = (tmp_path / "metrics.csv").read_bytes()
    whole = read_metrics(tmp_path / "metrics.csv")
    assert len(whole) == 2
    for end in range(len(before), len(content)):
        (tmp_path / "metrics.csv").write_bytes(content[:end])
        rows = read_metrics(tmp_path / "metrics.csv")
        assert rows in (whole[:1], whole), content[:end].splitlines()[-1]


def test_header_cut_anywhere_is_no_rows(tmp_path):
    header = (",".join(COLUMNS) + "\r\n").encode()
    for end in range(len(header) + 1):
        (tmp_path / "metrics.csv").write_bytes(header[:end])
        assert read_metrics(tmp_path / "metrics.csv") == []


def test_run_goes_on_after_a_half_written_line(tmp_path):
    write(tmp_path, 0, [1, 2])
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("3,0.5,")
    write(tmp_path, 3, [4])  # the checkpoint of step 3 exists; its row was lost
    assert steps_of(tmp_path) == [1, 2, 4]
    assert all(None not in row and None not in row.values()
               for row in read_metrics(tmp_path / "metrics.csv"))  # fmt: skip


def test_columns_are_stable(tmp_path):
    """Whatever is logged, in whatever order; what has no column goes to TensorBoard alone."""
    writer = MetricWriter(tmp_path, 0)
    writer.write_scalars(1, {"tokens": 8.0, "unheard_of": 1.0, "loss": 2.0})
    writer.write_scalars(2, {"loss": 2.0})
    writer.close()
    assert header_of(tmp_path) == list(COLUMNS)
    assert len(set(COLUMNS)) == len(COLUMNS) and COLUMNS[0] == "step"
    row = read_metrics(tmp_path / "metrics.csv")[0]
    assert (row["loss"], row["tokens"], "unheard_of" in row) == ("2", "8", False)
    assert ("unheard_of", 1.0, 1) in Board.last.scalars


def test_columns_of_an_older_version_are_brought_up_to_date(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,old,loss\n1,7,2.5\n2,7,2.25\n")
    write(tmp_path, 2, [3])
    assert header_of(tmp_path) == list(COLUMNS)
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [(row["step"], row["loss"]) for row in rows] == [("1", "2.5"), ("2", "2.25"), ("3", "3")]


def test_missing_and_empty_files_have_no_rows(tmp_path):
    assert read_metrics(tmp_path / "metrics.csv") == []
    (tmp_path / "metrics.csv").touch()
    assert read_metrics(tmp_path / "metrics.csv") == []
    with pytest.raises(UserError, match="cannot be read .*; repair or remove it"):
        read_metrics(tmp_path)  # a folder


def test_file_of_another_program_has_no_rows(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch;accuracy\n1;0.5\n")
    assert read_metrics(tmp_path / "metrics.csv") == []


def test_nothing_else_is_left(tmp_path):
    write(tmp_path, 0, [1])
    write(tmp_path, 1, [2])
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_board_drops_what_the_file_drops(tmp_path):
    """Its purge_step is the first step that is no longer valid."""
    write(tmp_path, 3, [])
    assert Board.last.purge_step == 4


def test_tensorboard_gets_scalars_and_texts(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    writer.write_scalars(1, {"loss": 2.0, "unheard_of": 1.0})
    writer.write_texts(1, {"sample": "Once upon a time"})
    writer.write_hparams({"model.width": 96})
    writer.close()  # tensorboardX's flush() may come before its thread has got the events
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    for text in (b"loss", b"unheard_of", b"Once upon a time", b"|model.width|96|"):
        assert text in content


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    writer = make_writer(tmp_path, 0)
    writer.write_scalars(1, {"loss": 1.0})
    writer.write_texts(1, {"sample": "text"})
    writer.write_hparams({"model.width": 1})
    writer.close()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    make_writer(tmp_path, 0).close()
    assert (tmp_path / "metrics.csv").is_file()


def test_going_back_drops_the_rows_of_the_steps_that_are_undone(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    for step in (1, 2, 3, 4):
        writer.write_scalars(step, {"loss": 1.0})
    writer.go_back(2)
    assert Board.last.purge_step == 3
    for step in (3, 4):
        writer.write_scalars(step, {"loss": 7.0})
    writer.close()
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [(row["step"], row["loss"]) for row in rows] == [
        ("1", "1"), ("2", "1"), ("3", "7"), ("4", "7")
    ]  # fmt: skip
