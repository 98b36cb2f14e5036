"""Reads damaged and hostile files of every format and counts how the readers end.

python scripts/fuzz.py [FORMAT …] [--cases N] [--seed S] [--megabytes M] [--seconds T] [--markdown FILE]

Of each format all hostile files made by hand are read, and N files that are damaged by chance. Readers run in a process
of their own that may take M megabytes more than it has after its imports and T seconds a case; one that ends or waits
is replaced by another. `fuzzing.contract` says what is asked of them. The exit status is 1 if any case breaks it.
`--only FORMAT/CASE`, by its number or name, reads one file in this process and keeps it in ./fuzzed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from resource import RLIMIT_AS, getpagesize, setrlimit

ONE_THREAD = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "MALLOC_ARENA_MAX")
os.environ.update(dict.fromkeys(ONE_THREAD, "1"))  # each thread takes address space, which is limited

from fuzzing.catalogue import make_all  # noqa: E402
from fuzzing.contract import READERS, Case, End, named_cases, run  # noqa: E402

MEGABYTES, SECONDS = 512, 20.0
FORK = get_context("fork")  # what is imported here is imported once


def cases_of(formats: list[str], count: int) -> list[Case]:
    return [case for name in formats for case in (*named_cases(name), *(Case(name, number) for number in range(count)))]


def ends(cases: list[Case], seed: int, megabytes: int, seconds: float) -> Iterator[tuple[Case, End]]:
    """How each case ends; a process that ends or waits at one is followed by another, which goes on with the next."""
    done = 0
    while done < len(cases):
        here, there = FORK.Pipe(duplex=False)
        folder = tempfile.TemporaryDirectory()  # here, so that it goes with a process that is killed
        process = FORK.Process(target=work, args=(cases[done:], seed, megabytes, Path(folder.name), there))
        process.start()
        there.close()
        try:
            here.recv()  # it is ready
            while done < len(cases):
                kind = "waits"
                if here.poll(seconds):
                    try:
                        yield cases[done], here.recv()
                        done += 1
                        continue
                    except EOFError:
                        process.join()
                        kind = f"ends the process ({process.exitcode})"
                yield cases[done], End(kind, cases[done].name or "mutated")
                done += 1
                break
        finally:
            process.kill()
            process.join()
            folder.cleanup()


def work(cases: list[Case], seed: int, megabytes: int, folder: Path, answers: Connection) -> None:
    """Reads the cases and sends how they end."""
    seeds = make_all(folder, list(dict.fromkeys(case.format for case in cases)))
    for name, paths in seeds.items():
        for path in paths:  # what is imported with the first file counts for no case
            READERS[name](path, False)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * getpagesize()
    setrlimit(RLIMIT_AS, (taken + megabytes * 2**20,) * 2)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    answers.send("ready")
    for case in cases:
        answers.send(run(case, seeds[case.format], folder / "case", seed))
    os.chdir("/")


def table(found: list[tuple[Case, End]]) -> str:
    lines = ["| format | files | read | refused | broken | longest, s | most, MB |", "|---|---|---|---|---|---|---|"]
    for name in dict.fromkeys(case.format for case, _ in found):
        own = [end for case, end in found if case.format == name]
        kinds = Counter(end.kind if end.kept else "broken" for end in own)
        numbers = [len(own), kinds["read"], kinds["refused"], kinds["broken"]]
        longest, most = max(end.seconds for end in own), max(end.megabytes for end in own)
        lines.append(f"| {name} | {' | '.join(map(str, numbers))} | {longest:.1f} | {most:.0f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=", ".join(READERS))
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--megabytes", type=int, default=MEGABYTES)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--only", metavar="FORMAT/CASE")
    options = parser.parse_args()
    formats = options.formats or list(READERS)
    if unknown := set(formats) - set(READERS):
        parser.error(f"formats must be among {', '.join(READERS)}, got {', '.join(sorted(unknown))}.")
    if options.only:
        name, _, which = options.only.partition("/")
        case = next((one for one in named_cases(name) if one.name == which), None) or Case(name, int(which))
        with tempfile.TemporaryDirectory() as folder:
            print(run(case, make_all(Path(folder), [name])[name], Path("fuzzed").absolute(), options.seed))
        return 0
    found = []
    for case, end in ends(cases_of(formats, options.cases), options.seed, options.megabytes, options.seconds):
        found.append((case, end))
        if not end.kept:
            print(f"{case.format}/{case.name or case.number}: {end.kind}: {end.what}: {end.message[:300]}", flush=True)
    print(table(found))
    if options.markdown:
        options.markdown.write_text(table(found) + "\n", encoding="utf-8")
    return int(not all(end.kept for _, end in found))


if __name__ == "__main__":
    sys.exit(main())
