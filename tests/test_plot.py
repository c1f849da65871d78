"""The curves are the points of metrics.csv, drawn to a PNG."""

import pathlib

import matplotlib.figure
import matplotlib.image
import pytest

from dlms_jax import plot
from dlms_jax.errors import UserError
from dlms_jax.plot import draw_curves
from dlms_jax.runtime.metric_writer import COLUMNS

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def run(tmp_path):
    """A function that writes the metrics.csv of a run from rows (step, {column: value})."""

    def write(name: str, *rows) -> pathlib.Path:
        workdir = tmp_path / name
        workdir.mkdir()
        lines = [",".join(COLUMNS)]
        for step, values in rows:
            row = {"step": step, "tokens": 100 * step, "learning_rate": 0.1, "grad_norm": 1.0}
            lines.append(",".join(str((row | values).get(column, "")) for column in COLUMNS))
        (workdir / "metrics.csv").write_text("\n".join(lines) + "\n")
        return workdir

    return write


ROWS = [
    (1, {"loss": 4.0}),
    (2, {"loss": 3.0, "bound": 3.5}),
    (3, {"loss": 2.5}),
    (4, {"loss": 2.0, "bound": 2.75}),
]


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures that were saved."""
    figures = []
    save = matplotlib.figure.Figure.savefig

    def keep(figure, *arguments, **settings):
        figures.append(figure)
        save(figure, *arguments, **settings)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return figures


def curves_of(figure) -> dict[str, list[tuple[list, list]]]:
    """Returns, by the title of a panel, the (x, y) of its lines."""
    return {
        axis.get_title(): [(list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines]
        for axis in figure.axes
    }


def test_curves_are_the_rows_over_tokens(run, drawn):
    workdir = run("a", *ROWS)
    out = draw_curves([workdir])
    assert out == workdir / "curves.png"
    assert out.read_bytes().startswith(PNG)
    assert matplotlib.image.imread(out).shape[:2] == (770, 1100)  # it can be read again
    assert sorted(path.name for path in workdir.iterdir()) == ["curves.png", "metrics.csv"]
    (figure,) = drawn
    curves = curves_of(figure)
    assert curves["training loss (nats/token)"] == [([100, 200, 300, 400], [4, 3, 2.5, 2])]
    assert curves["held-out bound (nats/token)"] == [([200, 400], [3.5, 2.75])]  # no gaps as 0
    assert curves["learning rate"] == [([100, 200, 300, 400], [0.1] * 4)]
    assert curves["gradient norm"] == [([100, 200, 300, 400], [1.0] * 4)]


def test_several_runs_share_the_axes(run, drawn):
    first, second = run("a", *ROWS), run("b", (5, {"loss": 1.0}))
    out = draw_curves([first, second])
    assert out == first / "curves.png" and out.read_bytes().startswith(PNG)
    assert not (second / "curves.png").exists()
    (figure,) = drawn
    losses = curves_of(figure)["training loss (nats/token)"]
    assert losses == [([100, 200, 300, 400], [4, 3, 2.5, 2]), ([500], [1])]
    labels = [
        text.get_text()
        for axis in figure.axes
        if axis.get_legend()
        for text in axis.get_legend().get_texts()
    ]
    assert labels == [str(first), str(second)]


def test_runs_may_have_names(run, drawn):
    draw_curves([run("a", *ROWS), run("b", *ROWS)], names=["one", "other"])
    (legend,) = [axis.get_legend() for axis in drawn[0].axes if axis.get_legend()]
    assert [text.get_text() for text in legend.get_texts()] == ["one", "other"]


def test_drawing_again_replaces(run):
    workdir = run("a", *ROWS)
    (workdir / "curves.png").write_bytes(b"old")
    draw_curves([workdir])
    assert (workdir / "curves.png").read_bytes().startswith(PNG)
    assert sorted(path.name for path in workdir.iterdir()) == ["curves.png", "metrics.csv"]


def test_column_that_was_never_logged_is_an_empty_panel(run, drawn):
    draw_curves([run("a", (1, {"loss": 4.0}))])
    assert curves_of(drawn[0])["held-out bound (nats/token)"] == [([], [])]


def test_broken_steps_are_gaps(run):
    workdir = run(
        "a", (1, {"loss": 4.0}), (2, {"loss": "nan", "grad_norm": "inf"}), (3, {"loss": 3})
    )
    assert draw_curves([workdir]).read_bytes().startswith(PNG)


def test_failed_run_leaves_no_half_written_png(run, monkeypatch):
    workdir = run("a", *ROWS)

    def fail(*_, **__):
        (workdir / "curves.png.unfinished").write_bytes(PNG)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", fail)
    with pytest.raises(UserError, match="No space left"):
        draw_curves([workdir])
    assert [path.name for path in workdir.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize(
    "content",
    [None, "", ",".join(COLUMNS) + "\n", "epoch,accuracy\n1,0.5\n", "step,accuracy\n1,0.5\n"],
    ids=["no file", "empty", "no rows", "no steps", "other columns"],
)
def test_run_without_metrics(content, tmp_path):
    if content is not None:
        (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(UserError, match="metrics.csv") as error:
        draw_curves([tmp_path])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "curves.png").exists()


def test_one_bad_run_among_good_ones_is_named(run, tmp_path):
    with pytest.raises(UserError, match="missing"):
        draw_curves([run("a", *ROWS), tmp_path / "missing"])


# The command line


def test_command_prints_where_the_png_is(run, capsys, tmp_path):
    workdir = run("a", *ROWS)
    plot.main([str(workdir), "--out", str(tmp_path / "x.png")])
    assert capsys.readouterr().out == f"{tmp_path / 'x.png'}\n"
    assert (tmp_path / "x.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("case", ["missing run", "missing folder of --out", "a folder as --out"])
def test_wrong_command_ends_with_status_2_and_one_line(case, run, capsys, tmp_path):
    workdir = run("a", *ROWS)
    arguments = {
        "missing run": [str(tmp_path / "missing")],
        "missing folder of --out": [str(workdir), "--out", str(tmp_path / "no" / "x.png")],
        "a folder as --out": [str(workdir), "--out", str(workdir)],
    }[case]
    with pytest.raises(SystemExit) as ended:
        plot.main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and not out
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["metrics.csv"]
