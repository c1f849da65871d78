"""The arrows between the folders, and what keeps the package readable (shared design, section 2).

errors, files, terminal <- config <- {data, diffusion, models, parallel} <- checkpoints
<- {denoiser, sampling} <- {evaluation, conversion} <- {training, serving} <- {runtime, planning}
<- studies <- the files at the top
"""

import ast
import fnmatch
import pathlib
import re

import pytest

PACKAGE = "dlms_jax"
ROOT = pathlib.Path(__file__).parents[1] / PACKAGE
PATHS = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
SOURCES = {name: path.read_text(encoding="utf-8") for name, path in PATHS.items()}

LEVELS = (
    {"errors", "files", "terminal"},
    {"config"},
    {"data", "diffusion", "models", "parallel"},
    {"checkpoints"},
    {"denoiser", "sampling"},
    {"evaluation", "conversion"},
    {"training", "serving"},
    {"runtime", "planning"},
    {"studies"},
)
LEVEL_OF = {concept: level for level, concepts in enumerate(LEVELS) for concept in concepts}
TOP = len(LEVELS)  # a file at the top that is neither errors.py nor config.py


def concept_of(name: str) -> str:
    """Returns the folder of a file of the package, or its stem where it is at the top."""
    return name.split("/")[0].removesuffix(".py")


def level_of(concept: str) -> int:
    return LEVEL_OF.get(concept, TOP)


def imported(source: str, name: str) -> set[str]:
    """Returns the dotted names that a file imports anywhere, functions included.

    `from a import b` gives a.b, whether b is a module or stands in a.
    """
    here = [PACKAGE, *name.split("/")[:-1]]  # the package that a relative import starts from
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def concepts_used(source: str, name: str, concepts: set[str]) -> set[str]:
    """Returns the concepts of this package that a file imports; __init__ for its root's names."""
    used = set()
    for dotted in imported(source, name):
        package, _, rest = dotted.partition(".")
        if package == PACKAGE and rest != "__version__":
            concept = rest.split(".")[0]
            used.add(concept if concept in concepts else "__init__")
    return used


def wrong_arrows(sources: dict[str, str]) -> set[tuple[str, str]]:
    """Returns (file, concept) for every import that does not point down."""
    concepts = set(map(concept_of, sources)) | set(LEVEL_OF)
    wrong = set()
    for name, source in sources.items():
        own = concept_of(name)
        if level_of(own) < TOP:  # files at the top may import one another, but see cycle()
            used = concepts_used(source, name, concepts) - {own}
            wrong |= {(name, other) for other in used if level_of(other) >= level_of(own)}
    return wrong


def cycle(sources: dict[str, str]) -> list[str]:
    """Returns modules that import one another in a circle; [] where there is none.

    The package's root is left out: it imports on first use only (dlms_jax/__init__.py).
    """
    modules = {dotted(name): name for name in sources if name != "__init__.py"}
    graph = {}
    for module, name in modules.items():
        graph[module] = {module_in(modules, n) for n in imported(sources[name], name)}
        graph[module] -= {module, None}
    done = set()

    def visit(module, above):
        if module in above:
            return [*above[above.index(module) :], module]
        if module not in done:
            for other in sorted(graph[module]):
                if found := visit(other, [*above, module]):
                    return found
            done.add(module)
        return []

    return next(filter(None, (visit(module, []) for module in sorted(graph))), [])


