"""Runs measurements in interleaved rounds; reports medians, ratios and targets.

A benchmark is a list of cases. A case returns figures by name, the most important one first. Each
round runs every case once; every second round runs them in reverse order, so that a drift of the
machine favours none. A ratio is the median of the ratios within each round.

With `--against=TREE` the cases of our own code run a second time, in another checkout with that
checkout's `.venv`. Functions that run as a process come from that checkout if it has
`tools/bench`, and from this one if not.
"""

import argparse
import contextlib
import dataclasses
import fnmatch
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from tools.bench import report
from tools.bench.report import Figures, Ratio, Round
from tools.bench.worker import RESULT, Failed, Missing

TIMEOUT_S = 3600.0  # of one process: what hangs is killed and reported
ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Tree:
    """A checkout of this project and the Python that runs it."""

    root: pathlib.Path
    python: str
    name: str = ""


class Case(NamedTuple):
    """One measurement. `ours` says that `--against` repeats it in the other checkout."""

    name: str
    measure: Callable[[Tree], Figures]
    ours: bool = True


class Finished(NamedTuple):
    """What a process printed: (seconds since its start, line). `peak_mb` is its largest process."""

    lines: list[tuple[float, str]]
    seconds: float
    peak_mb: float


class Session(NamedTuple):
    """The parsed flags, a temporary folder, and the checkouts to measure; the first is this one."""

    flags: argparse.Namespace
    work: pathlib.Path
    trees: list[Tree]
    peers: Tree


def parser(doc: str) -> argparse.ArgumentParser:
    """Return a parser with the flags that all benchmarks have."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--rounds", type=_positive, default=3, help="measurements of each case")
    add("--only", default="*", help="cases to run, as in limit,original-*")
    add("--against", default="", metavar="TREE", help="another checkout to measure too")
    add("--peers_python", default=sys.executable, help="the Python that runs the peers that it has")
    add("--json", default="", metavar="FILE", help="file for all figures")
    add("--work", default=None, metavar="FOLDER", help="folder for temporary files")
    return made


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


@contextlib.contextmanager
def session(flags: argparse.Namespace) -> Iterator[Session]:
    """Yield the session; end with one line if the other checkout or the preparation fails."""
    trees = [Tree(ROOT, sys.executable)]
    if flags.against:
        root = pathlib.Path(flags.against).resolve()
        trees.append(Tree(root, str(root / ".venv/bin/python"), root.name))
        if not os.access(trees[1].python, os.X_OK):
            sys.exit(f"error: --against={flags.against}: {trees[1].python} is no Python")
    with tempfile.TemporaryDirectory(dir=flags.work) as work:
        try:
            peers = dataclasses.replace(trees[0], python=flags.peers_python, name="peers")
            yield Session(flags, pathlib.Path(work).resolve(), trees, peers)
        except Failed as failure:
            sys.exit(f"error: {failure}")


def environment(tree: Tree) -> dict[str, str]:
    """Return the environment of a process that imports from `tree`."""
    paths = os.pathsep.join([str(tree.root), str(ROOT)])
    return os.environ | {"PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3"}


def process(tree: Tree, *arguments: str) -> Finished:
    """Run `python ARGUMENTS` to its end; raise Failed with its last line if it fails."""
    lines, start = [], time.perf_counter()
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "errors": "replace"}
    options |= {"cwd": tree.root, "env": environment(tree)}
    try:
        child = subprocess.Popen([tree.python, *arguments], **options)
    except OSError as error:
        raise Failed(f"{tree.python} cannot be run: {error.strerror}") from None
    timer = threading.Timer(TIMEOUT_S, child.kill)
    with child:
        timer.start()
        try:
            for line in child.stdout:
                lines.append((time.perf_counter() - start, line.rstrip()))
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            child.kill()
            raise
        finally:
            timer.cancel()
    if child.returncode:
        last = next((text for _, text in reversed(lines) if text), f"status {child.returncode}")
        name = arguments[2] if arguments[0] == "-c" else arguments[1]
        raise Failed(f"{name} failed: {last[:300]}")
    return Finished(lines, time.perf_counter() - start, usage.ru_maxrss * 1024 / 10**6)


def call(tree: Tree, function: str, **arguments: object) -> dict:
    """Call `function` ("peers.opencv") of tools.bench in a new process; see worker.py.

    Returns its figures, then the `peak MB` and the `command s` of the process.
    """
    done = process(tree, *command(function, **arguments))
    (text,) = [line[len(RESULT) :] for _, line in done.lines if line.startswith(RESULT)]
    found = json.loads(text)
    if "missing" in found:
        raise Missing(f"{found['missing']} is not installed")
    return found | {"peak MB": done.peak_mb, "command s": done.seconds}


def command(function: str, **arguments: object) -> list[str]:
    """Return Python's arguments for a process that calls `function` of tools.bench."""
    code = "import sys; from tools.bench import worker; worker.main(*sys.argv[1:])"
    return ["-c", code, function, json.dumps(arguments, default=str)]


