"""What a Beam pipeline begins with: where it runs, and the folder that it writes."""

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
    """Returns Beam's file systems: local paths, gs://..., and the like, alike."""
    optional_import("apache_beam", "beam")
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def make_folder(out: str, passes_over: str = "\0"):
    """Makes the folder `out` on any file system; raises UserError where it holds something, other
    than files whose names end in `passes_over`."""
    files = file_systems()
    found = files.match([files.join(out, "*")])[0].metadata_list
    if [file for file in found if not file.path.endswith(passes_over)]:
        raise UserError(f"{out} holds something already: remove it, or choose another folder")
    if not files.exists(out):
        files.mkdirs(out)
