"""A slide as an OME-Zarr 0.5 store: planned, written shard by shard on an executor, finished.

    SLIDE → prepare_store → TilingPlan: stages of ShardTasks → write_shards … → complete_store → OUT.ome.zarr

Each is the body of a task: the process that drives them opens no slide and looks at no shard.
The slide's own levels are copied pixel for pixel, so that segmenting the store equals segmenting the slide; levels
for viewers are derived below them by means of 2 × 2. Chunks that are all white, or (on request) touch no tissue,
are not stored. The store lies under its final name from the start and says ``complete: false`` until the end. A
shard is done once its file has its name, so a kill at any moment costs the shards being computed, and the same call
goes on.

The default codec is zstd: exact, and known to every reader of zarr v3. It makes a store of 5 to 10 times the SVS;
jpeg makes 1.3 to 2 times, loses what a second JPEG coding loses, and needs zarr-python with imagecodecs to be read.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsiseg.convert.plan import TilingOptions, TilingPlan, level_note, plan_tiling
from wsiseg.convert.shards import ShardSummary, ShardTask, read_lost, write_shards
from wsiseg.core.atomic import lock_beside, read_json, sync_folder, write_json
from wsiseg.core.environment import absolute, environment_faults
from wsiseg.core.ngff import group_metadata, image_metadata
from wsiseg.errors import EnvironmentFault, SlideError, UsageError
from wsiseg.results.folder import assign_ids
from wsiseg.run.events import Begun, Listener, ShardsDone, StoreEnded, Unchanged, ignore
from wsiseg.run.schedule import Executor, Stage, Steps, run_stages
from wsiseg.slide.mpp import from_option, read_mpp_table
from wsiseg.slide.open import SlideSource
from wsiseg.slide.readers.omezarr.reader import SCHEMA, stored_bits
from wsiseg.slide.readers.omezarr.shards import Codec
from wsiseg.slide.remote import location
from wsiseg.slide.slide import Slide

_REDUCED = "The scanner's levels as they are, then the mean of 2 × 2 pixels, rounded half up."


def tile_slide(
    slide: Slide,
    out: Path,
    *,
    mpp: float | None = None,
    tissue_only: bool = False,
    codec: Codec = "zstd",
    executor: Executor,
    on_event: Listener = ignore,
) -> dict[str, Any]:
    """Write one slide to the store ``out``; goes on where an earlier call with the same options was stopped.

    Returns
    -------
    dict
        ``status`` (complete or unchanged), ``path``, ``levels``, ``shards`` (total, computed, stored), ``bytes``,
        ``lost`` (damaged parts of the source), ``codec``, ``exact``, ``mpp``, ``seconds``.

    Raises
    ------
    UsageError
        ``out`` is something else, or a store made of another slide or with other options.
    MissingMppError
        ``mpp`` or ``tissue_only`` is asked of a slide whose mpp is unknown.
    EnvironmentFault
        The disk or the cluster gives out, or another run writes to ``out``; the same call goes on from there.
    """
    options, out = TilingOptions(mpp, tissue_only, codec), absolute(Path(out))
    job = TilingJob(SlideSource(location(slide.path), slide.override), out, options)
    steps = tiling_steps(job, on_event)
    ((_, record),) = run_stages(executor, [steps])
    return dict(record)


def tile_slides(
    paths: Sequence[Path],
    out: Path,
    options: TilingOptions,
    executor: Executor,
    on_event: Listener = ignore,
    *,
    mpp: float | None = None,
    mpp_table: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Write each slide to a store; a slide that fails leaves the others alone.

    Parameters
    ----------
    paths : sequence of Path
    out : Path
        The store if it ends in ``.zarr`` and there is one slide, else a folder for ``<slide-id>.ome.zarr``.
    options : TilingOptions
    executor : Executor
    on_event : function, optional
    mpp, mpp_table : optional
        Microns per level-0 pixel of the slides, instead of what their metadata say; see
        :func:`wsiseg.slide.open_slide`.

    Returns
    -------
    list of dict
        As :func:`tile_slide` returns, in the order of ``paths``; a slide that failed has ``status`` "failed" and
        ``error``.

    Raises
    ------
    UsageError
        A request that makes no sense; of several slides, only one that makes none for any of them.
    EnvironmentFault
        The disk or the cluster gives out; the same call goes on from there.
    """
    if not paths:
        raise UsageError("no slides given")
    table = read_mpp_table(mpp_table) if mpp_table is not None else None
    given = from_option(mpp) if mpp is not None else None

    def job(path: Path, store: Path) -> TilingJob:
        override = given or (table.lookup(path) if table is not None else None)
        return TilingJob(SlideSource(str(path), override), store, options)

    stores = store_paths(list(map(absolute, paths)), absolute(out))  # workers may run in another folder
    steps = (_guarded_steps(job(path, store), on_event, len(stores) == 1) for path, store in stores.items())
    ended = dict(run_stages(executor, steps))
    return [ended[i] for i in sorted(ended)]


