"""Options of commands that mean what a setting means: the same range, names and help."""

import argparse

import pytest

from dlms_jax import evaluate, experiment, sample
from dlms_jax.config import SETTINGS, add_option, formats
from dlms_jax.config.formats import Renamed
from dlms_jax.errors import UserError
from dlms_jax.prepare import __main__ as prepare


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (evaluate, ["--samples", "0"], "--samples=0 should be at least 1"),
        (evaluate, ["--samples", "few"], "--samples=few should be a whole number"),
        (evaluate, ["--rows", "-1"], "--rows=-1 should be at least 0"),
        (evaluate, ["--seed", "-1"], "--seed=-1 should be at least 0"),
        (sample, ["--seed", str(2**32)], f"--seed={2**32} should be at least 0 and at most"),
        (sample, ["--length", "0"], "--length=0 should be at least 1"),
        (sample, ["--steps", "0"], "--steps=0 should be at least 1"),
        (sample, ["--temperature", "-1"], "--temperature=-1.0 should be at least 0"),
        (sample, ["--temperature", "inf"], "--temperature=inf should be at least 0"),
        (sample, ["--top-p", "0"], "--top-p=0.0 should be above 0 and at most 1"),
        (sample, ["--sampler", "greedy"], "--sampler='greedy' should be one of default, ancestral"),
    ],
)
def test_a_value_out_of_range_is_one_line_before_anything_is_loaded(
    command, arguments, message, capsys
):
    with pytest.raises(SystemExit) as ended:
        command.main(["--checkpoint", "nowhere", *arguments])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {message}") and err.count("\n") == 1 and not out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-3"], "--seed=-3"),
        (["--heldout-fraction", "0"], "--heldout-fraction=0.0 should be above 0 and below 1"),
        (["--sequence-length", "1"], "--sequence-length=1 should be at least 2"),
        (["--packing", "tight"], "--packing='tight' should be one of concat, best-fit"),
        (["--vocab-size", "0"], "--vocab-size=0"),
        (["--synthetic-documents", "0"], "--synthetic-documents=0"),
    ],
)
def test_prepare_checks_by_the_same_rule(arguments, message, capsys):
    with pytest.raises(SystemExit):
        prepare.main(["dataset", "nowhere", "--sequence-length", "8", *arguments])
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_help_is_the_settings_meaning(capsys):
    with pytest.raises(SystemExit):
        sample.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name in ("sampler", "steps", "temperature", "top_p", "guidance", "length"):
        assert SETTINGS[f"sampling.{name}"].meaning in shown
    with pytest.raises(SystemExit):
        experiment.main(["family", "--help"])
    assert SETTINGS["sampling.temperature"].meaning in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (sample, ["--checkpoint", "x", "--grid", "cosine"], "--grid is now --timestep-spacing"),
        (sample, ["--checkpoint", "x", "--rounding"], "--rounding is now --clamp"),
        (prepare, ["clean", "x", "--out", "y", "--field", "a"], "--field is now --text-field"),
        (
            prepare,
            ["clean", "x", "--out", "y", "--invalid=skip"],
            "--invalid is now --invalid-utf8",
        ),
    ],
)
def test_renamed_options(command, arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2 and capsys.readouterr().err == f"error: {message}\n"


def test_an_older_name_gets_one_line(monkeypatch):
    table = (Renamed("sampling.spacing_of_steps", "sampling.steps", 1),)
    monkeypatch.setattr(formats, "RENAMED", table)
    parser = argparse.ArgumentParser()
    add_option(parser, "--steps", "sampling.steps")
    assert parser.parse_args(["--steps", "8"]).steps == 8
    assert parser.parse_args([]).steps is None
    assert "spacing" not in parser.format_help()
    for arguments in (["--spacing-of-steps", "8"], ["--spacing-of-steps=8"]):
        with pytest.raises(UserError, match="--spacing-of-steps is now --steps"):
            parser.parse_args(arguments)
