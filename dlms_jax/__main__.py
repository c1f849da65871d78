"""python -m dlms_jax COMMAND: the same as dlms COMMAND."""

from dlms_jax.cli import main

if __name__ == "__main__":
    main()
