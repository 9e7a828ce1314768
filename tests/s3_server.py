"""A real S3 store on loopback: OpenStack Swift with its S3 API, one node, from Debian's packages.

    with running(folder) as store:
        os.environ.update(store.environment)
        storage.write_bytes(f"{store.bucket}/x", b"...")

An account, a container and an object server keep the data as files, a proxy in front of them speaks S3.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import botocore.config
import botocore.exceptions
import botocore.session

PACKAGES = "swift-proxy swift-account swift-container swift-object memcached"
BUCKET = "songsight-test"
ANSWER_S = 60.0
STOP_S = 10.0
# Swift runs on Debian's own Python and its modules: nothing of this process's environment may reach it.
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
KINDS = ("account", "container", "object")
# A ring says which disk holds what: here 2^4 parts, one copy of each, no wait between changes, and one disk.
# swift-ring-builder would make the same by nine commands that start Python each time.
RINGS = """
import sys
from swift.common.ring import RingBuilder
for word in sys.argv[1:]:
    kind, port = word.split("=")
    ring = RingBuilder(4, 1, 1)
    at = {"ip": "127.0.0.1", "port": int(port), "replication_ip": "127.0.0.1", "replication_port": int(port)}
    ring.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1.0, "device": "d1", "meta": "", **at})
    ring.rebalance()
    ring.get_ring().save(kind + ".ring.gz")
"""


@dataclass(frozen=True)
class Store:
    """A running store.

    Attributes:
        endpoint: its URL.
        environment: the AWS_* variables with which any S3 client finds it.
        bucket: URL of a bucket that is there.
    """

    endpoint: str
    environment: dict[str, str]
    bucket: str


def lacking(folder: Path) -> str:
    """What keeps the store from running on this machine, and what mends it; empty where nothing does."""
    programs = [f"swift-{kind}-server" for kind in ("proxy", *KINDS)] + ["memcached", "setpriv"]
    absent = [program for program in programs if shutil.which(program, path=ENVIRONMENT["PATH"]) is None]
    if absent:
        return (
            f"needs an S3 store, and {absent[0]} is not installed: apt-get install --no-install-recommends {PACKAGES}"
        )
    probe = folder / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.swift", b"1")
    except (OSError, AttributeError) as error:
        return f"needs an S3 store, which keeps extended attributes, and {folder} has none ({error}): set TMPDIR"
    finally:
        probe.unlink()
    return ""


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Store]:
    """Starts the store, makes its bucket, and stops it behind the block.

    Args:
        folder: an empty one, for settings, logs and data.

    Raises:
        RuntimeError: it does not answer; the message ends with the logs' last lines.
    """
    ports = dict(zip(("proxy", "memcached", *KINDS), _free_ports(2 + len(KINDS)), strict=True))
    commands = _settle(folder, ports)
    endpoint = f"http://127.0.0.1:{ports['proxy']}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "songsight:tester",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED",  # it answers 501 to uploads in signed chunks
    }
    children: list[subprocess.Popen[bytes]] = []
    try:
        for name, command in commands.items():
            with open(folder / f"{name}.log", "wb") as log:
                # They end with this process, whichever way it ends.
                words = ["setpriv", "--pdeathsig", "TERM", *command]
                children.append(subprocess.Popen(words, env=ENVIRONMENT, cwd=folder, stdout=log, stderr=log))
        _make_bucket(environment, folder)
        yield Store(endpoint, environment, f"s3://{BUCKET}")
    finally:
        for child in children:
            child.terminate()
        for child in children:
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _free_ports(count: int) -> list[int]:
    """Ports that nothing listens on; all are held until the last is found, so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _settle(folder: Path, ports: dict[str, int]) -> dict[str, list[str]]:
    """Writes the settings and the rings; returns each server's command."""
    (folder / "data" / "d1").mkdir(parents=True)
    words = ["/usr/bin/python3", "-c", RINGS, *(f"{kind}={ports[kind]}" for kind in KINDS)]
    subprocess.run(words, env=ENVIRONMENT, cwd=folder, check=True)
    user = getpass.getuser()
    secret = "[swift-hash]\nswift_hash_path_prefix = songsight\nswift_hash_path_suffix = songsight\n"
    (folder / "swift.conf").write_text(secret + "[storage-policy:0]\nname = one\ndefault = yes\n")
    commands = {"memcached": ["memcached", "-u", user, "-l", "127.0.0.1", "-p", str(ports["memcached"])]}
    # No workers: each server is then one process.
    common = f"bind_ip = 127.0.0.1\nuser = {user}\nswift_dir = {folder}\nworkers = 0\n"
    for kind in KINDS:
        (folder / f"{kind}-server.conf").write_text(
            f"[DEFAULT]\nbind_port = {ports[kind]}\n{common}devices = {folder / 'data'}\nmount_check = false\n"
            f"[pipeline:main]\npipeline = {kind}-server\n[app:{kind}-server]\nuse = egg:swift#{kind}\n"
        )
    (folder / "proxy-server.conf").write_text(
        f"[DEFAULT]\nbind_port = {ports['proxy']}\n{common}"
        "[pipeline:main]\npipeline = catch_errors proxy-logging cache s3api tempauth slo proxy-server\n"
        "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\nallow_account_management = true\n"
        "[filter:catch_errors]\nuse = egg:swift#catch_errors\n"
        # It gives answers their Content-Length: without it a HEAD for what is missing ends in a chunk, against HTTP.
        "[filter:proxy-logging]\nuse = egg:swift#proxy_logging\n"
        f"[filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = 127.0.0.1:{ports['memcached']}\n"
        "[filter:s3api]\nuse = egg:swift#s3api\ns3_acl = false\nlocation = us-east-1\n"
        "[filter:tempauth]\nuse = egg:swift#tempauth\nuser_songsight_tester = testing .admin\n"
        "[filter:slo]\nuse = egg:swift#slo\n"  # what an upload in parts becomes
    )
    return commands | {
        name: [f"swift-{name}-server", str(folder / f"{name}-server.conf")] for name in (*KINDS, "proxy")
    }


def _make_bucket(environment: dict[str, str], folder: Path) -> None:
    """Asks for the bucket until all servers are there to make it."""
    client = botocore.session.Session().create_client(
        "s3",
        region_name=environment["AWS_DEFAULT_REGION"],
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=botocore.config.Config(retries={"total_max_attempts": 1}),
    )
    end = time.monotonic() + ANSWER_S
    while True:
        try:
            client.create_bucket(Bucket=BUCKET)
            return
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            if time.monotonic() > end:
                logs = "".join(f"\n{log.name}: {log.read_text()[-500:]}" for log in sorted(folder.glob("*.log")))
                raise RuntimeError(f"the S3 store does not answer: {error}{logs}") from None
            time.sleep(0.2)
