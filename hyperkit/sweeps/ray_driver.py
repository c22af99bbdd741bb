"""Speaks with a Ray cluster, in a process of its own: ``python -m hyperkit.sweeps.ray_driver OPTIONS``.

Ray prints to the standard output, takes over signals and ends the process that it lives in when its head node dies.
So the engine keeps it out of its own process, and orders by lines of JSON: ``{"run": folder, "threads": n}`` or
``{"drop": folder}`` on the standard input, whose end says stop. The answers on the standard output are
``{"ended": folder, "code": n}``, ``{"lost": folder, "why": text}`` and ``{"error": what, "hint": hint}``.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import socket
import sys
import threading
import time
from typing import Any

from hyperkit._version import __version__
from hyperkit.data.workers import available_cores
from hyperkit.errors import HyperkitError
from hyperkit.sweeps.ray_cell import run_on_node

STOP_SECONDS = 75.0
"""What cells get to save their state and end: more than the worker's own grace."""

_WAIT_SECONDS = 0.1
_LOOK_SECONDS = 5.0
_NODES_PATIENCE = 60.0
"""So long may a cluster be without any node that is large enough, once cells have run."""

_STORE_BYTES = 80 * 2**20  # results go to files; Ray's own store of objects is nearly empty

Message = dict[str, Any]


class Driver:
    """Runs cells as tasks of a cluster that is connected.

    Args:
        ray: the module.
        devices: GPUs of each cell; None: one where the cluster has any.
        tell: takes the answers.
    """

    def __init__(self, ray: Any, devices: int | None, tell: Any) -> None:
        self.ray, self.tell = ray, tell
        if devices is None:
            devices = int(any(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]))
        self.devices = devices
        self._tasks: dict[Any, Message] = {}
        self._patience = 0.0
        self._unfit_since: float | None = None
        self._next_look = 0.0
        environment = {name: value for name, value in os.environ.items() if name.startswith("HYPERKIT_")}
        if self.devices == 0:
            environment["CUDA_VISIBLE_DEVICES"] = ""  # what a cell does not ask for it must not use
        self._arguments = (__version__, os.getcwd(), environment)
        self._remote = ray.remote(run_on_node)

    def serve(self, orders: queue.SimpleQueue[Message | None]) -> None:
        """Carry out orders until there are no more, which stops the cells.

        Raises:
            HyperkitError: the cluster cannot run these cells.
        """
        try:
            while True:
                if (order := _next(orders)) is None:
                    return
                if "run" in order:
                    self._run(order)
                elif "drop" in order:
                    self._drop(order["drop"])
                self._collect()
                self._look()
        finally:
            self._stop()

    def _run(self, order: Message) -> None:
        self._check(order)
        self._patience = _NODES_PATIENCE
        task = self._remote.options(
            num_cpus=order["threads"],
            num_gpus=self.devices,
            max_retries=0,  # the engine counts, and looks first whether somebody else has the cell
            scheduling_strategy="SPREAD",
            name=os.path.basename(order["run"]),
        )
        self._tasks[task.remote(order["run"], *self._arguments)] = order

    def _drop(self, folder: str) -> None:
        for task in [task for task, order in self._tasks.items() if order["run"] == folder]:
            del self._tasks[task]
            self.ray.cancel(task, force=True)

    def _collect(self) -> None:
        if not self._tasks:
            return
        ready, _ = self.ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        for task in ready:
            folder = self._tasks.pop(task)["run"]
            try:
                code, why = self.ray.get(task)
            except self.ray.exceptions.RayTaskError as error:  # our own code does not raise: it was not found there
                raise HyperkitError(
                    f"A node of the cluster cannot run cells: {str(error).strip().splitlines()[-1]}",
                    "Every node needs the same hyperkit, in the Python that Ray runs there.",
                ) from error
            except self.ray.exceptions.RayError as error:
                self.tell({"lost": folder, "why": str(error).strip().splitlines()[0]})
                continue
            if code == -1:
                hint = "Every node needs the same hyperkit, and the sweep's folder under the same path: give --out on"
                raise HyperkitError(why, f"{hint} shared storage.")
            self.tell({"ended": folder, "code": code})

    def _look(self) -> None:
        if self._tasks and time.monotonic() > self._next_look:
            self._next_look = time.monotonic() + _LOOK_SECONDS
            self._check(max(self._tasks.values(), key=lambda order: int(order["threads"])))

    def _check(self, order: Message) -> None:
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        threads, devices = order["threads"], self.devices
        if any(node.get("CPU", 0) >= threads and node.get("GPU", 0) >= devices for node in nodes):
            self._unfit_since = None
            return
        self._unfit_since = self._unfit_since or time.monotonic()
        if time.monotonic() - self._unfit_since >= self._patience:
            there = ", ".join(f"{n.get('CPU', 0):g} CPUs and {n.get('GPU', 0):g} GPUs" for n in nodes) or "no node"
            raise HyperkitError(
                f"No node of the cluster can take a cell of {threads} CPUs and {devices} GPUs; it has {there}.",
                "Add a node, or give a cell less: --threads, --devices-per-cell.",
            )

    def _stop(self) -> None:
        for task in self._tasks:
            self.ray.cancel(task)
        if self._tasks:
            self.ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=STOP_SECONDS)


def _next(orders: queue.SimpleQueue[Message | None]) -> Message | None:
    try:
        return orders.get(timeout=_WAIT_SECONDS)
    except queue.Empty:
        return {}


def connect(address: str | None) -> Any:
    """Join the cluster at ``address``, or start one of this machine for None, and return Ray.

    Raises:
        HyperkitError: there is no cluster at the address, or it speaks another version.
    """
    hint = "Start one with 'ray start --head', or leave --ray-address and RAY_ADDRESS out for one of this machine."
    if address is not None and ":" in address:
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, ValueError) as error:  # Ray itself would try for a minute
            raise HyperkitError(f"There is no Ray cluster at {address}: {error}.", hint) from error
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_worker_niceness", "0")  # of a cluster of our own: Ray's 15 would slow cells down
    ray = importlib.import_module("ray")
    options: dict[str, Any] = {"address": address or "local", "log_to_driver": False, "logging_level": "WARNING"}
    if options["address"] == "local":
        options |= {"num_cpus": available_cores(), "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        where = "The Ray cluster of this machine could not be started" if address is None else f"No Ray at {address}"
        raise HyperkitError(f"{where}: {str(error).strip().splitlines()[0]}", hint) from error
    return ray


def _read_orders(orders: queue.SimpleQueue[Message | None]) -> None:
    for line in sys.stdin:
        orders.put(json.loads(line))
    orders.put(None)


def main(arguments: list[str]) -> int:
    """Serve an engine. The options, as JSON: "address" and "devices"."""
    options = json.loads(arguments[0])
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what Ray and its processes print is not for the engine
    orders: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read_orders, args=(orders,), daemon=True)
    reader.start()

    def tell(message: Message) -> None:
        answers.write(json.dumps(message) + "\n")

    ray = None
    try:
        ray = connect(options["address"])
        Driver(ray, options["devices"], tell).serve(orders)
    except HyperkitError as error:
        tell({"error": error.what, "hint": error.hint})
    except BrokenPipeError:  # the engine was killed; its cells have been stopped
        return 1
    finally:
        if ray is not None:
            ray.shutdown()
    reader.join()  # the engine closes its end
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
