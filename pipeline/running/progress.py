"""Progress of a run: a live display in a terminal, plain lines elsewhere, and the file that `lipforge status` reads."""

import datetime
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from lipforge.datasets_manifest.display import counted
from lipforge.datasets_manifest.durations import human_time
from lipforge.datasets_manifest.generations import last_generation
from lipforge.datasets_manifest.schema import Stage
from lipforge.datasets_manifest.storage.files import to_json
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.clock import FPS
from lipforge.model.weights.load import ModelFileError
from lipforge.pipeline.clip import Unit
from lipforge.pipeline.config import PrepareConfig, Thresholds
from lipforge.pipeline.publish.accounts import Totals, account
from lipforge.pipeline.publish.decide import decided
from lipforge.pipeline.running.speed import Speed
from lipforge.pipeline.running.summary import Summary, new_run_id, now, versions
from lipforge.pipeline.sources.inputs import Unreadable

PLAIN_EVERY_S = 10.0
LOADING_S = 20.0
"""Workers that have done nothing for longer are at work, not loading models."""
SAVE_EVERY_S = 2.0
NO_ROOM_S = 60.0


class Progress:
    """Counts what is done, shows it, and keeps the run's summary. Nothing else changes the summary."""

    def __init__(self, console: Console, starts_ray: bool = False) -> None:
        """starts_ray: say that the first seconds are spent starting Ray."""
        self.starts_ray = starts_ray
        self.console = console
        self.summary = Summary("", "")
        self._store: Store | None = None
        self._thresholds = Thresholds()
        self._live: Live | None = None
        self._start_s = time.monotonic()
        self._speed = Speed()
        self._last_line_s = self._last_save_s = 0.0
        self._num_to_probe = self._num_probed = 0
        self._said_no_room = False
        self._missing_since_s = self._start_s
        self._process_since_s = self._longest_unit_s = 0.0
        self._before: Mapping[str, float] | None = None
        self._bars = Bars(
            TextColumn("{task.description}"), BarColumn(bar_width=None), TaskProgressColumn(), console=self.console
        )
        self._task = self._bars.add_task("start", total=None)

    @contextmanager
    def run(self, store: Store, config: PrepareConfig, config_hash: str) -> Iterator[Summary]:
        """Show and save progress while the block runs; save how it ended."""
        summary = Summary(run_id=new_run_id(), started_at=now(), config_hash=config_hash, versions=versions())
        self.summary, self._store, self._thresholds = summary, store, config.thresholds
        self._start_s = self._missing_since_s = time.monotonic()
        generation = last_generation(store)
        if generation is not None and "outcome" in generation.about:
            self._before = Totals.from_json(generation.about["outcome"]).seconds_by_outcome
        self._say("starting" + (" Ray, about 10 s" if self.starts_ray else ""))
        try:
            if self.console.is_terminal:
                with Live(self._render(), console=self.console, refresh_per_second=2, transient=True) as self._live:
                    yield summary
            else:
                yield summary
        finally:
            self._live = None
            summary.wall_s = round(time.monotonic() - self._start_s, 2)
            self._save()

    # --- what happened ---

    def note(self, text: str) -> None:
        """Print this at the end of the run."""
        self.summary.notes.append(text)

    def unreadable(self, folders: Iterable[Unreadable]) -> None:
        for folder in folders:
            self.note(f"could not be read: {folder.uri}: {folder.detail}")

    def no_languages(self, error: ModelFileError) -> None:
        text = f"languages are not identified and stay `und`: {error} Once this is fixed: `lipforge identify-languages`"
        self.console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
        self.note(text)

    def labels(self, notes: Iterable[str]) -> None:
        """Print at once, too: labels stay, so whoever made a mistake wants to stop now."""
        for text in notes:
            self.console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
            self.note(text)

    def no_voices(self, error: ModelFileError) -> None:
        text = f"speakers are not told by voice: {error} Once this is fixed: `lipforge identify-speakers`"
        self.console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
        self.note(text)

    def waiting(self, missing: str) -> None:
        """Nothing was done for a while. missing: as in Executor."""
        if not missing:
            self._missing_since_s = time.monotonic()
        elif not self._said_no_room and time.monotonic() - self._missing_since_s > NO_ROOM_S:
            self._said_no_room = True
            self._say(
                f"no {missing} has started yet: does the cluster have a node with room for one, and with the GPU that "
                "it asks for, if any? `ray status` shows what is asked for; `run.cut` and `run.score` say how much"
            )
        self._show()

    def no_gpu(self) -> None:
        """Said once."""
        text = "score workers have GPUs that torch cannot use, so they compute on the CPU: check torch.cuda there"
        if text not in self.summary.notes:
            self.note(text)
            self._say(f"note: {text}")

    def voices(self, num_done: int, num_clips: int) -> None:
        if num_clips:
            self.phase(f"voices: {num_done:,} of {counted(num_clips, 'clip')}")

    def sources(self, num_sources: int, num_to_probe: int) -> None:
        self.summary.num_sources = num_sources
        self._num_to_probe = num_to_probe
        known = num_sources - num_to_probe
        self._say(
            f"{counted(num_sources, 'source')} found, {num_to_probe:,} to probe"
            + (f", {known:,} already known" if known else "")
        )
        self._show(force=True)

    def probed(self, cpu_s: float, is_usable: bool) -> None:
        self._num_probed += 1
        self.summary.num_unusable += not is_usable
        self._charge({Stage.PROBE: cpu_s})
        self._show()

    def unusable(self, num_sources: int) -> None:
        """Sources that cannot be used, of those that earlier runs probed."""
        self.summary.num_unusable = num_sources

    def relabelled(self, num_sources: int) -> None:
        if num_sources:
            self.note(
                f"{counted(num_sources, 'source has', 'sources have')} other labels than at first; the first ones "
                "stay, and `lipforge relabel` changes them"
            )

    def undone(self, uri: str, detail: str, seconds: float) -> None:
        """The storage of a source failed: it, or a unit of it, is left to the next run."""
        self.summary.storage_errors.append({"source_uri": uri, "detail": detail, "seconds": seconds})
        self._say(f"not done, left to the next run: {detail}")

    def done_before(self, seconds: float) -> None:
        """Of the inputs, in segments that earlier runs sealed."""
        self.summary.seconds_before += seconds

    def units(self, units: Sequence[Unit], done: Sequence[Mapping[str, Any]], num_workers: int) -> None:
        """More units are planned. done: records of those that earlier runs finished."""
        summary = self.summary
        if not summary.num_units:
            self._process_since_s = time.monotonic()
            self.phase("process")
            self._say(f"{counted(num_workers, 'worker')} started on the first units")
        seconds_in = sum(unit.num_frames for unit in units) / FPS
        self._longest_unit_s = max([self._longest_unit_s, *(unit.num_frames / FPS for unit in units)])
        summary.num_units += len(units)
        summary.num_workers = num_workers
        for record in done:
            self._count(record)
        done_s = sum(map(_seconds, done))
        summary.seconds_before += done_s
        summary.seconds_in += seconds_in - done_s
        self._show()

    def unit_done(self, record: Mapping[str, Any]) -> None:
        self._count(record)
        self._charge(record.get("stage_cpu_s", {}))
        self.summary.seconds_done += _seconds(record)
        self._speed.add(self.summary.seconds_done)
        self._show()

    def seam_done(self, record: Mapping[str, Any]) -> None:
        """A unit across a border (sources/seams.py): its seconds are already counted."""
        self._charge(record.get("stage_cpu_s", {}))
        self._show()

    def languages(self, num_done: int, num_clips: int) -> None:
        if num_clips:
            self.phase(f"languages: {num_done:,} of {counted(num_clips, 'clip')}")

    def phase(self, name: str) -> None:
        self.summary.phase = name
        self._show(force=True)

    def finished(self, totals: Totals) -> None:
        outcome = dict(totals.seconds_by_outcome)
        if self.summary.num_unusable:
            why = "see the report or `lipforge explain` for the reasons"
            sources = counted(self.summary.num_sources, "source")
            self.note(f"{self.summary.num_unusable} of {sources} cannot be used: {why}")
        if self._before is not None:
            names = {*outcome, *self._before}
            added = {name: round(outcome.get(name, 0.0) - self._before.get(name, 0.0), 2) for name in names}
            self.summary.seconds_added = {name: added[name] for name in sorted(names)}
        self.summary.seconds_total = round(sum(outcome.values()), 2)
        self.summary.seconds_kept = round(outcome.pop("kept", 0.0), 2)
        self.summary.seconds_by_reason = {name: round(seconds, 2) for name, seconds in outcome.items()}
        self.summary.clips_by_outcome = totals.clips_by_outcome
        self.summary.phase = "done"
        self.summary.finished_at = now()

    # --- showing ---

    def _count(self, record: Mapping[str, Any]) -> None:
        """Kept and lost seconds of a unit, each second once, however many faces it shows."""
        summary = self.summary
        summary.num_units_done += 1
        for outcome, seconds in seconds_by_outcome(record, self._thresholds).items():
            if outcome == "kept":
                summary.seconds_kept += seconds
            else:
                summary.seconds_by_reason[outcome] = summary.seconds_by_reason.get(outcome, 0.0) + seconds

    def _charge(self, stage_cpu_s: Mapping[str, float]) -> None:
        for name, cpu_s in stage_cpu_s.items():
            self.summary.stage_cpu_s[name] = self.summary.stage_cpu_s.get(name, 0.0) + cpu_s

    def _words(self) -> str:
        summary = self.summary
        is_probing = self._num_probed < self._num_to_probe
        probed = f"{self._num_probed:,} of {counted(self._num_to_probe, 'source')} probed" if is_probing else ""
        if summary.phase == "probe":
            return probed
        if summary.phase != "process":
            return ""
        if not summary.seconds_done and summary.num_units_done < summary.num_units:
            return ", ".join(filter(None, [probed, self._before_the_first_unit()]))
        reasons = sorted(summary.seconds_by_reason.items(), key=lambda item: -item[1])[:4]
        lost = ", ".join(f"{name} {human_time(seconds)}" for name, seconds in reasons if seconds)
        total_s, done_s = self._total_s(), summary.seconds_before + summary.seconds_done
        about, planned = ("about ", " so far") if is_probing else ("", "")
        units = f"{summary.num_units_done:,} of {counted(summary.num_units, 'unit')}{planned}"
        counts = ", ".join(filter(None, [probed, units]))
        words = f"{human_time(done_s)} of {about}{human_time(total_s)} of video ({counts}), "
        words += f"kept {human_time(summary.seconds_kept)}" + (f"; {lost}" if lost else "")
        if summary.seconds_left is not None:
            words += f"; {self._speed.per_s() or 0:.1f}x real time, {human_time(summary.seconds_left)} left"
        return words

    def _before_the_first_unit(self) -> str:
        waited_s = time.monotonic() - self._process_since_s
        if waited_s < LOADING_S:
            return "the workers load models and begin"
        longest = human_time(self._longest_unit_s)
        return f"at work for {human_time(waited_s)}; a unit counts when it is done, and the longest has {longest}"

    def _total_s(self) -> float:
        """Of this run's sources: those that are not probed yet are taken to be as long as the others."""
        summary = self.summary
        to_come = (self._num_to_probe - self._num_probed) / max(self._num_probed, 1)
        return summary.seconds_before + summary.seconds_in * (1 + to_come)

    def _render(self) -> Group:
        summary = self.summary
        if summary.phase == "probe":  # until sources are found, a bar that only moves
            self._bars.update(self._task, total=self._num_to_probe or None, completed=self._num_probed)
        else:
            done_s = summary.seconds_before + summary.seconds_done
            self._bars.update(self._task, total=max(self._total_s(), 0.04), completed=done_s)
        first = "probe sources" if summary.num_sources else "find sources"
        self._bars.update(self._task, description=first if summary.phase == "probe" else summary.phase)
        return Group(self._bars, Text(self._words(), style="dim"))

    def _show(self, force: bool = False) -> None:
        now_s = time.monotonic()
        speed = self._speed.per_s()
        done_s = self.summary.seconds_before + self.summary.seconds_done
        self.summary.seconds_left = round((self._total_s() - done_s) / speed, 1) if speed else None
        if self._live is not None:
            self._live.update(self._render())
        elif not force and not self.console.is_terminal and now_s - self._last_line_s >= PLAIN_EVERY_S:
            self._last_line_s = now_s
            self._say(self._words())
        if force or now_s - self._last_save_s >= SAVE_EVERY_S:
            self._last_save_s = now_s
            self.summary.wall_s = round(now_s - self._start_s, 2)
            self.summary.words = self._words()
            self._save()

    def _say(self, line: str) -> None:
        if not line:
            return
        stamp = datetime.datetime.now().strftime("%H:%M:%S")
        self.console.print(f"{stamp} {line}", markup=False, highlight=False, soft_wrap=True)

    def _save(self) -> None:
        assert self._store is not None
        self._store.write(f"runs/{self.summary.run_id}/summary.json", to_json(self.summary.as_record()))


