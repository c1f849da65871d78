"""Every damage to an export is named, or the import has the right numbers in spite of it."""

import functools
import json
import shutil

from conversion.exported import odd_tokenizer, random_checkpoint, tree_of
import pytest

from dlms_jax.conversion.export import export
from dlms_jax.conversion.export_source import open_export_source
from dlms_jax.conversion.importing import import_model
from dlms_jax.errors import UserError


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    source = random_checkpoint(
        folder / "run", odd_tokenizer(), model__num_layers=1, model__width=16
    )
    export(source, folder / "out", shard_bytes=20_000, verify=False)
    return folder / "out"


def imported(folder, out):
    """Returns (the arrays, the config and what the tokenizer does) of an imported checkpoint."""
    import_model(folder, out, verify=False)
    source = open_export_source(out)
    arrays = {path: array.tobytes() for path, array in tree_of(source).items()}
    shutil.rmtree(out)
    assert not {"sha256", "files"} & source.metadata.keys()
    tokenizer = source.tokenizer
    ids = tokenizer.encode("to b\0 né").tolist()
    return arrays, (source.metadata["config"], tokenizer.special_ids, tokenizer.roles, ids)


def flip(place, data):
    """Returns data with one bit of the byte at a share of its length changed."""
    data = bytearray(data)
    data[int(place * len(data))] ^= 1 << int(place * 1000) % 8
    return bytes(data)


DAMAGES = {
    **{f"flip {place}": functools.partial(flip, place) for place in (0, 0.03, 0.31, 0.64, 0.999)},
    "truncate": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "empty": lambda data: b"",
    "delete": lambda data: None,
}
READ = (".json", ".safetensors", "SHA256SUMS")  # an import reads no other files


def outcome(exported, folder, name, damage, with_checksums, expected):
    """Returns what an import makes of a damaged file; fails if it has other numbers."""
    shutil.copytree(exported, folder)
    if not with_checksums:
        (folder / "SHA256SUMS").unlink()
    before = (folder / name).read_bytes()
    after = damage(before)
    (folder / name).unlink()
    if after is not None:
        (folder / name).write_bytes(after)
    try:
        found = imported(folder, folder.with_name("back"))
    except UserError as error:
        assert str(folder) in str(error) and "\n" not in str(error), error
        return "named"
    finally:
        shutil.rmtree(folder)
    assert found == expected, f"{name} is damaged, and the import has other numbers"
    return "survived"


def run(exported, tmp_path, cases):
    expected = imported(exported, tmp_path / "back")
    found = [
        outcome(exported, tmp_path / "copy", name, DAMAGES[kind], kept, expected)
        for name, kind, kept in cases
    ]
    assert not (tmp_path / "back").exists() and not list(tmp_path.glob("*.unfinished"))
    return {kind: found.count(kind) for kind in ("named", "survived")}


def files(exported):
    return sorted(path.name for path in exported.iterdir() if path.name.endswith(READ))


@pytest.mark.slow
def test_every_file_with_every_damage(exported, tmp_path):
    cases = [
        (name, kind, kept)
        for name in files(exported)
        for kind in DAMAGES
        for kept in (True, False)
        if kept or name != "SHA256SUMS"
    ]
    counts = run(exported, tmp_path, cases)
    print(counts)
    assert counts["named"] > len(cases) / 2


def test_some_damages(exported, tmp_path):
    """Without SHA256SUMS, where dlms_jax.json and config.json have to notice them."""
    first = next(name for name in files(exported) if name.startswith("model-"))
    cases = [(name, "flip 0.64", False) for name in (first, "padding.safetensors", "config.json")]
    cases += [("padding.safetensors", "delete", False), ("SHA256SUMS", "truncate", True)]
    cases += [("dlms_jax.json", "flip 0.31", False), ("dlms_jax.json", "flip 0.64", False)]
    assert run(exported, tmp_path, cases)["named"] == len(cases)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", lambda data: data["dlms_jax"]["config"]["optimizer"].update(seed=3), ""),
        ("dlms_jax.json", lambda data: data.update(step=8), ""),
        ("dlms_jax.json", lambda data: [data.pop("tokenizer"), data.pop("sha256")], "lacks"),
        ("config.json", lambda data: data.update(dlms_jax=[1]), "is not a JSON object"),
    ],
)
def test_a_changed_setting_is_noticed(name, change, message, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "copy")
    (folder / "SHA256SUMS").unlink()
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))
    with pytest.raises(UserError, match=message or f"{name} is damaged or was changed"):
        import_model(folder, tmp_path / "back", verify=False)


def test_an_export_of_before_has_no_digests_and_loads_with_a_notice(exported, tmp_path, capsys):
    folder = shutil.copytree(exported, tmp_path / "copy")
    (folder / "SHA256SUMS").unlink()
    data = json.loads((folder / "dlms_jax.json").read_text())
    (folder / "dlms_jax.json").write_text(
        json.dumps({k: v for k, v in data.items() if k not in ("sha256", "files")})
    )
    data = json.loads((folder / "config.json").read_text())
    del data["dlms_jax"]["sha256"]
    (folder / "config.json").write_text(json.dumps(data))
    back, notice = imported(folder, tmp_path / "back"), "has no checksums, so damaged weights"
    assert capsys.readouterr().out.count(notice) == 1
    assert back == imported(exported, tmp_path / "back")
    assert notice not in capsys.readouterr().out
