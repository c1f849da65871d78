"""What every Apache Beam pipeline here starts with: a runner, and the folder that it writes."""

from collections.abc import Sequence

from dlms_jax.errors import UserError, optional_import

# Beam's own default, DirectRunner, first tries to download another runner, then falls back to this.
_IN_PROCESS = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"


def new_pipeline(flags: Sequence[str]):
    """Returns a pipeline with Beam's own flags; without a --runner it runs in this process."""
    beam = optional_import("apache_beam", "beam")
    flags = list(flags)
    if not any(flag.partition("=")[0] == "--runner" for flag in flags):
        flags.append(_IN_PROCESS)
    return beam.Pipeline(argv=flags)


def file_systems():
    """Returns Beam's file systems, which read and write local paths, gs://... and others."""
    optional_import("apache_beam", "beam")
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def make_folder(out: str, ignored_suffix: str | None = None) -> None:
    """Makes the folder `out` on any file system.

    Args:
      out: the folder.
      ignored_suffix: files whose names end so may be in the folder; None: no file may.

    Raises:
      UserError: the folder holds other files.
    """
    files = file_systems()
    found = files.match([files.join(out, "*")])[0].metadata_list
    if [file for file in found if not ignored_suffix or not file.path.endswith(ignored_suffix)]:
        raise UserError(f"{out} is not empty: remove it, or choose another folder")
    if not files.exists(out):
        files.mkdirs(out)
