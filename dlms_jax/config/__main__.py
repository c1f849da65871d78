"""Prints docs/settings.md: `python -m dlms_jax.config > docs/settings.md`."""

from dlms_jax.config.describe import settings_page

if __name__ == "__main__":
    print(settings_page(), end="")