def store_paths(paths: Sequence[Path], out: Path) -> dict[Path, Path]:
    """The store of each slide."""
    if out.suffix == ".zarr":
        if len(paths) > 1:
            raise UsageError(f"-o {out}: is one store for {len(paths)} slides. Give a folder.")
        return {paths[0]: out}
    return {path: out / f"{name}.ome.zarr" for path, name in assign_ids(paths, out).items()}


@dataclass(frozen=True)
class TilingJob:
    """One slide to be written to one store."""

    source: SlideSource
    out: Path
    options: TilingOptions

    @property
    def name(self) -> str:
        return os.path.basename(self.source.path)


@dataclass(frozen=True)
class PreparedStore:
    """A plan without the shards that are there, how many it had, and the record of a store that is complete."""

    plan: TilingPlan
    shards: int
    finished: dict[str, Any] | None = None


def prepare_store(job: TilingJob) -> PreparedStore:
    """Plan a store, make its folder and metadata, and see what an earlier run has written.

    Raises
    ------
    SlideError, UsageError, EnvironmentFault
        As :func:`tile_slide`.
    """
    plan = plan_tiling(job.source.open(), job.out, job.options)
    if _is_finished(plan):
        bare = replace(plan, stages=())
        return PreparedStore(bare, plan.shards, _finished_record(plan, "unchanged"))
    _begin(plan)
    pending = tuple(tuple(entry for entry in stage if not _done(entry)) for stage in plan.stages)
    return PreparedStore(replace(plan, stages=pending), plan.shards)


def complete_store(job: tuple[TilingJob, TilingPlan]) -> dict[str, Any]:
    """Finish a store whose shards are all there; returns its record.

    Raises
    ------
    SlideError
        The slide is another one than when it was planned.
    EnvironmentFault
        A shard that was written is not there.
    """
    request, plan = job
    if request.source.open().fingerprint() != plan.record["source"]["fingerprint"]:
        raise SlideError(
            f"{request.name}: was changed while it was copied, so the store may hold parts of both.\n"
            f"Delete {plan.out} and run the same command."
        )
    finish_tiling(plan)
    return _finished_record(plan, "complete")


def finish_tiling(plan: TilingPlan) -> None:
    """Mark the store complete and remove what was needed only until then.

    Raises
    ------
    EnvironmentFault
        A shard that was written is not there.
    """
    empty = plan.levels[0].layout.index_bytes
    notes, blank = [], []
    for level in plan.levels:
        stored: list[bool] = []
        lost: dict[tuple[Any, ...], None] = {}  # a damaged tile on a seam is noted by both its shards
        for row, column in level.layout.shards():
            file = level.shard_file(plan.out, row, column)
            size = _size(file)
            stored.append(size > empty)
            blank += [] if size > empty else [file]
            lost |= dict.fromkeys(tuple(entry) for entry in read_lost(file))
        notes.append({**level_note(level), "stored": stored_bits(stored), "lost": list(lost)})
    _write_group(plan, {**plan.record, "complete": True, "levels": notes})
    _clean(plan, blank)


def tiling_steps(job: TilingJob, on_event: Listener) -> Steps:
    """The stages of one store for :func:`wsiseg.run.schedule.run_stages`."""
    started = time.perf_counter()
    with lock_beside(job.out):
        (prepared,) = yield Stage("plan-tiling", prepare_store, [job])
        plan = prepared.plan
        if prepared.finished is not None:
            on_event(Unchanged(plan.name))
            return {**prepared.finished, "seconds": time.perf_counter() - started}
        done, size = prepared.shards - plan.shards, 0
        on_event(Begun(plan.name, prepared.shards, done))
        computed = 0

        def count(_: Any, summaries: tuple[ShardSummary, ...]) -> None:
            nonlocal computed, done, size
            computed += sum(summary.computed for summary in summaries)
            done += len(summaries)
            size += sum(summary.bytes for summary in summaries)
            on_event(ShardsDone(plan.name, done, prepared.shards, size))

        for entries in plan.stages:
            if entries:
                yield Stage("write-shards", write_shards, entries, on_result=count)
        (record,) = yield Stage("complete-store", complete_store, [(job, replace(plan, stages=()))])
        shards = {**record["shards"], "total": prepared.shards, "computed": computed}
        record = {**record, "shards": shards, "seconds": time.perf_counter() - started}
        on_event(StoreEnded(plan.name, record))
        return record


