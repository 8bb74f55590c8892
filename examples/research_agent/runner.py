"""Many workflows at once: threads that work, fail, retry; a killer; and the verification at the end."""

from __future__ import annotations

import collections
import contextlib
import itertools
import logging
import os
import queue
import random
import select
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import tzfs

from . import workspace
from .activities import DAMAGES, InjectedFailure, Lost, chance_of_failure, perform, verify
from .content import STEPS, Job
from .manifest import Manifest
from .workspace import ApiWorkspace, MountWorkspace, Tally, Workspace

log = logging.getLogger("research_agent")

ATTEMPTS_MAX: Final = 5
"""The attempt at which no failure is injected any more."""
DEATHS_MAX: Final = 60
"""How often the filesystem may go away under one activity before its workflow gives up."""
BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MAX_S: Final = 2.0
STUCK_S: Final = 90.0
"""An activity takes well below a second; the daemon of one that takes this long hangs, and is killed."""


@dataclass(frozen=True)
class Options:
    """How to run. kill_every_s: None is never."""

    workdir: Path
    workflows: int = 200
    concurrency: int = 50
    failure_rate: float = 0.3
    seed: int = 1
    backend: str = "mount"
    continuous: bool = False
    kill_every_s: float | None = None

    @property
    def store(self) -> Path:
        """The store of all workflows' filesystems."""
        return self.workdir / "store"


@dataclass
class Progress:
    """What the dashboard shows; changed under `lock`."""

    total: int | None
    tally: Tally = field(default_factory=Tally)
    lock: threading.Lock = field(default_factory=threading.Lock)
    phase: str = "working"
    running: int = 0
    done: int = 0
    failed: int = 0
    retried: int = 0
    retries: int = 0
    injected: int = 0
    deaths: int = 0
    kills: int = 0
    rollbacks: int = 0
    verified: int = 0
    compared: int = 0
    lost: int = 0
    events: collections.deque[tuple[float, str, str]] = field(
        default_factory=lambda: collections.deque(maxlen=200)
    )
    began: float = field(default_factory=time.monotonic)

    def event(self, kind: str, text: str) -> None:
        """Tell something to whoever watches, and to the log."""
        log.info("%s: %s", kind, text)
        with self.lock:
            self.events.append((time.time(), kind, text))

    def add(self, **amounts: int) -> None:
        """Count."""
        with self.lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)


