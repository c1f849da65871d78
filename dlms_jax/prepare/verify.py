"""Check every shard of a dataset against its checksum."""


def add_arguments(parser):
    parser.add_argument("folder", metavar="DIR", help="a prepared dataset")


def run(a):
    from rich.console import Console

    from dlms_jax.data.build import work
    from dlms_jax.data.store.prepared import open_prepared

    dataset = open_prepared(a.folder, check_contents=False)
    checking = [(True, work.advance)]
    list(work.run(dataset.check_shards, checking, 1, Console(), "checking", dataset.size))
    shards = sum(map(len, dataset.shards.values()))
    print(f"{a.folder}: {shards} shards, {dataset.size} bytes, all checksums are right")
