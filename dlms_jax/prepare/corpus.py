"""Make documents of a public corpus, from downloaded files or through the Hub or TFDS."""

import pathlib

from dlms_jax.errors import UserError
from dlms_jax.prepare.clean import clean_here


def add_arguments(parser):
    add = parser.add_argument
    add("--name", default="", help="which corpus, see --list")
    add("--list", action="store_true", help="show the corpora")
    add("--card", action="store_true", help="show source, licence, size and commands of one")
    add("--from", dest="files", nargs="+", metavar="PATH", help="files that were downloaded")
    add("--via", choices=("files", "tfds", "datasets"), help="(default: files where --from is "
        "given, else TFDS, else the Hub)")  # fmt: skip
    add("--out", metavar="DIR", help="where documents-*.jsonl.zst are written")


def run(a):
    from dlms_jax.data.corpora.recipe import card, documents
    from dlms_jax.data.corpora.recipes import RECIPES

    if a.list:
        for name, recipe in RECIPES.items():
            print(f"{name:<18}{recipe.title}: {recipe.size}")
        return
    if a.name not in RECIPES:
        raise UserError(f"--name={a.name} is no corpus; they are {', '.join(RECIPES)} (see --list)")
    recipe = RECIPES[a.name]
    if a.card:
        print(card(recipe))
        return
    if not a.out:
        raise UserError("say where to write: --out DIR")
    stream = documents(recipe, a.files, a.via)
    clean_here([recipe.name], a.out, None, lambda _: stream, None)
    (pathlib.Path(a.out) / "_README.md").write_text(card(recipe), encoding="utf-8")
