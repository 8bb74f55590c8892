"""What each workflow must produce: five steps, every byte of them a function of seed, workflow and step.

So any step can be verified at any time, by anybody, without a copy of it: that is what makes "nothing was
lost" a checked statement and not a hope.
"""

from __future__ import annotations

import functools
import json
import random
from typing import Final, NamedTuple

from .topics import CAVEATS, FINDINGS, ORGANISATIONS, TOPICS, Topic

STEPS: Final = ("web-research", "summarise", "fact-check", "final-report", "peer-review")
START: Final = "0-start"
LABELS: Final = (START, *(f"{number}-{step}" for number, step in enumerate(STEPS, start=1)))
"""The snapshot after each step; `START` is the empty filesystem."""

Files = dict[str, bytes]


class Source(NamedTuple):
    """One page that the agent "found"."""

    number: int
    organisation: str
    year: int
    claim: str
    caveat: str
    reliability: int


class Job(NamedTuple):
    """One workflow: everything about it follows from these two."""

    seed: int
    workflow: int

    @property
    def name(self) -> str:
        """The name of its filesystem."""
        return f"research-{self.workflow:04}"

    @property
    def topic(self) -> Topic:
        """What it researches."""
        order = random.Random(f"topics {self.seed} {self.workflow // len(TOPICS)}")
        return order.sample(TOPICS, len(TOPICS))[self.workflow % len(TOPICS)]

    def random(self, *purpose: object) -> random.Random:
        """Return a generator for one purpose."""
        return random.Random(" ".join(map(str, (self.seed, self.workflow, *purpose))))

    def state(self, step: int) -> Files:
        """Return every file, by path, as it must be after `step` steps; 0 is the empty filesystem."""
        return _state(self, step)


@functools.lru_cache(maxsize=512)
def _state(job: Job, step: int) -> Files:
    if step == 0:
        return {}
    files = dict(_state(job, step - 1))
    _MAKERS[step - 1](job, files)
    return files


@functools.lru_cache(maxsize=512)
def sources(job: Job) -> tuple[Source, ...]:
    """Return what the web research finds."""
    chance = job.random("sources")
    found = []
    for number in range(1, chance.randint(4, 7) + 1):
        first = chance.randint(2004, 2019)
        words = {"n": chance.randint(3, 96), "y": chance.randint(2, 9), "a": first, "b": first + 5}
        found.append(
            Source(
                number,
                chance.choice(ORGANISATIONS),
                first + chance.randint(1, 6),
                chance.choice(FINDINGS).format(**words),
                chance.choice(CAVEATS).format(**words),
                chance.randint(35, 98),
            )
        )
    return tuple(found)


def _web_research(job: Job, files: Files) -> None:
    found = sources(job)
    for source in found:
        files[f"sources/{source.number:02}.md"] = _text(
            f"# {source.organisation} on {job.topic.title} ({source.year})",
            f"{source.organisation[0].upper()}{source.organisation[1:]} reports that {source.claim}.",
            f"Caution: {source.caveat}.",
            *_filler(job, f"source {source.number}"),
        )
    index = [source._asdict() for source in found]
    files["sources/index.json"] = (json.dumps(index, indent=1) + "\n").encode()
    files["plan.md"] = _text(
        f"# Plan: {job.topic.title}",
        "\n".join(f"- [{'x' if step == STEPS[0] else ' '}] {step}" for step in STEPS),
    )


def _summarise(job: Job, files: Files) -> None:
    lines = [f"- {source.claim} [{source.number}]" for source in sources(job)]
    files["notes/key-points.md"] = _text("# Key points", "\n".join(lines))
    files["summary.md"] = _text(
        f"# {job.topic.title}: summary",
        f"{len(lines)} sources in the field of {job.topic.field}, none of them checked yet.",
        "\n".join(lines),
        *_filler(job, "summary"),
    )
    _tick(files, 2)


def _fact_check(job: Job, files: Files) -> None:
    verdicts = {source.number: "holds" if source.reliability >= 60 else "doubtful" for source in sources(job)}
    files["facts/verdicts.json"] = (json.dumps(verdicts, indent=1) + "\n").encode()
    summary = files["summary.md"].decode().replace("none of them checked yet", "all of them checked")
    for source in sources(job):
        if verdicts[source.number] == "doubtful":
            claim = f"{source.claim} [{source.number}]"
            summary = summary.replace(f"- {claim}", f"- DOUBTFUL ({source.caveat}): {claim}")
    files["summary.md"] = summary.encode()
    _tick(files, 3)


def _final_report(job: Job, files: Files) -> None:
    solid = [source for source in sources(job) if source.reliability >= 60]
    conclusion = "The evidence is thin." if len(solid) < 3 else f"{len(solid)} findings stand."
    files["report.md"] = _text(
        f"# {job.topic.title}",
        "Status: draft",
        "## Findings",
        *(f"{source.number}. {source.claim}, says {source.organisation}." for source in solid),
        "## Conclusion",
        conclusion,
        *_filler(job, "report"),
    )
    del files["notes/key-points.md"]
    _tick(files, 4)


def _peer_review(job: Job, files: Files) -> None:
    grade = job.random("review").choice(("accepted", "accepted", "accepted with changes"))
    files["review.md"] = _text("# Review", f"Verdict: {grade}.", *_filler(job, "review"))
    report = files["report.md"].decode().replace("Status: draft", f"Status: {grade}")
    files["report.md"] = (
        report + f"\nReviewed by {job.random('reviewer').choice(ORGANISATIONS)}.\n"
    ).encode()
    _tick(files, 5)


_MAKERS: Final = (_web_research, _summarise, _fact_check, _final_report, _peer_review)


def _tick(files: Files, step: int) -> None:
    """Mark a step as done in the plan."""
    name = STEPS[step - 1]
    files["plan.md"] = files["plan.md"].replace(b"[ ] " + name.encode(), b"[x] " + name.encode())


def _filler(job: Job, purpose: str) -> list[str]:
    """Return some paragraphs, so that files have the size of real ones."""
    chance = job.random("filler", purpose)

    def sentence() -> str:
        finding = chance.choice(FINDINGS).format(
            n=chance.randint(2, 99), y=chance.randint(2, 9), a=2012, b=2021
        )
        caveat = chance.choice(CAVEATS).format(a=2010)
        return f"{chance.choice(ORGANISATIONS).capitalize()} notes that {finding}; {caveat}."

    paragraphs = chance.randint(2, 5)
    return [" ".join(sentence() for _ in range(chance.randint(3, 7))) for _ in range(paragraphs)]


def _text(*paragraphs: str) -> bytes:
    return ("\n\n".join(paragraphs) + "\n").encode()
