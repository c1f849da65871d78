"""Text -> shards: the commands of `python -m dlms_jax.prepare`, one in each file.

Each file has add_arguments(parser) and run(arguments). The functions that they call are in data/.
"""