class Runner:
    """One run. `run` returns when all is done, or soon after `stop`."""

    def __init__(self, options: Options) -> None:
        options.workdir.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.progress = Progress(None if options.continuous else options.workflows)
        self.manifest = Manifest(options.workdir / "manifest.db", fresh=True)
        self._store = tzfs.Store.open(options.store, create=True)
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._busy: dict[str, float] = {}
        self._finished: queue.SimpleQueue[Job] = queue.SimpleQueue()

    def stop(self) -> None:
        """Begin nothing more: activities under way end, everything is unmounted and verified."""
        self._stop.set()

    def run(self) -> None:
        """Work, then verify every workflow that was finished."""
        options = self.options
        self.manifest.begin_run(
            seed=options.seed, backend=options.backend, failure_rate=options.failure_rate,
            concurrency=options.concurrency, kill_every_s=options.kill_every_s,
        )  # fmt: skip
        helpers = [threading.Thread(target=self._watch_for_stuck, daemon=True)]
        if options.kill_every_s:
            helpers.append(threading.Thread(target=self._kill_daemons, daemon=True))
        for helper in helpers:
            helper.start()
        numbers = itertools.count() if options.continuous else iter(range(options.workflows))
        try:
            self._in_threads(self._worker, numbers)
        finally:
            self._ended.set()
            for helper in helpers:
                helper.join()
        self.progress.phase = "verifying"
        self._in_threads(self._verifier, iter(()), count=4)
        progress = self.progress
        self.manifest.end_run(kills=progress.kills, compared=progress.compared, lost=progress.lost)
        progress.phase = "ended"

    def _in_threads(self, work: object, numbers: Iterator[int], count: int | None = None) -> None:
        lock = threading.Lock()
        with ThreadPoolExecutor(count or self.options.concurrency) as pool:
            tasks = [
                pool.submit(work, numbers, lock)  # type: ignore[arg-type]
                for _ in range(count or self.options.concurrency)
            ]
        for task in tasks:
            task.result()

    @property
    def is_success(self) -> bool:
        """Whether every workflow that was asked for is done and verified."""
        progress = self.progress
        complete = self.options.continuous or progress.done == self.options.workflows
        return complete and progress.failed == 0 and progress.lost == 0 and progress.verified == progress.done

    # ------------------------------------------------------------------- workflows

    def _worker(self, numbers: Iterator[int], lock: threading.Lock) -> None:
        while not self._stop.is_set():
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            self._run_workflow(Job(self.options.seed, number))

    def _run_workflow(self, job: Job) -> None:
        """Run one workflow to its end, whatever that is."""
        self.progress.add(running=1)
        self.manifest.begin_workflow(job.workflow, job.name, job.topic.title, job.topic.field)
        status, error = "done", None
        try:
            with contextlib.suppress(FileExistsError):
                self._store.create(job.name)
            retries = sum(self._run_step(job, step) for step in range(1, len(STEPS) + 1))
            self.progress.add(done=1, retried=int(retries > 0))
            self.progress.event("done", f"{job.name} {job.topic.title}")
            self._finished.put(job)
        except InterruptedError:
            status = "stopped"
        except Lost as found:
            status, error = "failed", str(found)
            self.progress.add(failed=1, lost=1)
            self.progress.event("LOST", error)
        except Exception as found:
            log.exception("%s gave up", job.name)
            status, error = "failed", f"{type(found).__name__}: {found}"
            self.progress.add(failed=1)
            self.progress.event("failed", f"{job.name}: {error}")
        finally:
            self._unmount(job)
            self.manifest.end_workflow(job.workflow, status, error)
            self.progress.add(running=-1)

    def _run_step(self, job: Job, step: int) -> int:
        """Run one step until it is done; return how many attempts it took more. InterruptedError, Lost."""
        attempt, deaths = 1, 0
        while True:
            if self._stop.is_set():
                raise InterruptedError
            began = time.time()
            outcome, error, recovered = self._attempt(job, step, attempt)
            self.manifest.attempt(
                job.workflow, STEPS[step - 1], attempt + deaths, outcome, began, error, recovered=recovered
            )
            if outcome in {"done", "repeat"}:
                return attempt + deaths - 1
            self.progress.add(retries=1)
            if outcome == "injected":
                attempt += 1
                self.progress.add(injected=1)
                self.progress.event("retry", f"{job.name} {error}")
            else:
                deaths += 1
                self.progress.add(deaths=1)
                self.progress.event("died", f"{job.name} {STEPS[step - 1]}: {error}")
                if deaths >= DEATHS_MAX:
                    raise OSError(f"the filesystem went away {deaths} times: {error}")
            delay_s = min(BACKOFF_FIRST_S * 2 ** (attempt + deaths - 2), BACKOFF_MAX_S)
            self._stop.wait(delay_s * random.Random(f"{job} {step} {attempt} {deaths}").uniform(0.5, 1))

    def _attempt(self, job: Job, step: int, attempt: int) -> tuple[str, str | None, bool]:
        """Try a step once: outcome, error, and whether it began with a rollback. `Lost`."""
        chance = job.random("failure", step, attempt)
        rate = chance_of_failure(self.options.failure_rate, attempt, ATTEMPTS_MAX)
        damage = chance.choice(DAMAGES) if chance.random() < rate else None
        self._busy[job.name] = time.monotonic()
        try:
            with self._workspace(job) as work:
                found = perform(work, job, step, damage)
        except InjectedFailure as failure:
            return "injected", str(failure), False
        except OSError as failure:
            return "killed", f"{type(failure).__name__}: {failure}", False
        finally:
            self._busy.pop(job.name, None)
        if found.is_recovered:
            self.progress.add(rollbacks=1)
        return ("repeat" if found.is_repeat else "done"), None, found.is_recovered

    @contextlib.contextmanager
    def _workspace(self, job: Job) -> Iterator[Workspace]:
        """Open the filesystem of a workflow."""
        if self.options.backend == "mount":
            mountpoint = self.options.workdir / "mnt" / job.name
            workspace.mount(self.options.store, job.name, mountpoint)
            yield MountWorkspace(self.options.store, job.name, mountpoint, self.progress.tally)
        else:
            with self._store.open_filesystem(job.name) as fs:
                yield ApiWorkspace(fs, self.progress.tally)

    def _unmount(self, job: Job) -> None:
        if self.options.backend == "mount":
            try:
                workspace.unmount(self.options.store, job.name)
                (self.options.workdir / "mnt" / job.name).rmdir()
            except OSError as error:
                log.warning("%s could not be unmounted: %s", job.name, error)

    # ------------------------------------------------------------------ verification

    def _verifier(self, _numbers: Iterator[int], _lock: threading.Lock) -> None:
        """Compare every step of every finished workflow with what the generator says."""
        while True:
            try:
                job = self._finished.get_nowait()
            except queue.Empty:
                return
            try:
                with self._store.open_filesystem(job.name) as fs:
                    compared = verify(ApiWorkspace(fs, Tally()), job)
                    findings = fs.check()
                if findings:
                    raise Lost(f"{job.name}: tzfs check: {findings}")
                self.progress.add(verified=1, compared=compared)
            except (Lost, OSError) as error:
                self.progress.add(lost=1)
                self.progress.event("LOST", f"{job.name}: {error}")
                self.manifest.end_workflow(job.workflow, "failed", str(error))

    # ------------------------------------------------------------------------ killing

    def _kill_daemons(self) -> None:
        """Kill the daemon of a workflow that works right now, again and again."""
        chance = random.Random(f"kills {self.options.seed}")
        assert self.options.kill_every_s is not None
        while not self._ended.wait(self.options.kill_every_s):
            busy = sorted(self._busy)
            # Some of them wait for their mount, and have no daemon to kill.
            for name in chance.sample(busy, len(busy)):
                if self._kill(name):
                    self.progress.add(kills=1)
                    self.progress.event("kill", f"kill -9 of the daemon of {name}")
                    break

    def _watch_for_stuck(self) -> None:
        """Kill a daemon under which an activity hangs, so that it gets ENOTCONN and is tried again."""
        while not self._ended.wait(5):
            for name, since in list(self._busy.items()):
                if time.monotonic() - since > STUCK_S and self._kill(name):
                    self._busy[name] = time.monotonic()
                    self.progress.event("STUCK", f"{name}: daemon killed after {STUCK_S:.0f} s")

    def _kill(self, name: str) -> bool:
        """Kill the daemon of a filesystem, and no other process; tell whether there was one."""
        pid = self._store.get(name).pid
        if pid is None:
            return False
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            # Opened first: if it is still the daemon now, the descriptor is the daemon's.
            if self._store.get(name).pid != pid:
                return False
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            return bool(select.select([descriptor], [], [], 30)[0])
        finally:
            os.close(descriptor)
