"""User errors: one line, exit status 2, no traceback."""

import functools
import importlib
import os
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
    """Returns `main` with user errors reported as one line and exit status 2."""

    @functools.wraps(main)
    def wrapped(argv=None, **options):
        failed = []  # errors in background threads; libraries raise them here as well
        report_thread, threading.excepthook = threading.excepthook, failed.append
        try:
            main(argv, **options)
            return
        except UserError as error:
            failed.clear()
            print(f"error: {error}", file=sys.stderr)
        except BrokenPipeError:  # `... | head` closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        finally:
            threading.excepthook = report_thread
            for thread in failed:
                report_thread(thread)
        sys.exit(2)

    return wrapped
