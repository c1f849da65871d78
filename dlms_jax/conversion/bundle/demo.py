"""Samples text from the model of this release.

    bash run_demo.sh                        (on Windows: run_demo.bat)
    bash run_demo.sh "The " "Python is" --length 64 --seed 1
    bash run_demo.sh --here "The "

The first run makes a virtual environment beside this file and installs requirements.txt in it.
"""

import argparse
import hashlib
from importlib.util import find_spec
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
CHECKSUMS = "SHA256SUMS"


def parse(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run_demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "prompts",
        nargs="*",
        default=["The "],
        metavar="PROMPT",
        help='the beginning of a text (default "The "); several prompts are sampled in one batch',
    )
    add("--length", type=int, metavar="N", help="tokens to sample (default: that of config.json)")
    add("--seed", type=int, default=0, metavar="N", help="the same seed gives the same text")
    add(
        "--here",
        action="store_true",
        help="use this Python and its packages; install and download nothing",
    )
    add(
        "--jax",
        action="store_true",
        help="sample from the JAX checkpoint, if this release has one",
    )
    add(
        "--no-check",
        dest="check",
        action="store_false",
        help=f"do not compare the files with {CHECKSUMS}",
    )
    return parser.parse_args(argv)


def check_files() -> str:
    """Returns the first error in the files of this release, in one line; "" if there is none."""
    try:
        lines = (HERE / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{HERE / CHECKSUMS} is missing or cannot be read; unpack the release again"
    for line in lines:
        expected, _, name = line.partition("  ")
        found = hashlib.sha256()
        try:
            with open(HERE / name, "rb") as file:
                while part := file.read(2**20):
                    found.update(part)
        except OSError as error:
            return (
                f"{HERE / name} is missing or cannot be read ({error.strerror}); unpack the "
                "release again"
            )
        if found.hexdigest() != expected:
            return (
                f"{HERE / name} is damaged or was changed: its sha256 is not the one in "
                f"{CHECKSUMS}; unpack the release again"
            )
    print(f"{len(lines)} files match {CHECKSUMS}", flush=True)
    return ""


def make_environment(name: str, requirements: str) -> pathlib.Path:
    """Returns the Python of a virtual environment, which is made first if needed.

    Args:
      name: its folder in this release.
      requirements: the file with the packages that it has.
    """
    folder, wanted = HERE / name, (HERE / requirements).read_text(encoding="utf-8")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = folder / "installed.txt"  # written last, so an incomplete environment is not used
    if done.is_file() and done.read_text(encoding="utf-8") == wanted:
        return python
    print(f"installing {', '.join(wanted.split())} to {folder} (once) ...", flush=True)
    commands: tuple[list[str | pathlib.Path], ...] = (
        [sys.executable, "-m", "venv", "--clear", folder],
        [python, "-m", "pip", "install", "--disable-pip-version-check", "-r", HERE / requirements],
    )
    for command in commands:
        if subprocess.run(command).returncode:
            sys.exit(
                f"error: cannot make {folder}, for the reason above; solve it and run this again, "
                "or use --here with a Python that has these packages"
            )
    done.write_text(wanted, encoding="utf-8")
    return python


def write_texts(prompts: list[str], length: int, seed: int) -> list[str]:
    """Returns a text for each prompt, sampled by PyTorch from the weights in model/."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(
        HERE / "model", padding_side="left", trust_remote_code=True
    )
    described = json.loads((HERE / "model" / "config.json").read_text(encoding="utf-8"))
    own = "auto_map" in described  # the model has its own class and its own `generate`
    load = (AutoModelForMaskedLM if own else AutoModelForCausalLM).from_pretrained
    model = load(HERE / "model", trust_remote_code=True)
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
    number, context = inputs.input_ids.shape[1] + length, model.config.max_position_embeddings
    if number > context:
        raise ValueError(
            f"{number} tokens do not fit the model's context of {context}; shorten the prompt or "
            "lower --length"
        )
    torch.manual_seed(seed)
    settings = {"seed": seed} if own else {"do_sample": True}
    tokens = model.generate(**inputs, max_new_tokens=length, **settings)
    return tokenizer.batch_decode(tokens, skip_special_tokens=True)


def printable(text: str) -> str:
    """Returns a text whose control characters, which could upset a terminal, are replaced."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def by_pytorch(arguments: argparse.Namespace, length: int):
    if missing := [name for name in ("torch", "transformers") if not find_spec(name)]:
        sys.exit(
            f"error: {sys.executable} has no {' and no '.join(missing)}; omit --here, or set "
            "PYTHON to one that has the packages of requirements.txt"
        )
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # for transformers' copies of the model's .py files
        os.environ |= {"HF_MODULES_CACHE": folder, "HF_HUB_OFFLINE": "1"}
        try:
            texts = write_texts(arguments.prompts, length, arguments.seed)
        except ValueError as error:  # the model raises it for prompts and lengths
            sys.exit(f"error: {error}")
    print("\n---\n".join(map(printable, texts)))


def by_jax(arguments: argparse.Namespace, length: int):
    command: list[str | pathlib.Path] = [sys.executable, "-m", "dlms_jax.sample"]
    command += ["--checkpoint", HERE / "checkpoint"]
    command += [f"--prompt={prompt}" for prompt in arguments.prompts]
    command += [f"--length={length}", f"--seed={arguments.seed}"]
    if status := subprocess.run(command, cwd=HERE / "source").returncode:
        sys.exit(status)


def main():
    arguments = parse()
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: it is closed
        stream.reconfigure(errors="backslashreplace")  # for characters that it cannot encode
    if not 0 <= arguments.seed < 2**32:
        sys.exit(f"error: --seed={arguments.seed} should be from 0 to {2**32 - 1}")
    if arguments.length is not None and arguments.length < 1:
        sys.exit(f"error: --length={arguments.length} should be 1 or more")
    if arguments.jax and not (HERE / "checkpoint").is_dir():
        sys.exit("error: this release has no JAX checkpoint; omit --jax")
    if arguments.check and (wrong := check_files()):
        sys.exit(f"error: {wrong}")
    if not arguments.here:
        suffix = "-jax" if arguments.jax else ""
        python = make_environment(f".venv{suffix}", f"requirements{suffix}.txt")
        again = [python, __file__, "--here", "--no-check", *sys.argv[1:]]
        sys.exit(subprocess.run(again).returncode)
    length = arguments.length
    if length is None:
        config = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
        length = config["sampling"]["length"]
    (by_jax if arguments.jax else by_pytorch)(arguments, length)
    print(
        f"\nThe weights are in {HERE / 'model'}, the log and the curves of the run in {HERE}; see "
        f"{HERE / 'README.md'}."
    )


if __name__ == "__main__":
    try:
        main()
        print(end="", flush=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if sys.stdout is not None:  # what it still holds cannot be written either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # `... | head` has read enough
            sys.exit(f"error: {error}")
