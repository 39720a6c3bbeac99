"""`imclass`: what people run beside the pipeline. Each command imports its work when it is called."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from imclass.errors import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def describe() -> None:
    """What people run beside `dvc repro`."""


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="digits, or a set of torchvision.datasets: FashionMNIST, CIFAR10, ...")],
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder with the set's files, instead of a download.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Archive to write. Default: data/raw/NAME.zip")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Further argument of the set, such as split=letters for EMNIST.")
    ] = None,
) -> None:
    """Turn a public set into an archive of labelled images for data.path."""
    from imclass.team.fetch import fetch as fetch_set

    archive = to or Path("data/raw", f"{name}.zip")
    count = fetch_set(name, archive, source=source, options=dict(map(_parse_option, option or [])))
    print(f"{archive}: {count} images")


@app.command()
def compare(
    before: Annotated[str, typer.Argument(metavar="REV", help="A commit, branch, tag or experiment.")],
    after: Annotated[str | None, typer.Argument(metavar="[REV]", help="Another. Default: the work tree")] = None,
    html: Annotated[Path | None, typer.Option(help="File to write, with the images that changed sides.")] = None,
) -> None:
    """Say whether a model is better than another on the same test images, and show where they differ."""
    from imclass.team.compare import compare_revisions, format_difference, write_page

    difference = compare_revisions(before, after)
    print(format_difference(difference))
    if html:
        write_page(difference, after, html)


@app.command()
def accept() -> None:
    """Make the model of the work tree the one that later models must not be worse than."""
    from imclass.team.accept import ACCEPTED
    from imclass.team.accept import accept as accept_model

    print(f"{ACCEPTED}: {accept_model()} images; commit it, and the gate compares with it")


def main() -> None:
    """Run the command line; a user's mistake ends it with its message and status 1."""
    try:
        app()
    except (InputError, OSError) as error:
        sys.exit(f"imclass: {error}")


def _parse_option(text: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--option: expected KEY=VALUE, found {text!r}")
    return key, yaml.safe_load(value)
