"""User errors: one line, exit status 2, no traceback."""

import functools
import importlib
import io
import os
import signal
import sys
import threading


class UserError(Exception):
    """An error that the user can fix: one line that says what is wrong, where, and what to do."""


def optional_import(module: str, extra: str):
    """Returns a module that is an optional dependency.

    Args:
      module: its name.
      extra: the extra of dlms_jax that installs it.

    Raises:
      UserError: the module is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"this needs {module} ({error}): pip install 'dlms_jax[{extra}]'") from None


def command_line(main):
    """Returns `main` with user errors reported as one line and exit status 2.

    An error of the operating system (no permission, a full disk) is one line too. If the reader of
    standard output closed it, as `| head` does, the status is that of SIGPIPE.
    """

    @functools.wraps(main)
    def wrapped(argv=None, **options):
        failed = []  # errors in background threads; libraries raise them here as well
        report_thread, threading.excepthook = threading.excepthook, failed.append
        message = None
        try:
            _encode_anything(sys.stdout)
            main(argv, **options)
            if sys.stdout is not None:
                sys.stdout.flush()
            return
        except UserError as error:
            message = str(error)
        except BrokenPipeError:
            _discard_output()
            sys.exit(128 + signal.SIGPIPE)
        except OSError as error:
            message = one_line(error)
            if error.filename is None:
                _discard_output()
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        finally:
            threading.excepthook = report_thread
            if message is None:
                for thread in failed:
                    report_thread(thread)
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)

    return wrapped


def one_line(error: OSError) -> str:
    """Returns an error of the operating system in one line, with the path if it is known."""
    reason = (error.strerror or str(error) or type(error).__name__).splitlines()[0]
    return f"{error.filename or 'standard output, or a file'}: {reason}"


def _encode_anything(stream):
    """Makes a stream write escapes for characters that its encoding lacks."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def _discard_output():
    """Sends what is left in the buffer of standard output to nowhere; else Python reports it."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
