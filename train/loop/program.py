"""A trainer as a program: its options, its processes, and what its errors become.

Exit codes: 0 all steps made, or stopped early; 1 training had to stop; 2 wrong settings or inputs; 128 + signal: saved
and stopped.
"""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

import torch

from lipforge.datasets_manifest.storage.trouble import UnreadableError
from lipforge.model.weights.load import ModelFileError
from lipforge.train.config import TrainerConfig, load_preset, presets
from lipforge.train.features.index import FeatureError
from lipforge.train.loop import run_folder
from lipforge.train.loop.run import Stopped
from lipforge.train.loop.start import is_main_process, start
from lipforge.train.loop.together import Together, TrainingError
from lipforge.train.stream.decode import DamagedSampleError

D = TypeVar("D", bound=TrainerConfig)


def program(kind: type[D], train: Callable[[D, Together], None], about: str | None) -> None:
    """Run a trainer from the command line, in each of the processes that a launcher started."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_EPILOG
    )
    known = ", ".join(presets(kind))
    parser.add_argument("--config", required=True, help=f"a preset ({known}) or the path of a YAML file")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="settings, over those of the file"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    warnings.filterwarnings("ignore", module="torch|accelerate|diffusers")
    for chatty in ("DeepSpeed", "bitsandbytes", "torch.distributed"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    sys.exit(_guarded(lambda: _run(load_preset(kind, arguments.config, arguments.set), train)))


_EPILOG = """\
Every run needs `selection` (from `lipforge select`) and `run_dir`. The same command goes on where it stopped.
`lipforge train status RUN` shows how it stands; `lipforge train plan --config ...` how much memory it takes.
docs/training.md explains the settings; train/config.py has them all."""


def _run(config: D, train: Callable[[D, Together], None]) -> None:
    together = Together(start(config), config.mixed_precision)
    lock = run_folder.locked(config.run_dir) if together.accelerator.is_main_process else nullcontext()
    together.do(lock.__enter__, ValueError, OSError)
    try:
        together.listen()
        train(config, together)
        together.leave()
    except Exception:
        if together.is_ending:
            together.leave()
        raise
    finally:
        lock.__exit__(None, None, None)


def _guarded(work: Callable[[], None]) -> int:
    """Exit code. Errors that all ranks share are said by one."""
    try:
        work()
    except Stopped as stopped:
        _say(str(stopped))
        return stopped.exit_code
    except (TrainingError, DamagedSampleError) as error:
        _say(str(error))
        return 1
    except (FeatureError, FileNotFoundError, ModelFileError, UnreadableError) as error:
        _say(str(error))
        return 1
    except ValueError as error:
        _say(str(error))
        return 2
    except torch.OutOfMemoryError as error:
        _say(_out_of_memory(error), anyone=True)
        return 1
    except OSError as error:
        _say(f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}", anyone=True)
        return 1
    except RuntimeError as error:
        if not any(words in str(error) for words in _PEER_IS_GONE):
            raise
        _say("another rank ended; its own message says why. The newest checkpoint is whole", anyone=True)
        return 1
    return 0


_PEER_IS_GONE = ("Connection closed by peer", "Connection reset by peer", "Socket Timeout", "Broken pipe")
"""How gloo words it."""


def _say(words: str, anyone: bool = False) -> None:
    if is_main_process():
        print(f"lipforge: {words}", file=sys.stderr, flush=True)  # noqa: T201
    elif anyone:
        print(f"lipforge: rank {os.environ.get('RANK')}: {words}", file=sys.stderr, flush=True)  # noqa: T201


def _out_of_memory(error: torch.OutOfMemoryError) -> str:
    return (
        f"out of GPU memory ({str(error).splitlines()[0]}). Set, in this order, what is not set yet: the variable "
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True, gradient_checkpointing=true, mixed_precision=bf16, "
        "batch_size=1 with more gradient_accumulation_steps, `features` with cached latents, optimizer.name=adamw8bit; "
        "`lipforge train plan` says what each saves. The newest checkpoint is whole"
    )
