"""Errors that are the user's to mend: one clear line, exit status 2, no traceback."""

import functools
import importlib
import os
import sys
import threading


class UserError(Exception):
    """What is wrong, where, and what to do, in one line."""


def optional_import(module: str, extra: str):
    """Returns a module that only some users need; names the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"this needs {module} ({error}): pip install -e '.[{extra}]'") from None


def command_line(main):
    """Returns `main` wrapped so that a UserError ends the process with one line and status 2."""

    @functools.wraps(main)
    def wrapped(argv=None):
        failed = []  # in background threads, whose libraries raise there what they raise here too
        report_thread, threading.excepthook = threading.excepthook, failed.append
        try:
            main(argv)
            return
        except UserError as error:
            failed.clear()
            print(f"error: {error}", file=sys.stderr)
        except BrokenPipeError:  # `... | head` closed the pipe: not an error of ours
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
