"""The command as it is run: by formula without the TPU compiler, and compiled with it."""

import json
import pathlib

import jax
from planning.libtpu import compiled_plan, needs_libtpu
import pytest

from dlms_jax import plan as command
from dlms_jax.errors import UserError
from dlms_jax.planning import compiling
from dlms_jax.planning.memory import Memory

ROOT = pathlib.Path(__file__).parents[2]
TINY = f"--config={ROOT / 'configs/tiny.py'}"


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    monkeypatch.setattr(command, "have_libtpu", lambda: False)
    # What the command sets for itself goes with it: later tests' processes keep their programs.
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")


def run(capsys, *arguments):
    command.main([str(a) for a in arguments])
    return capsys.readouterr().out


def test_without_the_compiler_all_is_estimated_and_a_line_says_so(capsys):
    out = run(capsys, TINY, "--topology=v5e:2x4")
    assert "by formula only" in out and "pip install 'dlms_jax[plan]'" in out
    for word in ("parameters", "gradients", "HBM of a v5e", "fits:", "all-reduce", "MFU",
                 "chip-hours", "tokens per day", "assumptions", "advice:"):  # fmt: skip
        assert word in out, word
    assert "8 chip(s) (data 8" in out
    assert max(map(len, out.splitlines())) < 170 and "\x1b" not in out


