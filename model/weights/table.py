"""Which model files exist: what each is for, where it comes from, its licence and its hash.

They are listed by job in table_data.py, table_training.py and table_measures.py; places.py has what several share.
A bundle is a set of files that are fetched together. load.py, beside this file, reads them; fetch.py downloads them.
"""

from lipforge.model.weights.model_file import HubFile, ModelFile, PackageFile, WebFile, ZipMember
from lipforge.model.weights.table_data import DATA_FILES
from lipforge.model.weights.table_measures import MEASURE_FILES
from lipforge.model.weights.table_training import TRAINING_FILES

__all__ = [
    "DEFAULT_BUNDLE",
    "MODEL_FILES",
    "HubFile",
    "ModelFile",
    "PackageFile",
    "WebFile",
    "ZipMember",
    "bundles",
    "list_models",
]

MODEL_FILES = (*DATA_FILES, *TRAINING_FILES, *MEASURE_FILES)

DEFAULT_BUNDLE = "builtin"


def bundles() -> tuple[str, ...]:
    """Names of all bundles, in the order of the table."""
    return tuple(dict.fromkeys(file.bundle for file in MODEL_FILES))


def list_models(bundle: str | None = None) -> list[ModelFile]:
    """The files of one bundle, or of all. Raises ValueError for an unknown bundle."""
    if bundle is not None and bundle not in bundles():
        raise ValueError(f"unknown bundle of model files {bundle!r}; known: {', '.join(bundles())}")
    return [file for file in MODEL_FILES if bundle in (None, file.bundle)]
