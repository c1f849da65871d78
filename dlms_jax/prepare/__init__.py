"""Text -> shards: the commands of `python -m dlms_jax.prepare`, one a file.

Each has add_arguments(parser) and run(arguments). What they call is in data/.
"""
