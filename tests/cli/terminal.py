"""Runs a program in a terminal of its own and does with it what stdin says, one order a line:

    wait TEXT      until the program has written TEXT since the last order that waited
    press KEYS     as if they were typed
    resize R C     the terminal has so many rows and columns
    signal NAME    such as TERM
    end CODE       the program has ended with this code, and has left the terminal as it was

Answers each with a line "ok"; what goes wrong is told on stderr, and ends it.
"""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

DEADLINE = 60


def fail(text):
    sys.stderr.write(text + "\n")
    sys.exit(1)


def size(terminal, rows, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


terminal, inside = pty.openpty()
size(terminal, 40, 160)
before = termios.tcgetattr(inside)
child = os.fork()
if child == 0:
    os.setsid()
    fcntl.ioctl(inside, termios.TIOCSCTTY, 0)
    for descriptor in range(3):
        os.dup2(inside, descriptor)
    os.execvp(sys.argv[1], sys.argv[1:])

# `inside` stays open here, so that the terminal and its modes are there when the program has ended.
written = b""
behind = 0


def read(limit):
    """Whether anything has come."""
    global written
    is_there = bool(select.select([terminal], [], [], limit)[0])
    if is_there:
        written += os.read(terminal, 65536)
    return is_there


for order in sys.stdin:
    word, _, rest = order.rstrip("\n").partition(" ")
    start = time.monotonic()
    if word == "wait":
        while (found := written.find(rest.encode(), behind)) < 0:
            if time.monotonic() - start > DEADLINE:
                fail(f"{rest!r} has not come; the last that came: {written[behind:][-3000:]!r}")
            read(0.1)
        behind = found + len(rest)
    elif word == "press":
        os.write(terminal, rest.encode())
    elif word == "resize":
        rows, columns = map(int, rest.split())
        size(terminal, rows, columns)
        behind = len(written)
        os.kill(child, signal.SIGWINCH)
    elif word == "signal":
        os.kill(child, getattr(signal, "SIG" + rest))
    elif word == "end":
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
            if time.monotonic() - start > DEADLINE:
                os.kill(child, signal.SIGKILL)
                fail("it does not end")
            read(0.05)
        while read(0.1):
            pass
        if os.waitstatus_to_exitcode(ended[1]) != int(rest):
            fail(f"it ended with {ended[1]}: {written[-2000:]!r}")
        if termios.tcgetattr(inside) != before:
            fail("the terminal's modes are not what they were")
        if b"\x1b[?1049l" not in written or b"\x1b[?25h" not in written:
            fail("it has not left the alternate screen, or not shown the cursor")
    else:
        fail(f"no such order: {order!r}")
    print("ok", flush=True)
