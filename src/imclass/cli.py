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
def diff(
    before: Annotated[str, typer.Argument(help="A commit, branch, tag or experiment.")],
    after: Annotated[str | None, typer.Argument(help="Another one. Default: the work tree")] = None,
    md: Annotated[bool, typer.Option("--md", help="Print Markdown, as for a pull request.")] = False,
    html: Annotated[Path | None, typer.Option(help="Page to write, with pictures before and after.")] = None,
) -> None:
    """Show what changed in images, labels and splits, and what that did to the results."""
    from imclass.team.diff import diff_revisions, format_diff, write_page

    found = diff_revisions(before, after)
    print(format_diff(found, markdown=md))
    if html:
        write_page(found, before, after, html)


@app.command()
def accept() -> None:
    """Make the model of the work tree the one that later models must not be worse than."""
    from imclass.team.accept import ACCEPTED
    from imclass.team.accept import accept as accept_model

    print(f"{ACCEPTED}: {accept_model()} images; commit it, and the gate compares with it")


@app.command()
def recipe(name: Annotated[str, typer.Argument(help="A file in params/, without .yaml: notes, fast, ...")]) -> None:
    """Write a recipe into params.yaml: the values that make it, and no others."""
    from imclass.team.recipe import adopt_recipe

    changes = adopt_recipe(name, Path("params.yaml"))
    print("\n".join(changes) if changes else "params.yaml: nothing to change")


@app.command()
def lr_find(
    to: Annotated[Path, typer.Option(help="Picture to write.")] = Path("reports/lr-find.png"),
) -> None:
    """Propose a learning rate for params.yaml, from the loss while the rate rises."""
    from imclass.team.lr_find import find_rate

    rate = find_rate(to)
    print(f"{to}: the loss at each rate\ntry: dvc exp run -S lr={rate:.2g}")


@app.command()
def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    offline: Annotated[bool, typer.Option(help="Do not ask the remote what it holds.")] = False,
) -> None:
    """Find what in this checkout will hurt the team, and name the command that mends it."""
    from dataclasses import asdict
    from json import dumps

    from imclass.team.doctor import examine

    findings = examine(offline=offline)
    if json:
        print(dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        for finding in findings:
            print(f"{'note' if finding.note else 'fault'}: {finding.what}\n  mend: {finding.mend}")
        if not findings:
            print("nothing found")
    if not all(finding.note for finding in findings):
        raise typer.Exit(1)


@app.command()
def verify(
    stages: Annotated[list[str] | None, typer.Argument(help="Stages to repeat. Default: all of dvc.lock")] = None,
) -> None:
    """Repeat stages in a temporary copy, and compare with what dvc.lock names."""
    from imclass.team.verify import TOLERANCE
    from imclass.team.verify import verify as verify_stages

    failed = False
    print(f"equal: no number differs by more than {TOLERANCE:g}")
    for verdict in verify_stages(Path(), stages or []):
        print(f"{verdict.stage:<12}{verdict.kind}", *verdict.details, sep="\n    ", flush=True)
        failed = failed or verdict.kind not in ("identical", "equal")
    if failed:
        raise typer.Exit(1)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="An exported .onnx file, or the .safetensors file of a trained model.")],
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Images, folders, zip and tar archives, patterns; -: names, by line."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="A .csv, .jsonl or .parquet file. Default: CSV to the screen")
    ] = None,
    top: Annotated[int, typer.Option(help="How many classes to give for each image, the likeliest first.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode and predict, 0: one per core.")] = 0,
) -> None:
    """Say what is on images, by a trained or exported model."""
    from imclass.serving.predict import predict_images

    predict_images(model, inputs, out, top=top, workers=workers)


@app.command()
def serve(
    model: Annotated[Path, typer.Argument(help="The exported .onnx file.")] = Path("models/export/model.onnx"),
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all, for other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    trained: Annotated[
        Path | None,
        typer.Option(
            help="The model's .safetensors file, to explain answers. Default: models/model.safetensors, if any"
        ),
    ] = None,
    packed: Annotated[
        Path | None, typer.Option(help="Its training images, to show the nearest. Default: data/packed, if any")
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="Cores that the model computes on, 0: all.")] = 1,
    at_once: Annotated[int, typer.Option(min=1, help="Requests that are read or answered at once.")] = 64,
    seconds: Annotated[float, typer.Option(min=0.1, help="From the start of a request to its answer.")] = 30,
    megabytes: Annotated[float, typer.Option(min=0.001, help="Largest picture file.")] = 10,
    megapixels: Annotated[float, typer.Option(min=0.001, max=64, help="Largest picture.")] = 25,
) -> None:
    """Open a page, and an HTTP endpoint, that say what is on pictures."""
    from imclass.serving.server.intake import Limits
    from imclass.serving.server.run import serve as serve_model

    limits = Limits(seconds, round(1e6 * megabytes), round(1e6 * megapixels), at_once)
    serve_model(model, limits, host=host, port=port, threads=threads, trained=trained, packed=packed)


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
