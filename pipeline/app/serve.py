"""Start the app, and end it so that nothing is left behind."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware

from lipforge.pipeline.app.gate import Gate
from lipforge.pipeline.app.jobs import Jobs
from lipforge.pipeline.app.shelf import MOST_UPLOAD_BYTES, Shelf

LOOPBACK = "127.0.0.1"
_SILENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",  # usage and version checks
    "GRADIO_SERVER_NODE": "",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


@dataclass
class Running:
    """An app that serves."""

    url: str
    share_url: str | None
    folder: Path
    _page: Any
    _jobs: Jobs
    _shelf: Shelf

    def wait(self) -> None:
        """Until it is interrupted."""
        self._page.server.thread.join()

    def close(self) -> None:
        self._jobs.close()
        self._page.close(verbose=False)
        self._shelf.close()


def start(
    folder: Path,
    model: str | None,
    host: str = LOOPBACK,
    port: int = 7860,
    share: bool = False,
    jobs: Jobs | None = None,
    most_upload_bytes: int = MOST_UPLOAD_BYTES,
) -> Running:
    """Serve from a thread. Raises ValueError without Gradio or when the port is taken; OSError for the folder."""
    os.environ.update(_SILENT)
    if find_spec("gradio") is None:
        raise ValueError('the app needs Gradio: pip install "lipforge[app]"')
    from lipforge.pipeline.app import show
    from lipforge.pipeline.app.page import build_page

    jobs, shelf = jobs or Jobs(), Shelf(folder)
    os.environ["GRADIO_TEMP_DIR"] = str(shelf.uploads)
    page = build_page(jobs, shelf, model, most_upload_bytes)
    gate = Middleware(Gate, shelf=shelf, find_job=jobs.find, compare=show.compare)
    try:
        _, url, share_url = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            footer_links=[],
            max_file_size=most_upload_bytes,
            app_kwargs={"middleware": [gate], "docs_url": None, "redoc_url": None},
            theme=show.theme(),
            css=show.STYLE,
        )
    except OSError as error:
        jobs.close()
        shelf.close()
        raise ValueError(f"port {port} on {host} cannot be used: name another one with --port") from error
    return Running(url, share_url, shelf.folder, page, jobs, shelf)