def run(
    session: Session,
    cases: Sequence[Case],
    beside: Sequence[str] = (),
    comparisons: Sequence[Ratio] = (),
) -> int:
    """Measure all cases, print the tables, write --json; return 1 if a case of ours failed.

    Every figure is divided by those of the same name of the cases `beside`.
    """
    patterns = session.flags.only.split(",")
    chosen = [case for case in cases if any(fnmatch.fnmatch(case.name, p) for p in patterns)]
    if not chosen:
        names = ", ".join(case.name for case in cases)
        raise Failed(f"--only={session.flags.only} matches none of {names}")
    own = [session.peers, session.trees[0]]  # a peer that the first lacks may be in the second
    runs = {
        label(case, trees[0]): (case, trees)
        for case in chosen
        for trees in ([[t] for t in session.trees] if case.ours else [own])
    }
    rounds: list[Round] = []
    for number in range(session.flags.rounds):
        done: Round = {}
        for name in list(runs) if number % 2 == 0 else reversed(runs):
            if number and "failed" in rounds[0][name]:
                done[name] = rounds[0][name]
            else:
                done[name] = measure(*runs[name])
            said = done[name].get("failed") or next(iter(done[name].items()))
            print(f"round {number + 1}/{session.flags.rounds}, {name}: {said}", file=sys.stderr)
        rounds.append({name: done[name] for name in runs})
    found = report.summarize(rounds, beside, comparisons, [tree.name for tree in session.trees])
    report.show(found)
    if session.flags.json:
        about = {"command": sys.argv, "machine": _machine(), "versions": _versions(session)}
        text = json.dumps(about | found | {"rounds": rounds}, indent=2)
        pathlib.Path(session.flags.json).write_text(text, encoding="utf-8")
    return int(any(case.ours and "failed" in rounds[-1][name] for name, (case, _) in runs.items()))


def label(case: Case, tree: Tree) -> str:
    """Return the name of a case in a round: `case`, or `case @tree` in the other checkout."""
    return f"{case.name} @{tree.name}" if case.ours and tree.name else case.name


def measure(case: Case, trees: Sequence[Tree]) -> Figures:
    """Return the figures of a case in the first tree with its packages, or why it `failed`."""
    try:
        return case.measure(trees[0])
    except Missing as failure:
        return measure(case, trees[1:]) if trees[1:] else {"failed": str(failure)}
    except Failed as failure:
        return {"failed": str(failure)}


def _machine() -> dict:
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _versions(session: Session) -> dict:
    trees = {"this": session.trees[0]} | {tree.name: tree for tree in session.trees[1:]}
    if session.peers.python != session.trees[0].python:
        trees["peers"] = session.peers
    return {name: call(tree, "worker.versions") for name, tree in trees.items()}
