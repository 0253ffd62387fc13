"""The command `lipforge app`."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from lipforge.pipeline.infer.request import InferConfig, InferError
from lipforge.pipeline.terminal import plain_errors, say

app = typer.Typer()


@app.command(name="app")
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on. The default is for this machine alone; 0.0.0.0 is for all.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    share: Annotated[
        bool, typer.Option("--share", help="Also give a public link, through Gradio's servers, to anyone who has it.")
    ] = False,
    folder: Annotated[
        Path, typer.Option(help="Uploads and results lie here while the app runs. Nothing outside of it is served.")
    ] = Path("~/.lipforge-app"),
    model: Annotated[
        str | None, typer.Option(help=" ".join((InferConfig.model_fields["model"].description or "").split()))
    ] = None,
) -> None:
    """Give videos new lips in a browser.

    Example:

        lipforge app --model runs/a/model
    """
    from lipforge.pipeline.app.serve import start
    from lipforge.pipeline.infer.lips import open_lip_model

    with plain_errors():
        try:
            open_lip_model(InferConfig(model=model))  # here, so that a model that cannot be used is known at once
        except InferError as error:
            raise ValueError(str(error)) from error
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        running = start(folder, model, host, port, share)
        say(f"Lipforge is at {running.url}")
        if running.share_url:
            say(f"and, for anyone who has the link, at {running.share_url}")
        say("Ctrl-C ends it; its uploads and results go then.")
        try:
            running.wait()
        except KeyboardInterrupt:
            say("ending ...")
        finally:
            running.close()
