"""Thousands of PostgreSQL clients in one process: frames over sockets, one epoll, and no thread.

What a client does is a generator: it sends, and yields where it waits. `message = yield` is the next message as (tag,
body); `yield 0.5` comes back after so many seconds. A connection that ends is `Lost`, raised there. Imported, never run.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import hashlib
import heapq
import hmac
import os
import resource
import select
import socket
import struct
import time

from lib_bench import (
    Failure, row,
)

from lib_bench import Failure

SPARE_DESCRIPTORS = 500  # for what is not a client


class Lost(Exception):
    """The server closed the connection."""


class Told(Exception):
    """An error that a server told in the middle of a login."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(f"{fields.get('C')} {fields.get('M')}")
        self.sqlstate = fields.get("C", "")


@dataclasses.dataclass(frozen=True)
class Account:
    """Whom to log in as, and where."""

    host: str
    port: int
    user: str
    password: str
    database: str


def raise_descriptor_limit(clients: int) -> None:
    """The soft limit up to the hard one; children inherit it. A Failure where that is too low."""
    needed = clients + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise Failure(f"{clients} clients need {needed} file descriptors, and the hard limit is {hard} (ulimit -Hn);"
                      " raise it as root, or run fewer clients")
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class Client:
    """A connection. `send` and the generators below are all that there is to it."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.key = b""
        self.buffer = bytearray()
        self.task = None
        self.is_asleep = False
        self.socket = connect(account)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)

    def send(self, data: bytes) -> None:
        try:
            sent = self.socket.send(data)
        except OSError as error:
            raise Lost(str(error)) from error
        if sent != len(data):
            raise Failure("a client's message did not fit into its socket")

    def take(self) -> tuple[bytes, bytes] | None:
        """The next whole message."""
        if len(self.buffer) < 5:
            return None
        end = 1 + int.from_bytes(self.buffer[1:5], "big")
        if len(self.buffer) < end:
            return None
        message = bytes(self.buffer[:1]), bytes(self.buffer[5:end])
        del self.buffer[:end]
        return message

    def close(self) -> None:
        self.socket.close()

    def login(self):
        """Up to the first ReadyForQuery; `Told` where the server does not want it."""
        words = [b"user", self.account.user.encode(), b"database", self.account.database.encode()]
        body = struct.pack(">I", 196608) + b"\0".join(words) + b"\0\0"
        self.send(struct.pack(">I", len(body) + 4) + body)
        nonce = base64.b64encode(os.urandom(18)).decode()
        bare, proof = f"n=,r={nonce}", None
        while True:
            tag, body = yield
            if tag == b"E":
                raise Told(fields_of(body))
            if tag == b"K":
                self.key = body
            elif tag == b"Z":
                return
            elif tag == b"R":
                kind = int.from_bytes(body[:4], "big")
                if kind == 10:
                    first = f"n,,{bare}".encode()
                    self.send(frame(b"p", b"SCRAM-SHA-256\0" + struct.pack(">I", len(first)) + first))
                elif kind == 11:
                    last, proof = scram_answer(self.account.password, bare, body[4:].decode())
                    self.send(frame(b"p", last))
                elif kind == 12 and body[4:] != proof:
                    raise Failure("the server does not know the password either")
                elif kind not in (0, 12):
                    raise Failure(f"the server asks for an authentication that is not known here ({kind})")

    def query(self, sql: str):
        """A simple query: its rows' bodies, and the fields of its error, if it has one."""
        self.send(frame(b"Q", sql.encode() + b"\0"))
        return (yield from self.answer())

    def answer(self):
        """What comes up to ReadyForQuery."""
        rows, error = [], None
        while True:
            tag, body = yield
            if tag == b"D":
                rows.append(body)
            elif tag == b"E":
                error = fields_of(body)
            elif tag == b"Z":
                return rows, error

    def terminate(self) -> None:
        with contextlib.suppress(Lost):
            self.send(frame(b"X", b""))


def cancel(client: Client) -> None:
    """Asks for the end of what this client runs, over a connection of its own."""
    with connect(client.account) as connection:
        connection.sendall(struct.pack(">II", 16, 80877102) + client.key)


def connect(account: Account) -> socket.socket:
    """On loopback a connection is there at once, or refused."""
    try:
        return socket.create_connection((account.host, account.port), timeout=30)
    except OSError as error:
        raise Failure(f"port {account.port} takes no connection: {error}") from error


