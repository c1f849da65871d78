"""The pages: what is generated is current, links lead somewhere, and files that they name exist."""

import pathlib
import re

import architecture
import licences
import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))
)
FILES = {
    path.relative_to(ROOT).as_posix()
    for folder in ("dlms_jax", "tests", "docs", "configs", "benchmarks", "launch", ".ci")
    for path in (ROOT / folder).rglob("*")
}


def test_the_architecture_is_current():
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert page == architecture.page(), "run: python tests/architecture.py > docs/architecture.md"


def test_every_file_and_folder_is_in_the_architecture():
    page = architecture.page()
    for path in architecture.ROOT.rglob("*.py"):
        name = f"{path.parent.name}/" if path.name == "__init__.py" else path.name
        assert path.parent == architecture.ROOT or name in page or name.startswith("__"), path
    folders = {path.parent.name for path in architecture.ROOT.glob("*/__init__.py")}
    assert folders == set(architecture.ROOMS)


def anchors(text: str) -> set[str]:
    """Returns the anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_files_of_ours_that_a_page_names_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for name in re.findall(r"`((?:[\w.-]+/)+[\w-]+\.(?:py|sh|md))`", text):
        if name.split("/")[0] in ("runs", "release", "dist", "data"):
            continue
        assert name in FILES or f"dlms_jax/{name}" in FILES, f"{page}: {name}"


def test_licences_are_permissive_and_listed():
    """What is not installed here is compared where all extras are (.ci/full)."""
    page = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    packages = licences.needed_by()
    assert re.findall(r"^\| ([\w-]+) \|", page, re.MULTILINE) == ["package", *packages]
    for package, extras in packages.items():
        if licences.installed(package):
            assert any(name in licences.licence_of(package) for name in licences.ALLOWED), package
            assert licences.row(package, extras) in page, "run: python tests/licences.py"
