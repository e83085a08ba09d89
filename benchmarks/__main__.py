"""The command: `python -m benchmarks` times everything; `python -m benchmarks --help` says what else."""

import argparse
import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import benchmarks
from benchmarks.environments import environments, forget_failures, python_of, versions
from benchmarks.framework import Benchmark, Unavailable
from benchmarks.growth import figure, growths
from benchmarks.machine import header
from benchmarks.runner import run
from benchmarks.table import as_markdown, as_text, update_page


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, print it, and write what is asked for."""
    options = _parser().parse_args(arguments)
    if options.environments:
        return make_environments()
    chosen = {name: load(name) for name in options.only or names()}
    if options.list:
        for benchmark in chosen.values():
            print(f"{benchmark.name}: {benchmark.title}")
            print(f"  cases: {'; '.join(benchmark.cases)}")
            print(f"  subjects: {'; '.join(one.name for one in benchmark.subjects)}")
        return 0
    load_before = os.getloadavg()[0]
    results = {}
    for name, benchmark in chosen.items():
        cases = [case for case in benchmark.cases if not options.case or case in options.case]
        results[name] = run(
            benchmark, f"benchmarks.{name}", cases=cases, repeats=options.repeats or benchmark.repeats, say=_say
        )
    about = header(list(chosen.values()), load_before)
    grown = {name: growths(result) for name, result in results.items()}
    print("\n".join(about))
    for name, result in results.items():
        print("\n" + as_text(result, grown[name]))
    if options.json:
        _write_json(options.json, [asdict(row) for result in results.values() for row in result.rows])
    if options.details:
        details = {
            "header": about,
            "left_out": [asdict(one) for result in results.values() for one in result.left_out],
            "growth": [asdict(one) for found in grown.values() for one in found],
        }
        _write_json(options.details, details)
    if options.plot:
        options.plot.write_text(figure([one for found in grown.values() for one in found]) + "\n", encoding="utf-8")
    if options.markdown:
        pages = {
            name: as_markdown(result, grown[name], header([result.benchmark], load_before))
            for name, result in results.items()
        }
        if options.plot:
            drawing = os.path.relpath(options.plot, options.markdown.parent)
            pages["growth"] = f"### growth\n\n![Time and memory at growing sizes, with fitted slopes]({drawing})"
        update_page(options.markdown, pages)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Times the fast paths beside their peers and floors: a process a subject, repeats interleaved, "
        "medians. Peers' environments are made in .benchmarks/ where they are first needed.",
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="this benchmark (may be repeated)")
    parser.add_argument("--case", action="append", metavar="CASE", help="this case (may be repeated)")
    parser.add_argument("--repeats", type=int, metavar="N", help="timed repeats, instead of the benchmark's own number")
    parser.add_argument("--list", action="store_true", help="say what there is and stop")
    parser.add_argument("--environments", choices=["make"], help="make all peers' environments and stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    parser.add_argument("--details", type=Path, metavar="FILE", help="write machine, what was left out, and growth")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw growth")
    parser.add_argument("--markdown", type=Path, metavar="FILE.md", help="put the tables between the page's markers")
    return parser


def names() -> list[str]:
    """The modules of this folder that hold a benchmark."""
    return [name for name in _modules() if hasattr(importlib.import_module(f"benchmarks.{name}"), "BENCHMARK")]


def _modules() -> list[str]:
    return [one.name for one in pkgutil.iter_modules(benchmarks.__path__) if one.name != "__main__"]


def load(name: str) -> Benchmark:
    """The benchmark of that name."""
    found = getattr(importlib.import_module(f"benchmarks.{name}"), "BENCHMARK", None) if name in _modules() else None
    if not isinstance(found, Benchmark):
        raise SystemExit(f"no benchmark {name!r}; there are {', '.join(names())}")
    return found


def make_environments() -> int:
    """Make every environment that can be made here."""
    forget_failures()
    for name in environments():
        try:
            python_of(name)
            print(f"{name}: " + ", ".join(f"{one} {version}" for one, version in versions(name).items()))
        except Unavailable as error:
            print(f"{name}: {error}")
    return 0


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
