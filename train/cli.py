"""The commands `lipforge train ...`: look at a run, and plan its memory. Trainers are programs of their own."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Training runs: how one stands, and how much memory one takes.",
)
console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


@app.command()
def status(run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The run_dir of a training run.")]) -> None:
    """How a run stands: steps, losses, speed, checkpoints, validation, and the command that goes on with it.

    Reads files alone, so it works while the run trains, and on another machine that sees its folder.

    Example:

        lipforge train status runs/zh20
    """
    from lipforge.train.status import read_status, status_lines

    try:
        found = read_status(run_dir)
    except ValueError as error:
        errors.print(f"lipforge: {error}")
        raise typer.Exit(2) from error
    for line in status_lines(found):
        console.print(line)


@app.command()
def plan(
    config: Annotated[str, typer.Option(help="A preset, the path of a YAML file, or RUN/config.yaml.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Settings, over those of the file."),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]", help="More settings after `--set`."),
    ] = None,
    gpu_memory_gb: Annotated[float | None, typer.Option(min=0.1, help="Memory of one GPU.")] = None,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs that train together, each with its own batch.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON. Sizes are bytes.")] = False,
) -> None:
    """How much GPU memory a run takes, and which settings bring it under a limit.

    Rehearses a step and a validation on a CPU, with tensors that have sizes and no memory. Takes up to a minute, and
    needs no GPU, no data and no weights.

    Example:

        lipforge train plan --config stage2 --gpu-memory-gb 24 --set resolution=512 ema.decay=0.999
    """
    import logging

    from lipforge.train.plan.plan import GB, advise, read_config
    from lipforge.train.plan.show import advice_lines, advice_values

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        settings = read_config(config, [*(set_ or []), *(more or [])])
        advice = advise(settings, gpus, None if gpu_memory_gb is None else round(gpu_memory_gb * GB))
    except ValueError as error:
        errors.print(f"lipforge: {error}")
        raise typer.Exit(2) from error
    if as_json:
        console.print(json.dumps(advice_values(advice), indent=2))
        return
    for line in advice_lines(advice):
        console.print(line)
