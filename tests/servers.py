"""Servers that tests start and end."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request

import psutil

START_S = 120


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, all different."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def wait_for(url: str) -> None:
    """Returns once something answers at a URL."""
    end = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def kill_all_of(driver: subprocess.Popen) -> None:
    """Kills a process and all that it started, at once."""
    for process in [*psutil.Process(driver.pid).children(recursive=True), psutil.Process(driver.pid)]:
        process.kill()
    driver.wait()
