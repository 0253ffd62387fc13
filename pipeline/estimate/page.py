"""The page that an estimate prints: what a run will give, and what it will cost. Readable at 80 columns."""

import os
from collections import Counter
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from lipforge.datasets_manifest.display import counted, human_bytes, human_share, visible
from lipforge.datasets_manifest.durations import human_time
from lipforge.datasets_manifest.schema import Reason
from lipforge.pipeline.estimate.observation import KEPT
from lipforge.pipeline.estimate.ranges import LEVEL, Range
from lipforge.pipeline.estimate.run import Estimate

WIDTH = 80
"""Narrower terminals wrap lines: numbers are not cut off."""
FEW_SPANS = 10
"""Fewer tell little: the page says so."""
TRIED_AGAIN = (Reason.WORKER_CRASHED, Reason.TIMEOUT)
EXAMPLES = 3
"""Sources that are named for each reason for which they cannot be used."""
MANY_LANGUAGES = 12
SMALL_SHARE = 0.01
"""Of CPU time: stages below it share a line."""


def print_page(console: Console, found: Estimate, command: str) -> None:
    """command: that starts the run."""

    def say(text: str = "", style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    console.width = max(console.width, WIDTH)
    say()
    for line in _found_lines(found):
        say(line)
    for line in _unusable_lines(found):
        say(line, "yellow")
    for note in [*found.notes, *(f"could not be read: {u.uri}: {u.detail}" for u in found.unreadable)]:
        say(note, "yellow")
    if found.sample.observations:
        say()
        for line in _sample_lines(found):
            say(line)
        for title, table in _tables(found):
            say(f"\n{title}", "bold")
            console.print(table, crop=False)
        say()
        for line in _fine_print(found):
            say(line, "dim")
        say("\nNothing was written. This starts the run:")
        say(f"  {command}")
    elif found.has_video:
        say("\nNothing is left to process.")


# --- words ---


def _found_lines(found: Estimate) -> list[str]:
    population, seconds = found.population, found.forecast.found_s
    lines = [f"{counted(population.num_sources, 'source')} found: {_of(seconds, human_time)} of video"]
    if population.num_known:
        lines[0] += f" to process; {human_time(population.before_s)} are done"
    if population.is_sampled:
        lines.append(
            f"The headers of {len(population.probed):,} of them were read, in random order; the rest is taken to be "
            "like these."
        )
    return lines


def _unusable_lines(found: Estimate) -> list[str]:
    """One for each reason, with examples."""
    population = found.population
    names: dict[str, list[str]] = {}
    for video in population.unusable:
        assert video.reason is not None
        names.setdefault(video.reason.value, []).append(f"{video.source.uri.rpartition('/')[2]}: {video.detail}")
    for video in population.duplicates:
        names.setdefault("duplicate", []).append(video.source.uri.rpartition("/")[2])
    lines = []
    for reason, examples in sorted(names.items(), key=lambda item: -len(item[1])):
        more = len(examples) - EXAMPLES
        shown = "; ".join(visible(example) for example in examples[:EXAMPLES])
        lines.append(
            f"{counted(len(examples), 'source')} cannot be used, {reason}: {shown}"
            + (f"; and {more:,} more" if more > 0 else "")
        )
    failed = Counter([*population.unread, *found.sample.undone])
    if failed:
        lines.append(f"storage failed for {counted(sum(failed.values()), 'read')}: {next(iter(failed))}")
    return lines


def _sample_lines(found: Estimate) -> list[str]:
    sample, forecast = found.sample, found.forecast
    spans = counted(len(sample.observations), "span")
    if forecast.seen_share > 1 - 1e-6:
        taken = f"All of it was processed, in {human_time(sample.wall_s)}"
        lost_s = sum(seconds.value for name, seconds in forecast.outcome_s.items() if name in TRIED_AGAIN)
        if lost_s:
            return [f"{taken}. A run tries what crashed or hung again: it may keep more."]
        return [f"{taken}: what is kept and lost is exact."]
    lines = [
        f"Processed as a sample: {spans}, {human_time(sample.seconds)}, "
        f"{human_share(forecast.seen_share, 1.0)} of the video, in {human_time(sample.wall_s)}.",
        f"The ranges should hold the truth in {100 * LEVEL:.0f} % of such cases.",
    ]
    if len(sample.observations) < FEW_SPANS:
        lines.append(f"{spans} are few: the ranges are wide.")
    return lines


def _fine_print(found: Estimate) -> list[str]:
    config, forecast = found.config, found.forecast
    lines = []
    if forecast.unseen_s > 0.5:
        lines.append(f"A reason that the sample did not meet may take up to {human_time(forecast.unseen_s)}.")
    lines.append("CPU and wall time are this machine's, as busy as it was; each worker has a core to itself.")
    if found.num_workers > found.here and not os.environ.get("RAY_ADDRESS"):
        lines.append(f"This machine has room for {counted(found.here, 'worker')}: more of them here bring nothing.")
    if config.language.whisper is not None:
        lines.append("Identifying languages comes on top.")
    if config.speaker.by_voice:
        lines.append("Telling speakers by voice comes on top: 5 to 8 ms of CPU per second of clip.")
    if config.run.cut.gpus or config.run.score.gpus:
        lines.append("What GPUs save is in it only where this machine has them.")
    return lines


# --- tables ---


def _tables(found: Estimate) -> list[tuple[str, Table]]:
    forecast = found.forecast
    tables = [("What you will get", _yield_table(found))]
    if forecast.languages:
        tables.append(("By language", _language_table(found)))
    return [*tables, ("CPU time", _cpu_table(found)), ("What it takes", _cost_table(found))]


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table


def _yield_table(found: Estimate) -> Table:
    forecast = found.forecast
    whole = forecast.found_s
    table = _table("", "expected", "range", "share")
    table.add_row("in", human_time(whole.value), _range(whole, human_time), "100 %", style="bold")
    for outcome, seconds in forecast.outcome_s.items():
        share = human_share(seconds.value, whole.value)
        name = KEPT if outcome == KEPT else f"  {outcome}"
        style = "green" if outcome == KEPT else ""
        table.add_row(name, human_time(seconds.value), _range(seconds, human_time), share, style=style)
    table.add_row("clips", _count(forecast.clips.value), _range(forecast.clips, _count), "")
    return table


def _language_table(found: Estimate) -> Table:
    table = _table("", "in", "kept", "range", "spans")
    languages = found.forecast.languages
    for language in languages[:MANY_LANGUAGES]:
        kept = language.kept_s
        words = ("?", "no span of it") if kept is None else (human_time(kept.value), _range(kept, human_time))
        table.add_row(language.name, human_time(language.seconds), *words, str(language.num_spans))
    if len(languages) > MANY_LANGUAGES:
        rest = languages[MANY_LANGUAGES:]
        table.add_row(f"{len(rest)} more", human_time(sum(language.seconds for language in rest)), "", "", "")
    return table


def _cpu_table(found: Estimate) -> Table:
    forecast = found.forecast
    table = _table("", "expected", "range", "share")
    total = forecast.cpu_s
    table.add_row("in all", human_time(total.value), _range(total, human_time), "100 %", style="bold")
    small = [cpu_s for cpu_s in forecast.stage_cpu_s.values() if cpu_s.value < SMALL_SHARE * total.value]
    for name, cpu_s in forecast.stage_cpu_s.items():
        if cpu_s.value >= SMALL_SHARE * total.value:
            share = human_share(cpu_s.value, total.value)
            table.add_row(f"  {name}", human_time(cpu_s.value), _range(cpu_s, human_time), share)
    rest_s = sum(cpu_s.value for cpu_s in small)
    table.add_row(f"  {len(small)} others", human_time(rest_s), "", human_share(rest_s, total.value))
    return table


def _cost_table(found: Estimate) -> Table:
    forecast, disk = found.forecast, found.forecast.disk
    table = _table("", "expected", "range")
    for crew in forecast.crews:
        name = f"time with {counted(crew.num_workers, 'worker')}"
        whose = " (this machine)" if crew.num_workers == found.here else ""
        table.add_row(name + whose, human_time(crew.wall_s.value), _range(crew.wall_s, human_time))
    memory = forecast.memory_bytes
    table.add_row("memory of a worker, at its peak", human_bytes(memory.value), _range(memory, human_bytes))
    whose = "what is added" if found.population.before_s else "the dataset"
    table.add_row(f"disk: {whose}", human_bytes(disk.finished.value), _range(disk.finished, human_bytes))
    table.add_row("  of it, kept clips", human_bytes(disk.shards.value), _range(disk.shards, human_bytes))
    refused = "  of it, rejected clips, until `prune`"
    table.add_row(refused, human_bytes(disk.refused.value), _range(disk.refused, human_bytes))
    table.add_row("  of it, the report", human_bytes(disk.report.value), _range(disk.report, human_bytes))
    table.add_row("disk: while it is made, at most", human_bytes(disk.peak.value), _range(disk.peak, human_bytes))
    return table


def _range(there: Range, words: Callable[[float], str]) -> str:
    """`20 min 0 s to 30 min 0 s`; nothing for a number that is exact."""
    low, high = words(there.low), words(there.high)
    return "" if low == high else f"{low} to {high}"


def _of(there: Range, words: Callable[[float], str]) -> str:
    """`25 min 0 s`; for one that is not exact, `25 min 0 s (20 min 0 s to 30 min 0 s)`."""
    span = _range(there, words)
    return words(there.value) + (f" ({span})" if span else "")


def _count(number: float) -> str:
    return f"{round(number):,}"