def test_json_has_the_same_and_adds_up(capsys):
    plan = json.loads(run(capsys, TINY, "--topology=v5p:2x2x1", "--json",
                          "--config.training.ema_decay=0.99"))  # fmt: skip
    assert not plan["compiled"] and plan["fits"] and plan["chips"] == 4
    arguments = plan["memory"]["arguments"]
    assert arguments["moving average"] == arguments["parameters"] == 902_784 * 4
    total = sum(arguments.values()) + sum(plan["memory"]["temporaries"].values())
    assert plan["memory"]["total"] == total
    assert plan["config"]["training"]["ema_decay"] == 0.99
    assert plan["time"]["all_overlapped"] <= plan["time"]["step"] <= plan["time"]["none_overlapped"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology=v7:4x4"], "unknown chip 'v7'; use one of"),
        (["--topology=v5p:4x4"], "3 sides"),
        (["--topology=v5e:4x8"], "use a multiple of 32"),
        (["--topology=v5e:2x4", "--config.mesh.tensor=3"], "does not fit 8 device"),
        (["--topology=v5e:2x4", "--config.mesh.fsdp=4", "--slices=4"], "training.batch_size gives"),
        (["--topology=v5e:2x2", "--slices=2", "--config.mesh.data=1", "--config.mesh.fsdp=8"],
         "multiple of 2"),
        (["--topology=v5e:2x4", "--config.model.widht=3"], "did you mean config.model.width?"),
        (["--topology=v5e:2x4", "--config.tokenizer.name=hf"], "needs config.tokenizer.path"),
        (["--topology=v5e:2x4", "--fast"], "unknown option --fast"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_one_line(arguments, message, capsys):
    if "--slices=4" in arguments:
        arguments = [*arguments, "--config.training.batch_size=24"]
    with pytest.raises(SystemExit) as stopped:
        command.main([TINY, *arguments])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_the_compilers_complaint_is_read():
    text = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
        "required for HLO temporaries (37.92G) exceeds available HBM (15.75G). HLO module: jit_step"
    )
    assert compiling.needed_bytes(text) == 37.92 * 2**30
    assert compiling.needed_bytes("Ran out of memory. Used 20.5G of 15.75G hbm.") == 20.5 * 2**30
    assert compiling.needed_bytes("INTERNAL: something else") is None


def test_a_step_that_does_not_fit_is_a_plan_with_what_it_wants(monkeypatch, capsys):
    """The compiler refuses it; the rest is by formula, and the advice scaled to its number."""

    def refuse(program, topology):
        raise compiling.TooLarge(100 * 2**30, temporaries_alone=True)

    monkeypatch.setattr(command, "have_libtpu", lambda: True)
    monkeypatch.setattr(compiling, "tpu_devices", lambda topology: jax.devices())
    monkeypatch.setattr(compiling, "compile_step", refuse)
    out = run(capsys, TINY, "--topology=v5e:2x4", "--config.training.batch_size=4096")
    assert "refused" in out and "DOES NOT FIT" in out and "100.000" in out
    assert "advice: more accumulation" in out and "accumulation_steps=8" in out


def test_compiled_numbers_take_the_place_of_the_formulas(monkeypatch, tmp_path, capsys):
    """Compiled for 8 fake CPU devices in a TPU's place."""
    monkeypatch.setattr(command, "have_libtpu", lambda: True)
    monkeypatch.setattr(compiling, "tpu_devices", lambda topology: jax.devices())
    recipe = tmp_path / "recipe.py"
    recipe.write_text(  # the program of test_plan.py, whose compiled form is on disk
        "from dlms_jax.testing import small_config\n"
        "def get_config():\n"
        "    return small_config(training__batch_size=16, mesh__data=1, mesh__fsdp=8)\n"
    )
    plan = json.loads(run(capsys, f"--config={recipe}", "--topology=v5e:2x4", "--json"))
    assert plan["compiled"] and plan["compile_seconds"] > 0
    assert set(plan["memory"]["temporaries"]) == {"temporaries"}
    # A CPU has no tiles; what is not used is dropped.
    assert abs(plan["memory"]["padding"]) < 4096
    assert plan["memory"]["aliased"] >= sum(plan["memory"]["arguments"].values()) * 0.9  # donated
    assert "all-gather" in plan["sent_bytes"]["fsdp"]
    assert 0 < plan["flops"]["compiler"] < 2 * plan["flops"]["formula"]
    assert plan["largest_collectives"][0]["sent"] >= plan["largest_collectives"][1]["sent"]


def test_a_program_that_cannot_be_read_keeps_its_memory(monkeypatch, capsys):
    """Some large programs of libtpu are none to jaxlib; their memory is known all the same."""
    sizes = Memory({"parameters": 2**30}, {"temporaries": 2.0**31}, available=2**34)
    compiled = compiling.Compiled(sizes, "", 1.0, 3.0, unread="INTERNAL: RET_CHECK failure")
    monkeypatch.setattr(command, "have_libtpu", lambda: True)
    monkeypatch.setattr(compiling, "tpu_devices", lambda topology: jax.devices())
    monkeypatch.setattr(compiling, "compile_step", lambda program, topology: compiled)
    out = run(capsys, TINY, "--topology=v5e:2x4")
    assert "network and HBM traffic are by formula: INTERNAL: RET_CHECK failure" in out
    assert "fits: 81.2% free" in out and "all-reduce" in out


@pytest.mark.slow
@needs_libtpu
def test_large_fits_a_v5p_slice_as_it_is_compiled():
    """The real train step of 1.7B parameters, for 64 chips that are not here."""
    plan = compiled_plan(
        "large", "--topology=v5p:4x4x4", "--config.mesh.data=4", "--config.mesh.fsdp=16"
    )
    assert plan["compiled"] and plan["fits"] and plan["memory"]["margin"] > 0.5
    given = sum(plan["memory"]["arguments"].values())  # norms are whole on each chip
    assert given == pytest.approx(3 * 4 * 1_732_895_744 / 16, rel=0.01)
    kinds = plan["sent_bytes"]["fsdp"]
    assert kinds["all-gather"] > kinds["all-reduce"] and kinds["reduce-scatter"] > 0
    assert plan["attention"] == "splash"
    assert plan["hbm_bytes"] < 635e9 / 2  # what it moved when scores went to HBM and back
    assert plan["memory_by_formula"] == pytest.approx(plan["memory"]["total"], rel=0.3)
    head = 2048 * 50_304 * 4
    largest = plan["largest_collectives"]
    assert not any(c["kind"] == "all-reduce" and c["size"] >= head for c in largest)


@pytest.mark.slow
@needs_libtpu
def test_between_two_slices_go_gradients_alone():
    """Compiled for two slices, one index of `data` each: the matrices' gradients are sent once, as
    they are split over the slice (4 bytes of the embeddings and head, 2 of the layers)."""
    plan = compiled_plan(
        "base", "--topology=v5p:2x2x1", "--slices=2", "--config.mesh.data=2",
        "--config.mesh.fsdp=4",
    )  # fmt: skip
    parameters = plan["memory"]["arguments"]["parameters"] / 4
    assert not any("data" in axes for axes in plan["sent_bytes"])  # within a slice data is 1
    assert 2 * parameters < sum(plan["sent_bytes"]["slices"].values()) < 4.1 * parameters


def test_an_unknown_error_of_the_compiler_is_one_line(monkeypatch):
    class Program:
        def lower(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: no\nmore")

    with pytest.raises(UserError, match="could not compile the step: INTERNAL: no$"):
        compiling.compile_step(Program(), None)
