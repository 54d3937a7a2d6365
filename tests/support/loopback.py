"""Whether every socket of these processes listens on loopback only."""

from __future__ import annotations

import psutil

from bench.executors import cluster


def assert_on_loopback(one: psutil.Process) -> None:
    """No process of this tree may listen on another address than loopback's."""
    processes = [one, *one.children(recursive=True)]
    found = [c.laddr.ip for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(found) > 3
    assert {ip.removeprefix("::ffff:") for ip in found} == {cluster.LOOPBACK}
