"""The commands `lipforge train ...`: look at a run, and plan its memory. Trainers are programs of their own."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lipforge.datasets_manifest.display import counted

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Training runs: how one stands, how often a SyncNet is right, how much memory a run takes.",
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
def accuracy(
    model: Annotated[
        str,
        typer.Argument(metavar="SYNCNET", help="RUN/model, a file of weights, or `stable_syncnet` once fetched."),
    ],
    selection: Annotated[str, typer.Argument(metavar="SELECTION", help="What `lipforge select` wrote.")],
    split: Annotated[str, typer.Option(help="val: people that training left out; train; or all.")] = "val",
    rounds: Annotated[int, typer.Option(min=1, help="Random windows of each clip.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the random windows.")] = 1247,
    vae: Annotated[str, typer.Option(help="Autoencoder for a network on latents that does not name its own.")] = (
        "sd-vae-ft-mse"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How often a SyncNet tells right sound from wrong, by language, with 95 % intervals.

    Twice: on the windows that a trainer's validation takes, the same each time; and on random ones, as published.

    Example:

        lipforge train accuracy runs/sync/model zh20.parquet
    """
    from dataclasses import asdict

    from lipforge.datasets_manifest.storage.trouble import UnreadableError
    from lipforge.pipeline.running.quiet import off_terminal
    from lipforge.train.stream.decode import DamagedSampleError

    with off_terminal(2):  # diffusers imports packages that warn about each other
        from lipforge.train.accuracy import measure_accuracy

    try:
        found = measure_accuracy(model, selection, split, rounds, seed, vae, device)
    except (DamagedSampleError, FileNotFoundError, UnreadableError) as error:
        errors.print(f"lipforge: {error}")
        raise typer.Exit(1) from error
    except ValueError as error:
        errors.print(f"lipforge: {error}")
        raise typer.Exit(2) from error
    if as_json:
        console.print(json.dumps(asdict(found), indent=2))
        return
    console.print(
        f"{found.name} on {selection}, {counted(found.num_clips, 'clip')}, windows of {found.num_frames} frames"
    )
    console.print(f"fixed windows   {found.fixed.words()}")
    console.print(f"random windows  {found.random.words()}")


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
    from lipforge.pipeline.running.quiet import off_terminal
    from lipforge.train.plan.plan import GB, advise, read_config
    from lipforge.train.plan.show import advice_lines, advice_values

    try:
        settings = read_config(config, [*(set_ or []), *(more or [])])
        with off_terminal(2):  # diffusers imports packages that warn about each other
            advice = advise(settings, gpus, None if gpu_memory_gb is None else round(gpu_memory_gb * GB))
    except ValueError as error:
        errors.print(f"lipforge: {error}")
        raise typer.Exit(2) from error
    if as_json:
        console.print(json.dumps(advice_values(advice), indent=2))
        return
    for line in advice_lines(advice):
        console.print(line)
