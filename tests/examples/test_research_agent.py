"""The demo keeps what it promises: determinism, recovery from every damage, honest verification."""

import contextlib
import io
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from examples.research_agent import browse, dashboard, page
from examples.research_agent.__main__ import main
from examples.research_agent.activities import (
    DAMAGES,
    InjectedFailure,
    Lost,
    chance_of_failure,
    perform,
    verify,
)
from examples.research_agent.content import LABELS, STEPS, Job, sources
from examples.research_agent.runner import Options, Runner
from examples.research_agent.topics import TOPICS
from examples.research_agent.workspace import ApiWorkspace, Tally
from rich.console import Console

import tzfs
from support import machine

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[tzfs.Filesystem]:
    """Return a filesystem for one job."""
    store = tzfs.Store.open(tmp_path / "store", create=True)
    store.create("research-0000")
    with store.open_filesystem("research-0000") as opened:
        yield opened


def test_there_are_topics_enough_and_each_is_taken_before_one_comes_again() -> None:
    assert len(TOPICS) >= 120
    assert len(set(TOPICS)) == len(TOPICS)
    assert len({Job(1, number).topic for number in range(len(TOPICS))}) == len(TOPICS)


def test_content_follows_from_the_seed_alone() -> None:
    for step in range(len(STEPS) + 1):
        assert Job(3, 7).state(step) == Job(3, 7).state(step)
    sources.cache_clear()
    assert Job(3, 7).state(5) != Job(4, 7).state(5)
    assert all(Job(3, 7).state(step) != Job(3, 7).state(step - 1) for step in range(1, len(STEPS) + 1))


def test_a_rate_of_one_fails_every_first_attempt_and_never_the_last() -> None:
    assert chance_of_failure(1.0, 1, 5) == 1.0
    assert chance_of_failure(1.0, 5, 5) == 0.0


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_retry_finds_what_the_step_before_left_whatever_happened(fs: tzfs.Filesystem, damage: str) -> None:
    work, job = ApiWorkspace(fs, Tally()), Job(1, 0)
    for step in range(1, len(STEPS) + 1):
        with pytest.raises(InjectedFailure):
            perform(work, job, step, damage)
        outcome = perform(work, job, step, None)
        # Nothing can be deleted before the first step has written anything.
        assert outcome.is_recovered or (step == 1 and damage == DAMAGES[2])
        assert perform(work, job, step, None).is_repeat
    assert verify(work, job) > 30


def test_verification_finds_what_is_lost(fs: tzfs.Filesystem) -> None:
    work, job = ApiWorkspace(fs, Tally()), Job(1, 0)
    for step in range(1, len(STEPS) + 1):
        perform(work, job, step, None)
    fs.remove("report.md")
    with pytest.raises(Lost, match=r"missing \['report.md'\]"):
        verify(work, job)
    fs.rollback(LABELS[-1])
    verify(work, job)
    fs.delete_snapshot(LABELS[2])
    with pytest.raises(Lost, match=LABELS[2]):
        verify(work, job)


def test_a_run_without_a_mount_survives_every_failure_and_reports(tmp_path: Path) -> None:
    runner = Runner(Options(tmp_path / "run", workflows=4, concurrency=2, failure_rate=1.0, backend="api"))
    runner.run()
    assert runner.is_success
    assert runner.progress.injected >= 4 * len(STEPS)
    assert len(runner.manifest.attempts()) == 4 * len(STEPS) + runner.progress.retries
    runner.manifest.close()
    out = tmp_path / "out.html"
    page.write(tmp_path / "run", out, limit=2)
    text = out.read_text()
    assert "4/4" in text
    assert runner.manifest is not None


def test_a_run_that_is_stopped_ends_soon_and_says_that_it_is_not_done(tmp_path: Path) -> None:
    runner = Runner(Options(tmp_path / "run", workflows=50, concurrency=2, backend="api"))
    runner.stop()
    runner.run()
    assert not runner.is_success
    assert runner.progress.lost == 0
    runner.manifest.close()


