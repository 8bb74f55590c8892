"""The same activities as a Temporal workflow: Temporal retries, tzfs makes every retry begin where it should.

An activity that Temporal runs again finds its snapshot (then it is done), or rolls back to that of the step
before: so it may be killed, time out, or run twice, and the files are the same. Nothing of a workflow's state
is in Temporal but how far it is.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy, WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    import tzfs

    from .activities import DAMAGES, Lost, chance_of_failure, perform, verify
    from .content import STEPS, Job
    from .workspace import ApiWorkspace, Tally

QUEUE: Final = "tzfs-research"
ATTEMPTS_MAX: Final = 5
CONNECT_TIMEOUT_S: Final = 5.0
STEP_TIMEOUT: Final = timedelta(seconds=20)
"""When the server gives a step to another worker; the first one may be dead, or slow, which does no harm."""
LOG_NAME: Final = "temporal.log"


@dataclass
class StepInput:
    """One step of one workflow; `number` counts from 1."""

    store: str
    seed: int
    workflow: int
    number: int
    failure_rate: float


# Not to be interrupted: Temporal would raise an exception in the thread, in the midst of whatever it calls.
# A step is short, and one that is cancelled is done once more anyway.
@activity.defn(no_thread_cancel_exception=True)
def research_step(step: StepInput) -> bool:
    """Do a step; True if an earlier attempt had done it. Lost files are an error that no retry may hide."""
    job = Job(step.seed, step.workflow)
    attempt = activity.info().attempt
    chance = job.random("failure", step.number, attempt)
    rate = chance_of_failure(step.failure_rate, attempt, ATTEMPTS_MAX)
    damage = chance.choice(DAMAGES) if chance.random() < rate else None
    try:
        with _open(step, job) as fs:
            return perform(ApiWorkspace(fs, Tally()), job, step.number, damage).is_repeat
    except Lost as error:
        raise ApplicationError(str(error), type="Lost", non_retryable=True) from error


@activity.defn(no_thread_cancel_exception=True)
def verify_workflow(step: StepInput) -> int:
    """Compare every step with what it must be; return the number of files."""
    job = Job(step.seed, step.workflow)
    try:
        with _open(step, job) as fs:
            return verify(ApiWorkspace(fs, Tally()), job)
    except Lost as error:
        raise ApplicationError(str(error), type="Lost", non_retryable=True) from error


def _open(step: StepInput, job: Job) -> tzfs.Filesystem:
    """Open the workflow's filesystem, which the first attempt makes."""
    store = tzfs.Store.open(step.store, create=True)
    with contextlib.suppress(FileExistsError):
        store.create(job.name)
    return store.open_filesystem(job.name)


@workflow.defn
class Research:
    """Five steps in a chain, and the verification."""

    @workflow.run
    async def run(self, first: StepInput) -> int:
        """Run the steps; return how many files were verified."""
        policy = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_attempts=ATTEMPTS_MAX * 2)
        for number in range(1, len(STEPS) + 1):
            first.number = number
            await workflow.execute_activity(
                research_step, first, start_to_close_timeout=STEP_TIMEOUT, retry_policy=policy
            )
        return await workflow.execute_activity(
            verify_workflow, first, start_to_close_timeout=STEP_TIMEOUT, retry_policy=policy
        )


def run_all(address: str, workdir: Path, workflows: int, failure_rate: float, seed: int) -> int:
    """Run worker and workflows; return the exit status. Says how to start a server where none answers.

    All is in a directory of the seed's own: run again, each activity finds its snapshots and is done at once.
    """
    place = workdir / f"temporal-seed-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    # The worker logs each failure with its stack, and failures are what this is about.
    logging.basicConfig(
        filename=place / LOG_NAME, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    return asyncio.run(_run_all(address, place, workflows, failure_rate, seed))


async def _run_all(address: str, place: Path, workflows: int, failure_rate: float, seed: int) -> int:
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            client = await Client.connect(address)
    except (RuntimeError, TimeoutError):
        print(
            f"no Temporal server answers at {address}. One for trying out, with Temporal's own tool:\n"
            "  temporal server start-dev\n"
            "then run this again; --address names another."
        )
        return 1
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        async with Worker(
            client,
            task_queue=QUEUE,
            workflows=[Research],
            activities=[research_step, verify_workflow],
            activity_executor=threads,
            graceful_shutdown_timeout=timedelta(seconds=30),
        ):
            found = await asyncio.gather(
                *(
                    client.execute_workflow(
                        Research.run,
                        StepInput(str(place / "store"), seed, number, 1, failure_rate),
                        id=f"{QUEUE}-{seed}-{number}",
                        task_queue=QUEUE,
                        # A run that was killed left workflows with the server: they go on.
                        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    )
                    for number in range(workflows)
                ),
                return_exceptions=True,
            )
    failures = [result for result in found if isinstance(result, BaseException)]
    for failure in failures:
        print(f"failed: {reason(failure)}")
    compared = sum(result for result in found if isinstance(result, int))
    print(
        f"{workflows - len(failures)} of {workflows} workflows done and verified, {compared} files compared; "
        f"log: {place / LOG_NAME}"
    )
    print(f"next: python -m examples.research_agent browse 0 --workdir {place}")
    return 1 if failures else 0


def reason(failure: BaseException) -> str:
    """Return what lies at the bottom of an error: Temporal wraps it in what it did about it."""
    while failure.__cause__ is not None:
        failure = failure.__cause__
    return str(failure)
