"""The command line: `python -m shotstream COMMAND`.

Owns which commands there are, exit codes (0 done, 1 a check failed, 2 bad input, 130 interrupted) and how an error is
told. Knows nothing of what a command does: each is a module with `add_arguments(parser)` and `run(args) -> int`,
imported only when it is asked for.
"""

from __future__ import annotations

import importlib
import os
import sys

from shotstream import __version__
from shotstream.arguments import Parser
from shotstream.errors import UserError, telling_lack_of_memory, telling_refused_files

COMMANDS = {
    "film": ("shotstream.film", "make a film from a story file"),
    "plan": ("shotstream.cards", "tell which cards a model fits, before it is loaded"),
    "serve": ("shotstream.serve", "serve the page from one process and make its shots in many"),
    "bench": ("shotstream.bench", "measure a model on this machine"),
    "verify": ("shotstream.verify", "compare with a recording of the published procedure"),
    "convert": ("shotstream.convert", "turn the published checkpoint into a model folder"),
    "train": ("shotstream.training.command", "train the small model on the toy world"),
    "evaluate": ("shotstream.evaluation.command", "measure whether a model does what its captions say"),
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    parser = Parser(prog="shotstream", description="Multi-shot video as a stream, directed while it plays.")
    parser.add_argument("--version", action="version", version=f"shotstream {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    modules = {}
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        if argv[:1] == [name]:
            modules[name] = importlib.import_module(module)
            modules[name].add_arguments(command)
    args = parser.parse_args(argv)
    try:
        with telling_lack_of_memory("for this"), telling_refused_files():
            code = modules[args.command].run(args)
            sys.stdout.flush()  # a full disk behind a redirection shows only here
            return code
    except UserError as error:
        print(f"shotstream {args.command}: {error}", file=sys.stderr)
        _drop_output()
        return 2
    except KeyboardInterrupt:
        print(f"shotstream {args.command}: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        _drop_output()
        return 1


def _drop_output() -> None:
    """Lets what could not be written go, if there is any: Python would complain about it once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