def test_the_dashboard_shows_what_happens_in_any_width(tmp_path: Path) -> None:
    runner = Runner(Options(tmp_path / "run", continuous=True, backend="api"))
    runner.progress.event("retry", "research-0001 [bold]not markup[/bold]")
    rates = dashboard.Rates()
    rates.history.extend([0, 5, 10])
    for width in (60, 120):
        out = io.StringIO()
        Console(file=out, width=width, force_terminal=True).print(dashboard.picture(runner.progress, rates))
        assert "∞" in out.getvalue()
        assert "[bold]" in out.getvalue()
    assert "0/∞ done" in dashboard.line(runner.progress)
    runner.manifest.close()


def test_on_a_terminal_the_dashboard_is_live_and_control_c_ends_it(tmp_path: Path) -> None:
    # A process without a terminal gets the first one that it opens (tty(4)), and so its Ctrl-C.
    take = "import os, sys; os.open(sys.argv[1], os.O_RDWR); os.execv(sys.executable, sys.argv[2:])"
    command = [
        sys.executable, "-m", "examples.research_agent", "run", "--continuous", "--concurrency", "2",
        "--backend", "api", "--workdir", str(tmp_path / "run"),
    ]  # fmt: skip
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    running = subprocess.Popen(
        [sys.executable, "-c", take, os.ttyname(theirs), *command],
        cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        # EIO is the end: nobody has the other side open.
        with contextlib.suppress(OSError):
            while found := os.read(ours, 65536):
                is_first = "∞".encode() not in shown
                shown += found
                if is_first and "∞".encode() in shown:
                    os.write(ours, b"\x03")
        assert running.wait(60) == 0
    finally:
        running.kill()
        running.wait()
        os.close(ours)
    text = shown.decode()
    assert text.count("research agents: ") > 1
    assert "stopping: activities under way end first" in text
    assert "files compared with what the generator says" in text
    assert "Traceback" not in text


@pytest.mark.mount
def test_a_run_on_mounts_survives_killed_daemons() -> None:
    workspace = machine.make_workspace()
    command = [
        sys.executable, "-m", "examples.research_agent", "run", "--workflows", "3", "--concurrency", "3",
        "--failure-rate", "1", "--kill-daemon-every", "1", "--workdir", str(workspace / "run"),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "3/3 done" in done.stdout
        assert "0 lost" in done.stdout
        assert machine.mounts_under(workspace) == []
    finally:
        machine.remove_workspace(workspace)


def test_what_cannot_work_is_said_in_one_line(tmp_path: Path) -> None:
    runner = CliRunner()
    for arguments, word in (
        (["report", "out.html", "--workdir", str(tmp_path / "none")], "holds no run"),
        (["browse", "7", "--workdir", str(tmp_path / "none")], "holds no run"),
        (["run", "--backend", "api", "--kill-daemon-every", "1"], "needs --backend mount"),
    ):
        result = runner.invoke(main, arguments)
        assert result.exit_code != 0
        assert word in result.output
    store = tzfs.Store.open(tmp_path / "store", create=True)
    store.create("research-0000")
    with store.open_filesystem("research-0000") as fs:
        fs.snapshot("0-start")
    for words, said in ((["1"], "no workflow 1: 0 to 0"), (["0", "nosuch"], "its labels are 0-start")):
        result = runner.invoke(main, ["browse", *words, "--workdir", str(tmp_path)])
        assert result.exit_code != 0
        assert said in result.output
    result = runner.invoke(main, ["run", "--backend", "api", "--workdir", str(tmp_path)])
    assert "earlier run" in result.output


def test_control_c_stops_cleanly_and_still_reports(tmp_path: Path) -> None:
    command = [
        sys.executable, "-u", "-m", "examples.research_agent", "run", "--continuous", "--concurrency", "2",
        "--backend", "api", "--workdir", str(tmp_path / "run"),
    ]  # fmt: skip
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    try:
        running.stdout.readline()  # the first line of figures: it works
        os.kill(running.pid, signal.SIGINT)
        said, _ = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 0, said
    assert "files compared" in said


def test_a_temporal_activity_rolls_forward_from_the_last_snapshot(tmp_path: Path) -> None:
    pytest.importorskip("temporalio", reason="temporalio is missing: the extra 'temporal'")
    from examples.research_agent import temporal  # noqa: PLC0415 an extra
    from temporalio.testing import ActivityEnvironment  # noqa: PLC0415 an extra

    environment = ActivityEnvironment()
    step = temporal.StepInput(str(tmp_path / "store"), 1, 0, 1, 1.0)
    for number in range(1, len(STEPS) + 1):
        step.number = number
        with pytest.raises(InjectedFailure):
            environment.run(temporal.research_step, step)
        quiet = temporal.StepInput(step.store, step.seed, step.workflow, number, 0.0)
        assert environment.run(temporal.research_step, quiet) is False
        assert environment.run(temporal.research_step, quiet) is True
    assert environment.run(temporal.verify_workflow, step) > 30


def test_without_a_temporal_server_it_says_how_to_start_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("temporalio", reason="temporalio is missing: the extra 'temporal'")
    from examples.research_agent import temporal  # noqa: PLC0415 an extra

    assert temporal.run_all("127.0.0.1:1", tmp_path, 1, 0.0, 1) == 1
    assert "temporal server start-dev" in capsys.readouterr().out


@pytest.fixture
def temporal_server(tmp_path: Path) -> Iterator[str]:
    """Start Temporal's own server for trying out, on this machine alone; return its address."""
    program = shutil.which("temporal")
    if program is None:
        pytest.skip("Temporal's command line is missing: the workflow is not tried against a server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and server.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.slow
def test_temporal_retries_and_takes_up_what_a_killed_worker_left(
    temporal_server: str, tmp_path: Path
) -> None:
    pytest.importorskip("temporalio", reason="temporalio is missing: the extra 'temporal'")
    command = [
        sys.executable, "-m", "examples.research_agent", "temporal", "--address", temporal_server,
        "--workflows", "4", "--failure-rate", "1", "--workdir", str(tmp_path / "run"),
    ]  # fmt: skip
    store = tmp_path / "run" / "temporal-seed-1" / "store" / "filesystems"
    killed = subprocess.Popen(command, cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while not (store.is_dir() and any(store.iterdir())):
            assert time.monotonic() < deadline
            assert killed.poll() is None
            time.sleep(0.05)
    finally:
        killed.kill()
        killed.wait()
    for _ in range(2):  # the second time all is there already
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "4 of 4 workflows done and verified" in done.stdout
        assert done.stderr == ""
    assert "InjectedFailure" in (tmp_path / "run" / "temporal-seed-1" / "temporal.log").read_text()


def test_a_failure_under_temporal_is_told_by_its_cause() -> None:
    pytest.importorskip("temporalio", reason="temporalio is missing: the extra 'temporal'")
    from examples.research_agent import temporal  # noqa: PLC0415 an extra

    outer = RuntimeError("Workflow execution failed")
    outer.__cause__ = RuntimeError("Activity task failed")
    outer.__cause__.__cause__ = Lost("missing ['report.md']")
    assert temporal.reason(outer) == "missing ['report.md']"


def test_browse_opens_a_shell_in_a_snapshot(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = machine.missing_fuse()
    if reason is not None:
        pytest.skip(reason)
    workspace = machine.make_workspace()
    try:
        store = tzfs.Store.open(workspace / "store", create=True)
        store.create("research-0000")
        with store.open_filesystem("research-0000") as fs:
            fs.write_text("a", "then")
            fs.snapshot("before")
            fs.write_text("a", "now")
        told = workspace / "told"
        program = workspace / "shell"
        program.write_text(f"#!/bin/sh\ncat a > {told}\n")
        program.chmod(0o755)
        monkeypatch.setenv("SHELL", str(program))
        assert browse.shell(workspace, 0, "before") == 0
        assert told.read_text() == "then"
        assert "as it was at before; `cd ../..` is the present" in capsys.readouterr().out
        assert store.get("research-0000").mountpoint is None
    finally:
        machine.remove_workspace(workspace)
