"""dlms COMMAND: the commands under one name, and the recipes that come with the package."""

import pathlib

import pytest

from dlms_jax import __version__
from dlms_jax.cli import COMMANDS, main
from dlms_jax.config import bundled, load_config
from dlms_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Returns (status, output, errors) of a command."""
    try:
        status = main(arguments) or 0
    except SystemExit as ended:
        status = ended.code or 0
    return status, *capsys.readouterr()


def test_help_and_version(capsys):
    status, out, _ = run(capsys)
    assert status == 0 and all(f"  {name} " in out for name in COMMANDS)
    assert run(capsys, "--help")[1] == out
    assert run(capsys, "--version")[1] == f"dlms_jax {__version__}\n"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "recipes"])
def test_each_command_shows_its_options_under_its_own_name(name, capsys):
    status, out, _ = run(capsys, name, "--help")
    assert status == 0 and out.startswith(f"usage: dlms {name}")


def test_an_unknown_command_or_argument_is_one_line(capsys):
    status, _, err = run(capsys, "tarin")
    assert status == 2 and err.startswith("error: unknown command tarin") and err.count("\n") == 1
    status, _, err = run(capsys, "recipes", "x")
    assert status == 2 and err.count("\n") == 1


def test_errors_of_a_command_end_with_its_status(capsys):
    status, _, err = run(capsys, "train", "--config=tniy")
    assert status == 2
    assert err == "error: --config=tniy: no such file or recipe; did you mean tiny?\n"


def test_recipes_are_listed_with_what_they_are(capsys):
    _, out, _ = run(capsys, "recipes")
    listed = {line.split()[0]: line for line in out.splitlines() if line and line[0] != " "}
    files = [*(ROOT / "configs").glob("*.py"), *(ROOT / "configs/family").glob("*.py")]
    for file in files:
        name = file.relative_to(ROOT / "configs").with_suffix("").as_posix()
        assert bundled.summary(file) in listed[name] and bundled.summary(file)


def test_a_bundled_recipe_is_found_from_any_folder_and_a_file_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = load_config(str(ROOT / "configs/tiny.py"))
    for name in ("tiny", "tiny.py", "configs/tiny.py", "configs/tiny"):
        assert load_config(name) == expected
    assert load_config("family/block4").block.size == 4
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/tiny.py").write_text("def get_config(): return {'name': 'mine'}")
    assert load_config("configs/tiny.py").name == "mine"
    assert load_config("tiny") == expected
    family = pathlib.Path("configs/family")
    assert bundled.recipe_folder(family) == ROOT / "configs/family"
    (tmp_path / family).mkdir()
    assert bundled.recipe_folder(family) == family


@pytest.mark.parametrize("name", ["", "../tiny", "configs/../tiny", "nothing/at/all", "x" * 300])
def test_what_is_no_recipe_is_one_line(name):
    with pytest.raises(UserError, match="no such file or recipe") as error:
        load_config(name)
    assert "\n" not in str(error.value)
