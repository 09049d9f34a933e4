"""A switch between TAP devices, each in the network of one host, that cuts links and delays and loses frames.

usage: switch.py SEED PID...     Host N is the network of the N-th process; port 0 is in the network of this one.

Host N has the address 10.77.0.N and the MAC 02:00:00:00:00:NN, port 0 has 10.77.0.254. Each line of standard input
is a JSON list of rules, which apply from one moment on, and is answered by the line "done":
    [{"from": [1], "to": [2, 3], "loss": 0.3, "delay_ms": 20, "jitter_ms": 5}]
A rule replaces what applied to frames in that direction. {"drop_udp": true} has every datagram dropped from then on.
TAP devices offer no offloads, so each frame is a whole packet with its checksum. The devices end with this process, and this process with its standard input. A switch of our own, as
not every kernel has the scheduler netem.
"""
import fcntl
import heapq
import json
import os
import random
import selectors
import socket
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000
IPV4 = b"\x08\x00"
# Frames that are under way on all links; more are lost, as in a real switch.
WAITING_MAX = 100_000
# Frames that are read from one port before the others have their turn.
BURST = 64


def ip(pid, *words):
    enter = [] if pid is None else ["nsenter", f"--net=/proc/{pid}/ns/net"]
    subprocess.run([*enter, "ip", *words], check=True)


def attach(port, pid):
    """A TAP device as the network card of a host; frames are read from and written to the descriptor."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = f"port{port}"
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    number = port or 254
    ip(None, "link", "set", name, "address", f"02:00:00:00:00:{number:02x}")
    if pid is not None:
        ip(None, "link", "set", name, "netns", pid)
        ip(pid, "link", "set", "lo", "up")
    ip(pid, "addr", "add", f"10.77.0.{number}/24", "dev", name)
    ip(pid, "link", "set", name, "up")
    return fd


class Switch:
    def __init__(self, seed, pids):
        self.random = random.Random(seed)
        self.ports = {0: attach(0, None)} | {n: attach(n, pid) for n, pid in enumerate(pids, 1)}
        self.links = {}
        self.drops_udp = False
        self.waiting = []
        self.count = 0

    def forward(self, port):
        for _ in range(BURST):
            try:
                frame = os.read(self.ports[port], 65536)
            except BlockingIOError:
                return
            if self.drops_udp and frame[12:14] == IPV4 and frame[23] == socket.IPPROTO_UDP:
                continue
            if frame[0] & 1:
                targets = [to for to in self.ports if to != port]
            else:
                to = 0 if frame[5] == 254 else frame[5]
                targets = [to] if to in self.ports else []
            for to in targets:
                self.send(port, to, frame)

    def send(self, port, to, frame):
        link = self.links.get((port, to))
        if link is None:
            return self.deliver(to, frame)
        loss, delay, jitter = link
        if self.random.random() < loss or len(self.waiting) >= WAITING_MAX:
            return None
        if delay + jitter == 0:
            return self.deliver(to, frame)
        self.count += 1
        at = time.monotonic() + delay + jitter * self.random.random()
        return heapq.heappush(self.waiting, (at, self.count, to, frame))

    def deliver(self, to, frame):
        try:
            os.write(self.ports[to], frame)
        except OSError:
            pass  # the queue is full, or the device is down: the frame is lost

    def deliver_due(self):
        """Returns the seconds until the next frame is due; None: none waits."""
        while self.waiting:
            left = self.waiting[0][0] - time.monotonic()
            if left > 0:
                return left
            _, _, to, frame = heapq.heappop(self.waiting)
            self.deliver(to, frame)
        return None

    def obey(self, line):
        for rule in json.loads(line):
            if "drop_udp" in rule:
                self.drops_udp = rule["drop_udp"]
                continue
            link = (rule["loss"], rule["delay_ms"] / 1000, rule["jitter_ms"] / 1000)
            for port in rule["from"]:
                for to in rule["to"]:
                    self.links[(port, to)] = link
        print("done", flush=True)

    def run(self):
        selector = selectors.DefaultSelector()
        for port, fd in self.ports.items():
            selector.register(fd, selectors.EVENT_READ, port)
        os.set_blocking(0, False)
        selector.register(0, selectors.EVENT_READ, None)
        commands = b""
        print("ready", flush=True)
        while True:
            for key, _ in selector.select(self.deliver_due()):
                if key.data is not None:
                    self.forward(key.data)
                    continue
                read = os.read(0, 65536)
                if not read:
                    return
                *lines, commands = (commands + read).split(b"\n")
                for line in lines:
                    self.obey(line)


Switch(int(sys.argv[1]), sys.argv[2:]).run()
