"""Check the files of a dataset against their checksums."""


def add_arguments(parser):
    """Adds the command's options to a parser."""
    parser.add_argument("folder", metavar="DIR", help="a prepared dataset")


def run(a):
    """Runs the command with parsed arguments."""
    from rich.console import Console

    from dlms_jax.data.store.prepared import open_prepared
    from dlms_jax.data.worker_pool import run_in_workers

    dataset = open_prepared(a.folder, check_contents=False)
    list(run_in_workers(_check, [(dataset,)], 1, Console(), "checking", dataset.size))
    print(
        f"{a.folder}: {len(dataset.all_shards)} shards, {dataset.size} bytes, all checksums match"
    )


def _check(dataset):
    from dlms_jax.data.store.shards import check_shard
    from dlms_jax.data.worker_pool import advance

    for shard in dataset.all_shards:
        check_shard(dataset.folder, shard, contents=True)
        advance(shard.size)
