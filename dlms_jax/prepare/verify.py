"""Check every shard of a dataset against its checksum."""


def add_arguments(parser):
    parser.add_argument("folder", metavar="DIR", help="a prepared dataset")


def run(a):
    from rich.console import Console

    from dlms_jax.data.store.prepared import open_prepared
    from dlms_jax.data.worker_pool import run_in_workers

    dataset = open_prepared(a.folder, check_contents=False)
    list(run_in_workers(_check, [(dataset,)], 1, Console(), "checking", dataset.size))
    print(
        f"{a.folder}: {len(dataset.all_shards)} shards, {dataset.size} bytes, all checksums are "
        "right"
    )


def _check(dataset):
    from dlms_jax.data.store.shards import check_shard
    from dlms_jax.data.worker_pool import advance

    for shard in dataset.all_shards:
        check_shard(dataset.folder, shard, contents=True)
        advance(shard.size)
