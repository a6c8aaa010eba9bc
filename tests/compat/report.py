"""The table, for a terminal and as docs/compatibility.md."""

from itertools import groupby

from results import FAILED, PASSED

MESSAGE_LINES = 25

HEAD = """# Compatibility

Written by `scripts/compat`: other people's tests, run against a direct connection to the primary and against pgsluice in
both pool modes. Run it again rather than edit this page; the reasons stand in `tests/compat/known.toml`.

Each run has a cluster of its own, a primary and a replica of PostgreSQL {version}. The replica applies each commit before it is
acknowledged (`synchronous_commit = remote_apply`), because the suites use several connections and expect of each what one
server gives. In transaction mode reads go to the replica wherever pgsluice finds that right.

A test counts as passed through pgsluice when it ends as on the direct connection. Tests that fail or are skipped on a direct
connection too (they ask for other extensions, for a locale, or for a server that they may restart) are in no column.

"""

FOOT = """
## Beside the suites

- **Dropping a database that was used a moment ago.** Frameworks make a database for a test run and drop it behind it; PostgreSQL
  refuses that while anybody is connected to it. A pooler's own idle connections are in the way: with PgBouncer they stay
  until `server_idle_timeout`, or until somebody says `KILL` or `RECONNECT` on its console. pgsluice closes its own before a
  CREATE, ALTER or DROP DATABASE that names the database goes to the server, so that, as on a direct connection, it is enough that
  the clients have left, or in transaction mode that they hold nothing there; see [pooling.md](pooling.md). Tested in
  `tests/compatibility.rs`.
"""


def table(rows):
    """For a terminal."""
    lines = [f"{'suite':20} {'direct':>7} {'session':>8} {'transaction':>12} {'differ':>7} {'unexplained':>12} {'seconds':>20}"]
    for row in rows:
        unexplained = sum(difference.reason is None for difference in row.differences)
        seconds = " ".join(f"{row.seconds.get(side, 0):.0f}" for side in row.passed)
        lines.append(
            f"{row.suite:20} {row.passed['direct']:>7} {row.passed['session']:>8} {row.passed['transaction']:>12} "
            f"{len(row.differences):>7} {unexplained:>12} {seconds:>20}"
        )
    return "\n".join(lines)


def differences(row):
    """What a suite found that has no reason yet; and what fails everywhere, which proves nothing."""
    lines = [f"{row.suite}: {len(row.failed_everywhere)} tests fail directly too, {row.skipped} are skipped"]
    for difference in row.differences:
        if difference.reason is not None:
            continue
        lines.append(f"-- {row.suite}, {difference.side}: {difference.test}: directly {difference.direct.status}, here {difference.proxy.status}")
        message = (difference.proxy if difference.proxy.status != PASSED else difference.direct).message
        lines += ["     " + line for line in message.splitlines()[-MESSAGE_LINES:]]
    return "\n".join(lines)


def page(rows, version):
    """docs/compatibility.md"""
    text = HEAD.format(version=version)
    text += "| suite | tests | passed directly | session mode | transaction mode |\n| --- | ---: | ---: | ---: | ---: |\n"
    for row in rows:
        total = row.passed["direct"] + row.skipped + len(row.failed_everywhere)
        text += f"| {row.title} | {total} | {row.passed['direct']} | {row.passed['session']} | {row.passed['transaction']} |\n"
    text += "\n## Differences\n\n"
    explained = [(row, difference) for row in rows for difference in row.differences]
    if not explained:
        return text + "None.\n" + FOOT
    key = lambda pair: (pair[0].title, pair[1].side, pair[1].reason or "")
    for (title, side, reason), pairs in groupby(sorted(explained, key=key), key):
        tests = ", ".join(f"`{difference.test}`" for _, difference in pairs)
        text += f"- **{title}**, {side} mode: {tests}. {reason or 'Not explained yet.'}\n"
    return text + FOOT
