"""What the longer benchmarks run: other commands of the project, one after the other, with what each took."""

import subprocess
import sys
import time
from collections.abc import Sequence


def lipforge(arguments: Sequence[str]) -> None:
    run([sys.executable, "-m", "lipforge", *arguments])


def run(arguments: Sequence[str]) -> None:
    """Ends this program when a command fails."""
    started_s = time.perf_counter()
    ended = subprocess.run(arguments, check=False)
    if ended.returncode:
        sys.exit(f"{' '.join(arguments)}: exit code {ended.returncode}")
    print(f"took {time.perf_counter() - started_s:.0f} s", flush=True)


def say(words: str) -> None:
    print(f"\n== {words}", flush=True)
