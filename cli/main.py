"""The ``humandata`` command. Subcommands are the other files of this folder."""

from __future__ import annotations

import importlib
import io
import pkgutil
import sys
from typing import Any

import click

from humandata.errors import HumandataError

HIDDEN = {"main", "console", "train_plan"}
"""Files of this folder that are no subcommands."""


class Commands(click.Group):
    """Finds subcommands by listing the folder, so that a new file is a new command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        package = importlib.import_module("humandata.cli")
        return sorted(
            m.name for m in pkgutil.iter_modules(package.__path__) if m.name not in HIDDEN
        )

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"humandata.cli.{name}")
        command: click.Command = getattr(module, name)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="humandata")
def cli() -> None:
    """Human pose and shape datasets: one store, one training engine, one evaluation.

    \b
    humandata demo                                   everything, on synthetic people
    humandata convert pw3d RAW pw3d_test.zarr --split test
    humandata inspect pw3d_test.zarr --html report.html
    humandata train --mix coco.zarr=0.3 --mix pw3d_train.zarr=0.7 --out runs/hmr
    humandata eval pw3d --store pw3d_test.zarr --checkpoint runs/hmr
    """


def main(arguments: list[str] | None = None) -> Any:
    """Entry point. Exit status 0, 1 (the work failed, the reason is printed), 2 (wrong use)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Of file names that are no UTF-8, print the odd bytes as escapes instead of failing.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return cli(args=arguments, prog_name="humandata")
    except HumandataError as error:
        click.secho("Error: ", fg="red", nl=False, err=True)
        click.echo(str(error), err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"Error: {error.strerror or error}: {error.filename or ''}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