def frame(tag: bytes, body: bytes) -> bytes:
    return tag + struct.pack(">I", len(body) + 4) + body


def fields_of(body: bytes) -> dict[str, str]:
    """Of an ErrorResponse."""
    return {part[:1].decode(): part[1:].decode(errors="replace") for part in body.split(b"\0") if part}


def value_of(row: bytes) -> str | None:
    """The first column of a DataRow."""
    length = struct.unpack_from(">i", row, 2)[0]
    return None if length < 0 else row[6 : 6 + length].decode()


@functools.lru_cache(maxsize=1024)
def scram_keys(password: str, salt: bytes, rounds: int) -> tuple[bytes, bytes, bytes]:
    """Client key, stored key, server key: the part that is slow on purpose, once for each verifier."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return client_key, hashlib.sha256(client_key).digest(), hmac.digest(salted, b"Server Key", "sha256")


def scram_answer(password: str, bare: str, server_first: str) -> tuple[bytes, bytes]:
    """The client's last message, and what the server's has to be. RFC 5802."""
    told = dict(part.split("=", 1) for part in server_first.split(","))
    client_key, stored_key, server_key = scram_keys(password, base64.b64decode(told["s"]), int(told["i"]))
    without_proof = f"c=biws,r={told['r']}"
    message = f"{bare},{server_first},{without_proof}".encode()
    signature = hmac.digest(stored_key, message, "sha256")
    proof = bytes(one ^ other for one, other in zip(client_key, signature))
    server_signature = hmac.digest(server_key, message, "sha256")
    last = f"{without_proof},p={base64.b64encode(proof).decode()}"
    return last.encode(), b"v=" + base64.b64encode(server_signature)


class Loop:
    """Drives clients."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.clients: dict[int, Client] = {}
        self.timers: list[tuple[float, int, object, Client | None]] = []
        self.turn = 0

    def start(self, client: Client, task) -> None:
        """A client with what it does; its socket is closed when that ends."""
        client.task = task
        self.clients[client.socket.fileno()] = client
        self.epoll.register(client.socket.fileno(), select.EPOLLIN)
        self.step(client, None)

    def every(self, task) -> None:
        """Something that only waits: a generator that yields seconds."""
        self.wake(task, None)

    def run(self, is_over, patience: float = 0.05) -> None:
        """Until `is_over()`, which is asked now and then."""
        while not is_over():
            wait = patience
            if self.timers:
                wait = max(0.0, min(wait, self.timers[0][0] - time.monotonic()))
            for number, _ in self.epoll.poll(wait, 1024):
                if client := self.clients.get(number):
                    self.read(client)
            now = time.monotonic()
            while self.timers and self.timers[0][0] <= now:
                _, _, task, client = heapq.heappop(self.timers)
                if client is None:
                    self.wake(task, None)
                elif client.task is task:
                    client.is_asleep = False
                    self.step(client, None)
                    self.deliver(client)

    def read(self, client: Client) -> None:
        try:
            data = client.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            client.buffer += data
            self.deliver(client)
        elif client.is_asleep:
            self.drop(client)
        else:
            self.step(client, Lost("the connection has ended"))

    def deliver(self, client: Client) -> None:
        while client.task and not client.is_asleep and (message := client.take()):
            self.step(client, message)

    def step(self, client: Client, value) -> None:
        task = client.task
        try:
            wait = task.throw(value) if isinstance(value, Lost) else task.send(value)
        except StopIteration:
            self.drop(client)
            return
        if wait is not None:
            client.is_asleep = True
            self.later(wait, task, client)

    def wake(self, task, value) -> None:
        with contextlib.suppress(StopIteration):
            self.later(task.send(value), task, None)

    def later(self, seconds: float, task, client: Client | None) -> None:
        self.turn += 1
        heapq.heappush(self.timers, (time.monotonic() + seconds, self.turn, task, client))

    def drop(self, client: Client) -> None:
        client.task = None
        if self.clients.pop(client.socket.fileno(), None):
            self.epoll.unregister(client.socket.fileno())
        client.close()

    def close(self) -> None:
        for client in list(self.clients.values()):
            self.drop(client)
        self.epoll.close()
