"""The command line: parse, call, print.

Results go to standard output, everything else to standard error. Exit codes: 0 done,
1 some files could not be predicted, 2 bad input or usage, 130 interrupted.
"""

import atexit
import gc
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TextIO

import click

import nobrainer
from nobrainer.cli.outputs import echo, echo_error
from nobrainer.errors import InputError, in_one_line
from nobrainer.registry import Registry

COMMANDS: Registry[click.Command] = Registry("command")
"""The commands by name, each of which loads on first use."""
COMMANDS.locate("bids", "nobrainer.cli.bids:bids")
COMMANDS.locate("calibrate", "nobrainer.cli.calibrate:calibrate")
COMMANDS.locate("data", "nobrainer.cli.data:data")
COMMANDS.locate("demo", "nobrainer.cli.demo:demo")
COMMANDS.locate("evaluate", "nobrainer.cli.evaluate:evaluate")
COMMANDS.locate("info", "nobrainer.cli.info:info")
COMMANDS.locate("models", "nobrainer.cli.models:models")
COMMANDS.locate("predict", "nobrainer.cli.predict:predict")
COMMANDS.locate("qc", "nobrainer.cli.qc:qc")
COMMANDS.locate("rank", "nobrainer.cli.rank:rank")
COMMANDS.locate("report", "nobrainer.cli.report:report")
COMMANDS.locate("research", "nobrainer.cli.research:research")
COMMANDS.locate("train", "nobrainer.cli.train:train")

_SHELL_NAMES = {
    "checkpoint_filepath": "checkpoint_dir",
    "eval_size": "validate",
    "n_draws": "n_samples",
    "n_members": "members",
    "num_workers": "workers",
    "objectives": "objective",
    "lr": "learning_rate",
    "opt_args": "optimizer_arg",
}
"""Arguments in Python whose option has another name."""
_ARGUMENT = re.compile(
    r"(?<![\w./\\-])"  # no part of a path or of a longer name
    r"(?:(?P<flag>\w+)=True|(?P<name>\w+_\w+|^\w+(?= must )|relabel(?==)))"
    r"(?![\w/\\:]|\.\w)",
    re.MULTILINE,
)


class _Commands(click.Group):
    """A group whose commands report a user's mistake in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, if there is one."""
        if cmd_name not in COMMANDS:
            return None
        return COMMANDS[cmd_name]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn errors that the user can act on into one line."""
        told: set[str] = set()

        def tell(message: Warning | str, *_args: Any, **_kwargs: Any) -> None:
            # What holds for every scan of a command is said once.
            if str(message) not in told:
                told.add(str(message))
                _warn(self._in_shell_words(ctx, str(message)))

        try:
            with warnings.catch_warnings():
                warnings.showwarning = tell
                return super().invoke(ctx)
        except InputError as error:
            if ctx.params["debug"]:
                raise
            with suppress(OSError):
                echo_error(self._in_shell_words(ctx, str(error)))
            ctx.exit(2)
        except (OSError, UnicodeError, MemoryError) as error:
            # click handles it if another program stops reading what we print.
            if ctx.params["debug"] or isinstance(error, BrokenPipeError):
                raise
            with suppress(OSError):
                echo_error(
                    f"{in_one_line(str(error)) or 'out of memory'}: check free space, "
                    "permissions, and the limits on memory and open files (ulimit -a)"
                )
            ctx.exit(2)
        except KeyboardInterrupt as interrupt:
            text = self._in_shell_words(ctx, str(interrupt)) or "interrupted"
            with suppress(OSError):
                echo(f"nobrainer: {text}", err=True)
            ctx.exit(130)
        finally:
            for stream in (sys.stdout, sys.stderr):
                _close_unwritable(stream)

    def _in_shell_words(self, ctx: click.Context, text: str) -> str:
        """Replace the names of Python arguments in a message by the command's options.

        A word counts as an argument if it has an underscore, is followed by "=True", or
        begins a line that goes on with "must". A name for which the command has no
        option stays as it is.
        """
        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        options = dict(_list_options(command)) if command else {}

        def translate(found: re.Match[str]) -> str:
            name = found["flag"] or found["name"]
            return options.get(_SHELL_NAMES.get(name, name), found[0])

        return _ARGUMENT.sub(translate, text)


def _list_options(command: click.Command) -> Iterator[tuple[str, str]]:
    """Yield the options of a command and its subcommands: (name in Python, option)."""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            option = parameter.opts[0]
            yield option.removeprefix("--").replace("-", "_"), option
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from _list_options(inner)


def _close_unwritable(stream: TextIO) -> None:
    """Keep output that cannot be printed from raising once more when Python ends."""
    try:
        stream.flush()
    except BrokenPipeError:
        pass
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _warn(text: str) -> None:
    # A warning that cannot be printed must not end the work.
    with suppress(OSError):
        echo(f"nobrainer: warning: {text}", err=True)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(nobrainer.__version__, prog_name="nobrainer")
@click.option("--debug", is_flag=True, help="Show the traceback of bad input, too.")
def main(debug: bool) -> None:
    """Segment 3-D brain MRI with Bayesian networks that say how sure they are.

    Not a medical device.

    \b
    Examples:
      nobrainer predict sub-01_T1w.nii.gz --output-dir maps
      nobrainer demo
      nobrainer train --data scans.csv --output-dir model --binarize
      nobrainer predict sub-01_T1w.nii.gz --model model --output-dir maps
      nobrainer evaluate --data test.csv --model model --output-dir test
      nobrainer qc sub-*_T1w.nii.gz --model model --output-dir qc
      nobrainer research run --working-dir research --data scans.csv
    """
    # Python would look through all packages for garbage before it ends, which was
    # measured to take half a second.
    atexit.register(gc.freeze)


def bids_app() -> None:
    """The entry point of BIDS Apps: `nobrainer-bids` is `nobrainer bids`."""
    main(["bids", *sys.argv[1:]], prog_name="nobrainer")
