"""Carries out a sweep on Ray: finds the runs that are left, retries them and stops them.

Ray shares out the machines and starts the processes. Only the folders of the runs record which ones are done
or begun, so the same command continues a killed sweep.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from abd_hub.core import files
from abd_hub.core.errors import InputError, Interrupted
from abd_hub.core.folder import OutputFolder, check_folder, write_config
from abd_hub.core.record_file import read_any_record
from abd_hub.sweep.cluster import Cluster, check_resources, connected, import_ray, quiet
from abd_hub.sweep.config import Sweep, SweepRun
from abd_hub.sweep.table import write_tables
from abd_hub.sweep.task import STOPPED, Attempt, Outcome, attempt
from abd_hub.training.running import stop_requests

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
CHILD = "abd_hub.child"
_LOOK_EVERY = 0.5


@dataclass(kw_only=True)
class Status:
    """Says how far a run is."""

    run: SweepRun
    root: Path
    """Names the folder of the sweep."""
    name: str
    """Holds the name of the run, or the name of an earlier run with the same settings."""
    state: str = WAITING
    attempts: int = 0
    """Counts the attempts of this and all earlier commands."""
    tries: int = 0
    """Counts the attempts of this command."""
    reason: str = ""
    """Says why the last attempt did not finish the run."""
    log_size: int = 0
    """Holds the log's size when Ray got the attempt; a larger log means that the attempt has begun."""

    @property
    def folder(self) -> Path:
        """Returns the output folder of the run."""
        return self.root / "runs" / self.name

    @property
    def config_file(self) -> Path:
        """Returns the configuration file of the run's command."""
        return self.root / "configs" / f"{self.name}.yaml"

    @property
    def log(self) -> Path:
        """Returns the file with the output of all attempts."""
        return self.root / "logs" / f"{self.name}.log"


class Display(Protocol):
    """Declares the methods by which a sweep shows its state."""

    def update(self, statuses: Sequence[Status]) -> None:
        """Shows the state of all runs; called every half second and after every change."""

    def note(self, text: str) -> None:
        """Shows a message at once."""


def look(plan: Sweep) -> list[Status]:
    """Returns the state of each run, read from its folder; writes nothing.

    Raises:
        InputError: the folder of the sweep cannot be used.
    """
    root = Path(plan.file.output_dir)
    check_folder(root)
    _check_kind(root)
    if not plan.runs:
        raise InputError("grid: is empty; give lists of values")

    names = {path.stem.rpartition("-")[2]: path.stem for path in sorted(root.glob("configs/*.yaml"))}
    earlier = _earlier_attempts(root)

    statuses = []
    for run in plan.runs:
        name = names.get(run.digest, run.name)
        status = Status(run=run, root=root, name=name, attempts=earlier.get(name, 0))
        _settled(status)
        statuses.append(status)

    return statuses


def run_sweep(plan: Sweep, display: Display, *, child: str = CHILD) -> list[Status]:
    """Carries out the unfinished runs of a sweep, and writes its tables.

    Args:
        plan: from ``read_sweep``.
        display: shows every change.
        child: the Python module that the process of each run executes.

    Returns:
        The runs in the order of the file, each done or failed.

    Raises:
        InputError: the folder cannot be used, Ray is not installed, or the cluster is too small for a run.
            No run was started, and nothing is left on the disk.
        Interrupted: the sweep was stopped; its runs have a checkpoint, those cut off within 90 seconds.
    """
    look(plan)
    ray = import_ray()
    root = Path(plan.file.output_dir)
    may_differ = [*yaml.safe_load(plan.to_yaml()).keys() - {"kind"}]

    with OutputFolder.open(root, resume=True, config_yaml=plan.to_yaml(), may_differ=may_differ):
        statuses = look(plan)  # again, as another sweep may have worked here before the folder was claimed
        with connected(ray, plan.file.address) as cluster:
            gpus = check_resources(ray.nodes(), plan.file.resources)
            _prepare(plan, statuses)
            try:
                with quiet():
                    _work(_Engine(ray, plan, child, gpus, cluster), statuses, display)
            finally:
                (root / ".stop").unlink(missing_ok=True)
                for status in statuses:  # one still runs only after a second Ctrl-C or an error of Ray
                    status.state = STOPPED if status.state == RUNNING else status.state
                _save(plan, statuses)
                write_tables(root, plan, [(s.name, s.run, s.state, s.reason) for s in statuses])

    left = sum(status.state not in (DONE, FAILED) for status in statuses)
    if left:
        raise Interrupted(f"stopped with {left} of {len(statuses)} runs unfinished")
    return statuses


