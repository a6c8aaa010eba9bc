"""Run others' tests directly and through pgsluice, and print where they end otherwise. See scripts/compat.

    run.py --pgsluice PROGRAM --cache DIR [--markdown FILE] [--select TEXT] [SUITE …]

Exit status: 0 when every difference is explained in known.toml, 1 when one is not, 2 when a suite could not be run.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import report
from results import Known, Outcome, compare
from stand import SIDES, CannotRun, Stand, scratch_folder
from suites import SUITES, Work

HERE = Path(__file__).resolve().parent


class Tools:
    """Downloaded packages, and what one side has to say to another."""

    def __init__(self, cache):
        self.cache = cache
        self.python = sys.executable
        self.transcripts = {}

    def source(self, package):
        """The unpacked source package."""
        stem = f"{package.lower()}-{pinned(package)}"
        folder = self.cache / "sources" / stem
        if not folder.exists():
            archives = self.cache / "archives"
            found = [path for path in archives.glob("*.tar.gz") if path.name.lower() == f"{stem}.tar.gz"]
            if not found:
                command = [self.python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary=:all:", f"--dest={archives}", f"{package}=={pinned(package)}"]
                if subprocess.run(command).returncode != 0:
                    raise CannotRun(f"the source package of {package} could not be downloaded")
                found = [path for path in archives.glob("*.tar.gz") if path.name.lower() == f"{stem}.tar.gz"]
            with tarfile.open(found[0]) as archive:
                archive.extractall(self.cache / "sources", filter="data")
            unpacked = next(path for path in (self.cache / "sources").iterdir() if path.name.lower() == stem)
            unpacked.rename(folder)
        hide_package(package, folder)
        return folder


def pinned(package):
    for line in (HERE / "sources.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        if name == package:
            return version
    raise CannotRun(f"{package} is not in sources.txt")


def hide_package(package, folder):
    """Tests run with the source's folder in front of the path, where an unbuilt copy would hide the built package."""
    inner = folder / package
    if package == "asyncpg" and inner.exists():
        inner.rename(folder / "unbuilt")


def run_suite(suite, options, tools):
    outcomes, seconds = {}, {}
    for side in SIDES:
        with scratch_folder("pgsluice-compat-") as scratch:
            out = options.cache / "results" / suite.name / side
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            print(f"== {suite.name}, {side}", file=sys.stderr, flush=True)
            with Stand(options.pgsluice, side, scratch) as stand:
                suite.prepare(stand)
                started = time.monotonic()
                outcomes[side] = suite.run(stand.target, Work(tools, out, options.select))
                seconds[side] = time.monotonic() - started
            log = Path(scratch) / "pgsluice.log"
            if log.exists():
                (out / "pgsluice.log").write_bytes(log.read_bytes())
    return outcomes, seconds


def kept(path, outcomes=None, seconds=None):
    """Results of a run are kept, so that one suite can be run again and the table still has them all."""
    if outcomes is None:
        data = json.loads(path.read_text())
        sides = {side: {test: Outcome(*found) for test, found in tests.items()} for side, tests in data["outcomes"].items()}
        return sides, data["seconds"]
    plain = {side: {test: [o.status, o.message] for test, o in tests.items()} for side, tests in outcomes.items()}
    path.write_text(json.dumps({"outcomes": plain, "seconds": seconds}))
    return outcomes, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pgsluice", type=Path, required=True, help="the program")
    parser.add_argument("--cache", type=Path, required=True, help="where downloads and results are kept")
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    parser.add_argument("--select", help="only these tests of a suite (as `pytest -k`, Django's labels, or part of a step's name)")
    parser.add_argument("--report", action="store_true", help="run nothing: the results that are kept")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=", ".join(suite.name for suite in SUITES))
    options = parser.parse_args()
    options.cache = options.cache.resolve()
    names = [suite.name for suite in SUITES]
    if unknown := [name for name in options.suites if name not in names]:
        parser.error(f"there is no suite {unknown[0]}; there are {', '.join(names)}")
    known, tools, rows, broken = Known(HERE / "known.toml"), Tools(options.cache), [], False
    for suite in SUITES:
        is_chosen = not options.suites or suite.name in options.suites
        results = options.cache / "results" / f"{suite.name}.json"
        try:
            if is_chosen and not options.report:
                outcomes, seconds = run_suite(suite, options, tools)
                if not options.select:
                    kept(results, outcomes, seconds)
                elif results.exists():
                    # What was run again takes the place of what it said before.
                    before, times = kept(results)
                    kept(results, {side: before[side] | tests for side, tests in outcomes.items()}, times)
            elif results.exists() and (options.markdown or options.report and is_chosen):
                outcomes, seconds = kept(results)
            else:
                continue
        except CannotRun as error:
            print(f"{suite.name}: {error}", file=sys.stderr)
            broken = True
            continue
        row = compare(suite.name, suite.title, outcomes, known)
        row.seconds = seconds
        rows.append(row)
        print(report.differences(row), flush=True)
    print(report.table(rows))
    if options.markdown and not broken:
        options.markdown.write_text(report.page(rows, server_version()))
    if broken:
        return 2
    return int(any(difference.reason is None for row in rows for difference in row.differences))


def server_version():
    words = subprocess.run(["psql", "--version"], capture_output=True, text=True).stdout.split()
    return words[2] if len(words) > 2 else "unknown version"


if __name__ == "__main__":
    sys.exit(main())
