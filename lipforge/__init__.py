"""Lipforge: from talking-head video to train-ready lip-sync data. Scripts of your own import from here:

    from lipforge import SampleStream, StreamConfig, FeatureStore, select, read_selection, read_manifest, read_sample

Each name is loaded on first use, so `import lipforge` costs nothing.
"""

import os
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lipforge.datasets_manifest.manifest import read_manifest
    from lipforge.datasets_manifest.sample import read_sample
    from lipforge.datasets_manifest.select.choose import select
    from lipforge.datasets_manifest.selection import read_selection
    from lipforge.train.features.store import FeatureStore
    from lipforge.train.stream.config import StreamConfig
    from lipforge.train.stream.stream import SampleStream

__all__ = ["FeatureStore", "SampleStream", "StreamConfig", "read_manifest", "read_sample", "read_selection", "select"]

# ONNX Runtime collects facts on the machine, and leaves an id in the home folder, unless this is set before it loads.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HERE = Path(__file__).parent
if not (_HERE / "pipeline").is_dir():
    # A checkout: `lipforge.pipeline` and its siblings are folders beside this one. Installed, they are inside it.
    __path__.append(str(_HERE.parent))

_HOMES = {
    "FeatureStore": "lipforge.train.features.store",
    "SampleStream": "lipforge.train.stream.stream",
    "StreamConfig": "lipforge.train.stream.config",
    "read_manifest": "lipforge.datasets_manifest.manifest",
    "read_sample": "lipforge.datasets_manifest.sample",
    "read_selection": "lipforge.datasets_manifest.selection",
    "select": "lipforge.datasets_manifest.select.choose",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return version("lipforge")
        except PackageNotFoundError:  # a checkout that nobody installed
            return "0+unknown"
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lipforge' has no attribute {name!r}")