def summary(plan: Sweep, statuses: Sequence[Status]) -> dict[str, Any]:
    """Returns the content of summary.json; paths are relative to the folder of the sweep."""
    states = [status.state for status in statuses]
    return {
        "schema_version": 1,
        "command": plan.file.command,
        "counts": {state: states.count(state) for state in dict.fromkeys(states)},
        "runs": [_row(status) for status in statuses],
    }


def _row(status: Status) -> dict[str, Any]:
    places = {"folder": status.folder, "config": status.config_file, "log": status.log}
    return {
        "name": status.name,
        "state": status.state,
        "attempts": status.attempts,
        "reason": status.reason or None,
        "seed": status.run.config.seed,
        "varying": json.loads(json.dumps(status.run.varying, default=str)),
        **{name: str(path.relative_to(status.root)) for name, path in places.items()},
        "result": f"results/{status.name}.json" if status.state == DONE else None,
    }


def _check_kind(root: Path) -> None:
    config = root / files.CONFIG_FILE
    if config.exists() and "\nkind: sweep\n" not in config.read_text(encoding="utf-8", errors="replace"):
        raise InputError(f"output_dir: {root} is not the folder of a sweep; use another output_dir")


def _earlier_attempts(root: Path) -> dict[str, int]:
    try:
        rows = json.loads((root / "summary.json").read_text(encoding="utf-8"))["runs"]
        return {row["name"]: int(row["attempts"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError):  # a count that only people read is worth no error
        return {}


def _settled(status: Status) -> bool:
    """Returns whether the run needs no further attempt, because its record exists, readable or not."""
    if not (status.folder / files.RECORD_FILE).exists():
        return False
    try:
        read_any_record(status.folder)
    except InputError as error:
        status.state, status.reason = FAILED, f"{error}; remove the folder to run it again"
    else:
        status.state, status.reason = DONE, ""
    return True


def _prepare(plan: Sweep, statuses: Sequence[Status]) -> None:
    root = Path(plan.file.output_dir)
    files.clean_temporaries(root)
    for name in ("runs", "configs", "logs", "results"):
        (root / name).mkdir(exist_ok=True)
    (root / ".stop").unlink(missing_ok=True)
    write_config(root, plan.to_yaml())
    for status in statuses:
        text = yaml.safe_dump(dict(status.run.settings), sort_keys=False, allow_unicode=True)
        files.write_text(status.config_file, text)
    _save(plan, statuses)


def _save(plan: Sweep, statuses: Sequence[Status]) -> None:
    files.write_json(Path(plan.file.output_dir) / "summary.json", summary(plan, statuses))


@dataclass(frozen=True)
class _Engine:
    """Hands attempts to Ray."""

    ray: Any
    plan: Sweep
    child: str
    gpus: float
    cluster: Cluster | None = None

    @functools.cached_property
    def remote(self) -> Any:
        """Holds the function for Ray, which sends each such object to the cluster once."""
        return self.ray.remote(attempt)

    def submit(self, status: Status) -> Any:
        """Starts an attempt and returns the reference of its outcome."""
        status.log_size = status.log.stat().st_size if status.log.exists() else 0
        wanted = self.plan.file.resources
        remote = self.remote.options(
            num_cpus=wanted.cpus, num_gpus=self.gpus, max_retries=0, name=status.name
        )
        return remote.remote(self._attempt(status))

    def outcome(self, reference: Any) -> Outcome:
        """Returns how an attempt ended, even if its worker is gone."""
        try:
            outcome = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            reason = f"{type(error.cause).__name__}: {error.cause}"
            return Outcome(code=None, reason=" ".join(reason.split()), host="")
        except self.ray.exceptions.RayError as error:
            return Outcome(code=None, reason=f"its Ray worker died ({type(error).__name__})", host="")
        assert isinstance(outcome, Outcome)
        return outcome

    def _attempt(self, status: Status) -> Attempt:
        config, folder = status.config_file.resolve(), status.folder.resolve()
        command = self.plan.file.command
        return Attempt(
            module=self.child,
            arguments=[command, "--config", str(config), "--output_dir", str(folder), "--resume", "true"],
            folder=str(folder),
            config=str(config),
            log=str(status.log.resolve()),
            stop=str((status.root / ".stop").resolve()),
            cwd=str(Path.cwd()),
            threads=max(1, int(self.plan.file.resources.cpus)),
            gpus=self.gpus > 0,
            number=status.attempts + 1,
        )


def _work(engine: _Engine, statuses: Sequence[Status], display: Display) -> None:
    """Works until every run is done, has failed, or was stopped."""
    stop = Path(engine.plan.file.output_dir) / ".stop"
    display.update(statuses)
    with stop_requests() as received:
        pending = _submit_left(engine, statuses)
        while pending:
            ready, _ = engine.ray.wait(list(pending), timeout=_LOOK_EVERY)
            if received and not stop.exists():
                stop.touch()
                display.note("stopping: runs write their checkpoints (press Ctrl-C again to leave at once)")
            if engine.cluster and engine.cluster.lost():
                pending = _after_loss(engine, statuses, display, received)
                continue
            for reference in ready:
                status = pending.pop(reference)
                _judge(status, engine.outcome(reference), engine.plan.file.retries, bool(received))
                if status.state == WAITING:
                    pending[engine.submit(status)] = status
            begun = [status for status in pending.values() if _has_begun(status)]
            for status in begun:
                _begin(status)
            if ready or begun:
                _save(engine.plan, statuses)
            display.update(statuses)


def _submit_left(engine: _Engine, statuses: Sequence[Status]) -> dict[Any, Status]:
    return {engine.submit(status): status for status in statuses if status.state not in (DONE, FAILED)}


def _after_loss(
    engine: _Engine, statuses: Sequence[Status], display: Display, received: Sequence[object]
) -> dict[Any, Status]:
    """Waits for a new head and hands it what is left; returns nothing where the sweep was stopped before."""
    assert engine.cluster
    display.note("the head of the Ray cluster is lost: waiting until it is back (Ctrl-C stops)")
    back = engine.cluster.come_back(lambda: bool(received))
    for status in statuses:
        if status.state not in (DONE, FAILED) and not _settled(status):
            # The attempt ended by no fault of the run.
            status.tries -= status.state == RUNNING
            status.state = WAITING if back else STOPPED
    _save(engine.plan, statuses)
    display.update(statuses)
    return _submit_left(engine, statuses) if back else {}


def _judge(status: Status, outcome: Outcome, retries: int, stopping: bool) -> None:
    """Sets the state of a run after the end of an attempt."""
    if outcome.reason == STOPPED:
        status.state = STOPPED
        return
    if outcome.taken:
        # A machine that was cut off may still work on the run. This is no attempt of ours.
        status.tries -= status.state == RUNNING
        status.state, status.reason = STOPPED if stopping else WAITING, outcome.reason
        return
    if status.state == WAITING:  # it was too short to be seen at work
        _begin(status)
    if _settled(status):
        return
    status.reason = outcome.reason
    # Exit code 2 is an InputError, which the same input would raise again.
    if outcome.code == 2 or (status.tries > retries and not stopping):
        status.state = FAILED
    else:
        status.state = STOPPED if stopping else WAITING


def _has_begun(status: Status) -> bool:
    return status.state == WAITING and status.log.exists() and status.log.stat().st_size > status.log_size


def _begin(status: Status) -> None:
    status.state, status.reason = RUNNING, ""
    status.attempts += 1
    status.tries += 1
