"""The commands of `python -m dlms_jax.prepare`, one per file.

Each file has add_arguments(parser) and run(arguments). They call functions of data/.
"""