def _guarded_steps(job: TilingJob, on_event: Listener, alone: bool) -> Steps:
    """One slide from start to record; its own failures end here, the environment's go on up.

    So does a request that makes no sense, if it is for this slide alone.
    """
    try:
        record = yield from tiling_steps(job, on_event)
    except EnvironmentFault:
        raise
    except Exception as error:  # a fault of ours in one slide must not cost the others
        if alone and isinstance(error, UsageError):
            raise
        failure = {"kind": type(error).__name__, "message": str(error)}
        record = {"status": "failed", "path": str(job.out), "slide": job.name, "error": failure}
        on_event(StoreEnded(job.name, record))
    return record


def _begin(plan: TilingPlan) -> None:
    """Make the store's folder and metadata, or see that the folder holds the same plan's beginnings."""
    previous = _own_attributes(plan.out)
    if previous is None and plan.out.exists():
        strangers = plan.out.is_file() or any(not entry.name.startswith(".") for entry in plan.out.iterdir())
        if strangers:
            raise UsageError(f"{plan.out}: exists and was not written by wsiseg. Choose another -o.")
    if previous is not None and previous.get("key") != plan.key:
        name = previous.get("source", {}).get("name", "another slide")
        raise UsageError(
            f"{plan.out}: exists and was made from {name} with other content or options.\n"
            "Delete it or choose another -o."
        )
    with environment_faults(plan.out):
        for level in plan.levels:
            (plan.out / level.path).mkdir(parents=True, exist_ok=True)
    _write_group(plan, {**plan.record, "complete": False})
    for level in plan.levels:
        write_json(plan.out / level.path / "zarr.json", level.layout.metadata())


def _write_group(plan: TilingPlan, own: dict[str, Any]) -> None:
    sizes = [(level.path, level.downsample) for level in plan.levels]
    ome = image_metadata(plan.name, sizes, plan.mpp, "mean", _REDUCED)
    write_json(plan.out / "zarr.json", group_metadata({"ome": ome, "wsiseg": own}))
    sync_folder(plan.out)


def _own_attributes(out: Path) -> dict[str, Any] | None:
    content = read_json(out / "zarr.json") or {}
    own = content.get("attributes", {}).get("wsiseg")
    return own if isinstance(own, dict) and own.get("schema") == SCHEMA else None


def _is_finished(plan: TilingPlan) -> bool:
    own = _own_attributes(plan.out)
    return own is not None and own.get("complete") is True and own.get("key") == plan.key


def _done(entry: tuple[ShardTask, ...]) -> bool:
    return all(task.file.exists() for task in entry)


def _finished_record(plan: TilingPlan, status: str) -> dict[str, Any]:
    own = _own_attributes(plan.out) or {}
    files = [level.shard_file(plan.out, *place) for level in plan.levels for place in level.layout.shards()]
    sizes = [file.stat().st_size for file in files if file.exists()]
    return {
        "status": status,
        "path": str(plan.out),
        "slide": plan.name,
        "mpp": plan.mpp,
        "codec": own["codec"],
        "exact": own["exact"],
        "levels": [[level.layout.width, level.layout.height, level.derived] for level in plan.levels],
        "shards": {"total": plan.shards, "computed": 0, "stored": len(sizes)},
        "bytes": sum(sizes),
        "lost": sum(len(level["lost"]) for level in own["levels"]),
        "seconds": 0.0,
        "error": None,
    }


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise EnvironmentFault(
            f"{file}: was written and is gone ({error.strerror}). Check the disk, and that the workers write "
            "to the same folder as this process; the same command goes on."
        ) from error


def _clean(plan: TilingPlan, blank: Sequence[Path]) -> None:
    """Remove what a finished store does not need: shards without chunks, notes of lost parts, temporary files."""
    with contextlib.suppress(OSError):
        for file in blank:
            file.unlink(missing_ok=True)
        for level in plan.levels:
            chunks = plan.out / level.path / "c" / "0"
            for pattern in ("*/*.lost.json", "*/.*.tmp"):
                for file in chunks.glob(pattern):
                    file.unlink(missing_ok=True)
        for file in plan.out.glob("**/.zarr.json.*.tmp"):
            file.unlink(missing_ok=True)
