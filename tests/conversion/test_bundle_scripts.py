"""The two scripts of a release have the same steps."""

import subprocess
import sys

import pytest

from dlms_jax.conversion.bundle import scripts
from dlms_jax.conversion.bundle.scripts import STEPS, Choose, Require, Run, to_bat, to_sh


def parts(text: str, comment: str) -> dict[str, list[str]]:
    """Returns the lines of each step by its comment, without the head of the script."""
    steps = {}
    for paragraph in text.split("\n\n")[1:]:
        first, *lines = paragraph.splitlines()
        assert first.startswith(comment)
        steps[first.removeprefix(comment)] = lines
    return steps


@pytest.mark.parametrize("steps", [STEPS, STEPS[::-1], STEPS[1:]])
def test_both_have_the_steps_in_order(steps):
    sh = parts(to_sh(steps), "# ")
    bat = parts(to_bat(steps).replace("\r\n", "\n"), "rem ")
    assert list(sh) == list(bat) == [step.comment for step in steps]
    for step in steps:
        for lines in (sh[step.comment], bat[step.comment]):
            text = "\n".join(lines)
            match step:
                case Choose():
                    assert "PYTHON" in text
                case Require():
                    assert step.statement in text and step.error in text and "exit" in text
                case Run():
                    assert step.file in lines[0] and ('"$@"' in text or "%*" in text)


def test_line_ends_are_those_of_the_system():
    assert "\r" not in to_sh()
    assert to_bat().count("\n") == to_bat().count("\r\n") > 10
    assert to_sh().isascii() and to_bat().isascii()


def test_errors_and_statements_need_no_escapes():
    """cmd.exe or the shell would interpret these characters."""
    for step in STEPS:
        if isinstance(step, Require):
            assert not set(step.error) & set('()%<>|&^!"$`\\')
            assert not set(step.statement) & set('%"$`\\!')


def test_sh_is_a_shell_script(tmp_path):
    (tmp_path / "run_demo.sh").write_text(to_sh())
    assert subprocess.run(["sh", "-n", tmp_path / "run_demo.sh"]).returncode == 0


def run_sh(folder, *arguments, python):
    (folder / "run_demo.sh").write_text(to_sh())
    command = ["sh", folder / "run_demo.sh", *arguments]
    environment = {"PYTHON": python, "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, text=True, capture_output=True, env=environment)


def test_arguments_and_status_pass_through(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "demo.py").write_text("import sys; print(sys.argv[1:]); sys.exit(7)")
    done = run_sh(folder, "two words", "$HOME", "", python=sys.executable)
    assert done.stdout == "['two words', '$HOME', '']\n" and done.returncode == 7


def test_no_python_is_one_line(tmp_path):
    done = run_sh(tmp_path, python="no-such-python")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: this needs Python {scripts.PYTHON[0]}.")
