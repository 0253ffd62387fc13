"""What a person sees of a run: a live display in a terminal, plain lines elsewhere, and a file that `lipforge status` reads."""

import datetime
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from pipeline.accounts import Totals, is_measured
from pipeline.config import FPS
from pipeline.ledger import to_json
from pipeline.storage import Store
from pipeline.summary import Summary

PLAIN_EVERY_S = 10.0
SAVE_EVERY_S = 2.0


class Progress:
    """Counts what is done, and shows it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None

    @contextmanager
    def run(self, summary: Summary, store: Store) -> Iterator[None]:
        """Show and save progress while the block runs; save how it ended."""
        self.summary = summary
        self.store = store
        self._start_s = time.monotonic()
        self._seconds_before = 0.0
        self._last_line_s = self._last_save_s = 0.0
        self._num_to_probe = self._num_probed = 0
        self._bars = Bars(
            TextColumn("{task.description}"), BarColumn(bar_width=None), TaskProgressColumn(), console=self.console
        )
        self._task = self._bars.add_task("probe", total=None)
        try:
            if self.console.is_terminal:
                with Live(self._render(), console=self.console, refresh_per_second=2, transient=True) as self._live:
                    yield
            else:
                yield
        finally:
            self._live = None
            summary.wall_s = round(time.monotonic() - self._start_s, 2)
            self._save()

    # --- what happened --------------------------------------------------------------------------------------------------

    def sources(self, num_sources: int, num_to_probe: int) -> None:
        self.summary.num_sources = num_sources
        self._num_to_probe = num_to_probe
        known = num_sources - num_to_probe
        self._say(
            f"{num_sources} sources found, {num_to_probe} to look at" + (f", {known} known already" if known else "")
        )
        self._bars.update(self._task, total=max(num_to_probe, 1), description="look at sources")
        self._show(force=True)

    def probed(self, cpu_s: float) -> None:
        self._num_probed += 1
        self.summary.stage_cpu_s["probe"] = self.summary.stage_cpu_s.get("probe", 0.0) + cpu_s
        self._bars.update(self._task, completed=self._num_probed)
        self._show()

    def units(self, seconds_in: float, num_units: int, done: Iterable[Mapping[str, Any]]) -> None:
        """All units of the inputs, and the records of those that earlier runs finished."""
        self.phase("process")
        self.summary.seconds_in, self.summary.num_units = seconds_in, num_units
        for record in done:
            self._count(record)
        self._seconds_before = self.summary.seconds_done
        self._start_units_s = time.monotonic()
        self._bars.update(
            self._task, total=max(seconds_in, 0.04), completed=self.summary.seconds_done, description="process"
        )
        before = f", {hours(self._seconds_before)} done before" if done else ""
        self._say(f"{num_units} units of work, {hours(seconds_in)}{before}, {self.summary.num_workers} workers")
        self._show(force=True)

    def unit_done(self, record: Mapping[str, Any]) -> None:
        self._count(record)
        self._bars.update(self._task, completed=self.summary.seconds_done)
        self._show()

    def seam_done(self, record: Mapping[str, Any]) -> None:
        """A second look at a border between units: its seconds are counted already."""
        for name, cpu_s in record["stage_cpu_s"].items():
            self.summary.stage_cpu_s[name] = self.summary.stage_cpu_s.get(name, 0.0) + cpu_s
        self._show()

    def phase(self, name: str) -> None:
        self.summary.phase = name
        self._show(force=True)

    def finished(self, totals: Totals) -> None:
        outcome = dict(totals.seconds_by_outcome)
        self.summary.seconds_total = round(sum(outcome.values()), 2)
        self.summary.seconds_kept = round(outcome.pop("kept", 0.0), 2)
        self.summary.seconds_by_reason = {name: round(seconds, 2) for name, seconds in outcome.items()}
        self.summary.phase = "done"
        self.summary.finished_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

    # --- showing --------------------------------------------------------------------------------------------------------

    def _count(self, record: Mapping[str, Any]) -> None:
        summary = self.summary
        summary.num_units_done += 1
        summary.seconds_done += (record["end_frame"] - record["start_frame"]) / FPS
        for name, cpu_s in record.get("stage_cpu_s", {}).items():
            summary.stage_cpu_s[name] = summary.stage_cpu_s.get(name, 0.0) + cpu_s
        for row in record["rows"]:
            seconds = (row["end_frame"] - row["start_frame"]) / FPS
            if row["status"] == "kept" and is_measured(row):
                summary.seconds_kept += seconds
            else:
                summary.seconds_by_reason[row["reason"]] = summary.seconds_by_reason.get(row["reason"], 0.0) + seconds

    def _speed(self) -> float:
        """Seconds of video per second of time, since units began."""
        started = getattr(self, "_start_units_s", None)
        done = self.summary.seconds_done - self._seconds_before
        return done / max(time.monotonic() - started, 1e-3) if started and done else 0.0

    def _words(self) -> str:
        summary, speed = self.summary, self._speed()
        if summary.phase == "probe":
            return f"{self._num_probed} of {self._num_to_probe} sources looked at"
        left = max(0.0, summary.seconds_in - summary.seconds_done) / speed if speed else None
        reasons = sorted(summary.seconds_by_reason.items(), key=lambda item: -item[1])[:4]
        lost = ", ".join(f"{name} {hours(seconds)}" for name, seconds in reasons)
        return (
            f"{hours(summary.seconds_done)} of {hours(summary.seconds_in)} ({summary.num_units_done}/{summary.num_units} "
            f"units), kept {hours(summary.seconds_kept)}" + (f"; {lost}" if lost else "")
        ) + (f"; {speed:.1f}x real time, {hours(left)} left" if left is not None else "")

    def _render(self) -> Group:
        return Group(self._bars, Text(self._words(), style="dim"))

    def _show(self, force: bool = False) -> None:
        now_s = time.monotonic()
        if self._live is not None:
            self._live.update(self._render())
        elif force is False and now_s - self._last_line_s >= PLAIN_EVERY_S:
            self._last_line_s = now_s
            self._say(self._words())
        if force or now_s - self._last_save_s >= SAVE_EVERY_S:
            self._last_save_s = now_s
            self.summary.wall_s = round(now_s - self._start_s, 2)
            self._save()

    def _say(self, line: str) -> None:
        if self._live is None and not self.console.is_terminal:
            stamp = datetime.datetime.now().strftime("%H:%M:%S")
            self.console.print(f"{stamp} {line}", markup=False, highlight=False, soft_wrap=True)

    def _save(self) -> None:
        self.store.write(f"runs/{self.summary.run_id}/summary.json", to_json(self.summary.as_record()))


def outcome_table(seconds_in: float, kept: float, by_reason: Mapping[str, float]) -> Table:
    """Seconds in = kept + each reason."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("time", justify="right")
    table.add_column("share", justify="right")
    total = max(seconds_in, 1e-9)
    table.add_row("in", hours(seconds_in), "100 %", style="bold")
    table.add_row("kept", hours(kept), f"{100 * kept / total:.0f} %", style="green")
    for reason, seconds in sorted(by_reason.items(), key=lambda item: -item[1]):
        if seconds:  # a clip that shares all its seconds with another face's has none of its own
            table.add_row(f"  {reason}", hours(seconds), f"{100 * seconds / total:.0f} %")
    return table


def hours(seconds: float) -> str:
    """A length of time as a person would say it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
