"""What the Python driver scripts share: steps, and a deterministic record of what each one saw.

A script is a list of step functions, and prints one JSON line per step. A step that
raises is reported as such and the next one still runs; a step that does not end in STEP_TIMEOUT
seconds is reported as hung. The record holds nothing that must differ between two runs of the same
script: process ids, OIDs of user-made objects and times are normalised here or by the step.
run.py replaces the schema's name and the server's address.

Called as a program it turns a step's output into such a line, for psql_script.sh:
    transcript.py NAME EXIT_STATUS SCHEMA < output
"""

import datetime
import decimal
import hashlib
import ipaddress
import json
import re
import sys
import uuid

STEP_TIMEOUT = 30.0  # seconds
LONG = 1200  # characters or bytes; a longer value is recorded as its length, ends and digest
FIRST_USER_OID = 16384  # FirstNormalObjectId, src/include/access/transam.h


def oid(number):
    """A type's or table's OID; those of user-made objects differ from run to run."""
    return "user" if number >= FIRST_USER_OID else number


def clip(text):
    """Text, or for a long one enough to tell whether two are the same and where they start to differ."""
    if isinstance(text, str) and len(text) > LONG:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return {"length": len(text), "sha256": digest, "head": text[:60], "tail": text[-60:]}
    return text


def scrub(text):
    """Free text (messages, contexts) without the numbers that differ between two runs."""
    text = re.sub(r"\b(process|PID|pid) \d+", r"\1 <pid>", text)
    return re.sub(r'(relation|type|cache lookup failed for \w+) (with OID )?\d{5,}', r"\1 <oid>", text)


def typed(value):
    """A value as [type name, printable form], so that 1, 1.0, '1' and True all differ."""
    name = type(value).__name__
    if value is None:
        return None
    if isinstance(value, (bool, int)):
        return [name, value]
    if isinstance(value, float):
        return [name, repr(value)]
    if isinstance(value, str):
        return [name, clip(value)]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return [name, clip(bytes(value).hex())]
    if isinstance(value, (decimal.Decimal, uuid.UUID, datetime.timedelta)) or name in IP_TYPES:
        return [name, str(value)]
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return [name, value.isoformat(), str(getattr(value, "tzinfo", None))]
    if isinstance(value, (list, tuple)):
        return [name, [typed(item) for item in value]]
    if isinstance(value, dict):
        return [name, {str(key): typed(item) for key, item in value.items()}]
    return [name, clip(scrub(repr(value)))]


IP_TYPES = tuple(
    kind.__name__
    for kind in (ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv4Interface)
)


def rows_digest(rows):
    """Many rows as their number, first, last and a digest over all of them, in order."""
    digest, count, first, last = hashlib.sha256(), 0, None, None
    for row in rows:
        last = [typed(item) for item in row]
        first = last if count == 0 else first
        digest.update(json.dumps(last).encode())
        count += 1
    return {"count": count, "sha256": digest.hexdigest(), "first": first, "last": last}


class Step:
    """One step's record. Each has its own, so that a hung step's thread writes where nobody reads."""

    def __init__(self, name):
        self.name = name
        self.events = []

    def note(self, kind, value=None, **fields):
        """Record one thing that the application saw."""
        event = {"event": kind}
        if value is not None:
            event["value"] = clip(value)
        event.update({key: clip(item) for key, item in fields.items() if item is not None})
        self.events.append(event)

    def emit(self):
        """Print the step as one line."""
        line = {"step": self.name, "events": list(self.events)}
        print(json.dumps(line, ensure_ascii=True, sort_keys=True), flush=True)


def only_step():
    """The step to run alone (argv[3]), for looking into one difference; setup and teardown always run."""
    return sys.argv[3] if len(sys.argv) > 3 else None


def wanted(name):
    return only_step() in (None, name) or name in ("setup", "teardown")


def main():
    """psql_script.sh's helper: the output of one step, on stdin, becomes a transcript line."""
    name, status, schema = sys.argv[1:4]
    text = sys.stdin.buffer.read().decode("utf-8", "backslashreplace")
    lines = text.replace(schema, "<schema>").splitlines()  # here, because the digest below covers it
    record = Step(name)
    if len(lines) > 400:
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        record.note("output", lines=len(lines), sha256=digest, first=lines[0], last=lines[-1])
    else:
        for line in lines:
            record.note("output", scrub(line))
    record.note("hung" if status in ("124", "137") else "exit", int(status))
    record.emit()


if __name__ == "__main__":
    main()
