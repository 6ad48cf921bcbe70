"""The command line: parse, call, print.

Results go to standard output, everything else to standard error. Exit codes: 0 done,
1 some files could not be predicted, 2 bad input or usage, 130 interrupted.
"""

import warnings
from typing import Any

import click

import nobrainer
from nobrainer.cli.calibrate import calibrate
from nobrainer.cli.data import data
from nobrainer.cli.demo import demo
from nobrainer.cli.evaluate import evaluate
from nobrainer.cli.info import info
from nobrainer.cli.predict import predict
from nobrainer.cli.qc import qc
from nobrainer.cli.rank import rank
from nobrainer.cli.report import report
from nobrainer.cli.research import research
from nobrainer.cli.train import train
from nobrainer.errors import InputError


class _Commands(click.Group):
    """A group whose commands report a user's mistake in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn what the user can act on into a message."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except InputError as error:
            if ctx.params["debug"]:
                raise
            for line in str(error).splitlines():
                click.echo(f"nobrainer: error: {line}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt as interrupt:
            click.echo(f"nobrainer: {str(interrupt) or 'interrupted'}", err=True)
            ctx.exit(130)


def _show_warning(
    message: Warning | str, category: object, *_where: object, **_what: object
) -> None:
    click.echo(f"nobrainer: warning: {message}", err=True)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(nobrainer.__version__, prog_name="nobrainer")
@click.option("--debug", is_flag=True, help="Show the traceback of bad input, too.")
def main(debug: bool) -> None:
    """Segment 3-D brain MRI with Bayesian networks that say how sure they are.

    Not a medical device.

    \b
    Examples:
      nobrainer demo
      nobrainer train --data scans.csv --output-dir model --binarize
      nobrainer predict sub-01_T1w.nii.gz --model model --output-dir maps
      nobrainer evaluate --data test.csv --model model --output-dir test
      nobrainer qc sub-*_T1w.nii.gz --model model --output-dir qc
      nobrainer research run --working-dir research --data scans.csv
    """


for command in (
    *(demo, train, predict, info, data),
    *(evaluate, calibrate, qc, report, rank),
    research,
):
    main.add_command(command)