def seconds_by_outcome(record: Mapping[str, Any], thresholds: Thresholds) -> dict[str, float]:
    """Seconds of a unit's video that are `kept`, and by the reason of the others; each second once."""
    rows = [decided(row, thresholds) for row in record["rows"]]
    account(rows, record["start_frame"], record["end_frame"])
    found: dict[str, float] = {}
    for row in rows:
        outcome = "kept" if row["status"] == "kept" else row["reason"]
        found[outcome] = found.get(outcome, 0.0) + row["accounted_frames"] / FPS
    return found


def outcome_table(
    kept: float, by_reason: Mapping[str, float], clips: Mapping[str, int], added: Mapping[str, float] | None = None
) -> Table:
    """Seconds in = kept + each reason. clips: number of rows of each; empty if unknown.

    added: of these seconds, what the last run brought, as Summary.seconds_added; None when that is all of them.
    """
    total = max(kept + sum(by_reason.values()), 1e-9)
    table = Table(box=None, pad_edge=False)
    for name in ("", "time", "share", *(["clips"] if clips else []), *([] if added is None else ["this run"])):
        table.add_column(name, justify="right" if name else "left")

    def add(name: str, seconds: float, outcome: str | None, style: str = "") -> None:
        cells = [human_time(seconds), f"{100 * seconds / total:.0f} %"]
        if clips:
            cells.append("" if outcome is None else f"{clips.get(outcome, 0):,}")
        if added is not None:
            cells.append(_change(sum(added.values()) if outcome is None else added.get(outcome, 0.0)))
        table.add_row(name, *cells, style=style)

    add("in" if added is None else "whole dataset", kept + sum(by_reason.values()), None, "bold")
    add("kept", kept, "kept", "green")
    for reason, seconds in sorted(by_reason.items(), key=lambda item: -item[1]):
        add(f"  {reason}", seconds, reason)
    return table


def _change(seconds: float) -> str:
    if abs(seconds) < 0.005:
        return "-"
    return f"{'+' if seconds > 0 else '-'}{human_time(abs(seconds))}"


def _seconds(record: Mapping[str, Any]) -> float:
    return (record["end_frame"] - record["start_frame"]) / FPS