def dotted(name: str) -> str:
    """Returns the module name of a file."""
    parts = [PACKAGE, *name.removesuffix(".py").split("/")]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_in(modules, name: str) -> str | None:
    """Returns the module that a.b.c is, or stands in."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def importers_of(sources: dict[str, str], module: str) -> set[str]:
    """Returns the files that import a module or a part of it."""
    return {
        name
        for name, source in sources.items()
        if any(n == module or n.startswith(f"{module}.") for n in imported(source, name))
    }


def uses_of(sources: dict[str, str], attribute: str) -> set[str]:
    """Returns the files in which a name is imported or taken as an attribute."""
    found = {
        n for n, s in sources.items() if any(i.endswith(f".{attribute}") for i in imported(s, n))
    }
    for name, source in sources.items():
        nodes = ast.walk(ast.parse(source))
        if any(isinstance(node, ast.Attribute) and node.attr == attribute for node in nodes):
            found.add(name)
    return found


def names_asked(source: str) -> list[str]:
    """Returns the expressions that decide something by `objective.name`: where it is compared, or
    chooses from a table. (Printing it, or passing it on, is fine.)"""

    def holds(node):
        return any(
            isinstance(x, ast.Attribute) and re.search(r"\bobjective\.name$", ast.unparse(x))
            for x in ast.walk(node)
        )

    def decides(node):
        match node:
            case ast.Compare():
                return holds(node)
            case ast.Match():
                return holds(node.subject)
            case ast.Subscript():
                return holds(node.slice)
            case ast.Call(func=ast.Attribute(attr="get")):
                return any(map(holds, node.args))
        return False

    return [ast.unparse(node) for node in ast.walk(ast.parse(source)) if decides(node)]


# The package


def test_the_package_was_found():
    """Every test below says something of these files."""
    assert {"main.py", "config/checks.py", "data/packing.py"} <= set(SOURCES)
    loader = "data/feed/loader.py"
    assert "dlms_jax.data.packing.Rows" in imported(SOURCES[loader], loader)
    assert "dlms_jax.trainer.Trainer" in imported(SOURCES["main.py"], "main.py")  # in a function


def test_every_folder_has_its_place():
    folders = {name.split("/")[0] for name in SOURCES if "/" in name}
    # A command with a file for each of its own, and what tests use, which nothing else imports.
    assert folders - set(LEVEL_OF) == {"prepare", "testing"}
    for name, source in SOURCES.items():
        if not name.startswith("testing/"):
            assert "testing" not in concepts_used(source, name, {"testing"}), name


def test_imports_point_one_way():
    assert wrong_arrows(SOURCES) == set()


def test_no_module_imports_itself_by_way_of_others():
    assert cycle(SOURCES) == []


def test_flax_is_fenced_in_models():
    importers = importers_of(SOURCES, "flax")
    assert importers and {concept_of(name) for name in importers} == {"models"}


def test_ml_collections_ends_in_config():
    assert importers_of(SOURCES, "ml_collections") == {"config/recipes.py"}


def test_diffusion_and_models_do_not_know_one_another():
    """They meet through a function that is passed in."""
    four = {"data", "diffusion", "models", "parallel"}
    for name, source in SOURCES.items():
        if concept_of(name) in four:
            assert concepts_used(source, name, four) & four <= {concept_of(name)}, name
    for name in importers_of(SOURCES, "dlms_jax.models"):
        assert concept_of(name) != "sampling"  # a sampler is given its denoiser


def test_only_config_decides_by_the_name_of_an_objective():
    """Others ask for its traits (config/traits.py)."""
    asked = {name for name, source in SOURCES.items() if names_asked(source)}
    assert {concept_of(name) for name in asked} == {"config"}


@pytest.mark.parametrize("name", ["pmap", "with_logical_constraint"])
def test_superseded_ways_of_sharding_are_not_used(name):
    assert uses_of(SOURCES, name) == set()


def test_importing_the_package_alone_costs_nothing():
    """`import dlms_jax` and the checks before a run must not wait for JAX."""
    commands = (
        "main.py", "sample.py", "evaluate.py", "experiment.py", "convert.py", "release.py",
        "plan.py", "prepare/__main__.py",
    )  # fmt: skip
    for name in ("__init__.py", "errors.py", *commands):
        top = [
            node for node in ast.parse(SOURCES[name]).body if not isinstance(node, ast.FunctionDef)
        ]
        names = {n.split(".")[0] for n in imported(ast.unparse(ast.Module(top, [])), name)}
        assert not names & {"jax", "flax", "optax", "orbax", "grain"}, name


@pytest.mark.parametrize("name", SOURCES)
def test_module_is_short_and_says_what_it_is(name):
    assert ast.get_docstring(ast.parse(SOURCES[name])), "no docstring"
    assert SOURCES[name].count("\n") <= 400, "over 400 lines: it holds two concepts"
    assert pathlib.PurePath(name).stem not in {"utils", "util", "helpers", "common", "misc"}


def test_pytest_enters_every_folder_of_tests(pytestconfig):
    """By default it passes over folders named build, such as tests/data/build, without a word."""
    tests = pathlib.Path(__file__).parent
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}
    ignored = pytestconfig.getini("norecursedirs")
    for folder in folders:
        for part in folder.parts:
            assert not any(fnmatch.fnmatch(part, pattern) for pattern in ignored), folder


# The checks themselves, on what they must find


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("data/a.py", "import dlms_jax.training.step"),
        ("data/a.py", "from dlms_jax.models import sizes"),
        ("data/a.py", "from dlms_jax import models"),
        ("data/a.py", "from ..models import sizes"),
        ("data/a.py", "from .. import models"),
        ("data/a.py", "def f():\n    from dlms_jax.models import sizes"),
        ("data/a.py", "if X:\n    import dlms_jax.trainer as t"),
        ("data/a.py", "from dlms_jax import DiffusionLM"),
        ("config.py", "from dlms_jax.data import a"),
        ("errors.py", "from dlms_jax import config"),
        ("sampling/a.py", "from dlms_jax.training import step"),
        ("evaluation/a.py", "from dlms_jax import model"),
    ],
)
def test_wrong_arrows_are_found(name, source):
    assert len(wrong_arrows({name: source, "model.py": "", "trainer.py": ""})) == 1


@pytest.mark.parametrize(
    ("source", "number"),
    [
        ("if config.objective.name == 'block': pass", 1),
        ("copies = 2 if c.objective.name in ('masked', 'block') else 1", 1),
        ("x = {'block': 2}.get(lm.config.objective.name, 1)", 1),
        ("x = TABLE[objective.name]", 1),
        ("match config.objective.name:\n    case 'block': pass", 1),
        ("print(f'{config.objective.name}: {other.name == 1}')", 0),
        ("sampler = make_sampler(config.objective.name, objective, sampling)", 0),
        ("same = config.model.name == 'unet'", 0),
    ],
)
def test_questions_for_the_name_are_found(source, number):
    assert len(names_asked(source)) == number


def test_right_arrows_are_none():
    files = {
        "__init__.py": "def f():\n    from dlms_jax.main import x",
        "errors.py": "import os",
        "config.py": "from dlms_jax.errors import UserError",
        "data/a.py": "from dlms_jax.data.b import c\nfrom . import b\nfrom ..config import d",
        "data/b.py": "import numpy.trainer",
        "sampling/x.py": "",
        "training/s.py": "from dlms_jax.sampling import x\nfrom dlms_jax import __version__",
        "trainer.py": "from dlms_jax.training import s",
        "main.py": "from dlms_jax import trainer",
    }
    assert wrong_arrows(files) == set()
    assert cycle(files) == []


@pytest.mark.parametrize(
    "files",
    [
        {"a.py": "from dlms_jax import b", "b.py": "from dlms_jax.a import x"},
        {"a.py": "from . import b", "b.py": "def f():\n    import dlms_jax.a"},
        {"data/a.py": "from dlms_jax.data import b", "data/b.py": "from .a import x"},
        {"data/__init__.py": "from .a import x", "data/a.py": "from dlms_jax.data import y"},
    ],
)
def test_cycles_are_found(files):
    found = cycle(files)
    assert len(found) == 3 and found[0] == found[-1]


def test_fences_are_seen():
    files = {
        "a.py": "from jax import pmap",
        "b.py": "jax.pmap(f)",
        "c.py": "pmapped = 1",
        "d.py": "import flax.linen",
        "e.py": "from flax import linen",
        "f.py": "import flaxen",
    }
    assert uses_of(files, "pmap") == {"a.py", "b.py"}
    assert importers_of(files, "flax") == {"d.py", "e.py"}
