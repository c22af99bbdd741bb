"""A cell that takes no training: it notes its start and end in a common file and prints a JSON object.

It keeps its progress in its run folder, as a training keeps its checkpoint, and saves it on SIGTERM.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

run, seed, work, fate, log = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4], Path(sys.argv[5])


def note(event: str) -> None:
    with open(log, "a") as handle:
        handle.write(json.dumps({"seed": seed, "event": event, "time": time.time(), "pid": os.getpid()}) + "\n")


def save(number: int, frame: object) -> None:
    (run / "progress").write_text(str(done))
    note("saved")
    sys.exit(128 + number)


done = 0.0
run.mkdir(parents=True, exist_ok=True)
(run / "config.yaml").write_text("task: fake\n")
if (run / "progress").is_file():
    done = float((run / "progress").read_text())
signal.signal(signal.SIGTERM, signal.SIG_IGN if fate == "stubborn" else save)
note("started")
if fate == "fails" and not (log.parent / "mended").is_file():
    sys.stderr.write("Traceback ...\nError: The loss is not finite.\nStart again with a lower rate.\n")
    sys.exit(1)
if fate == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
while done < work:
    time.sleep(0.02)
    done += 0.02
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is finished is to be told, too
note("finished")
print("a line of talk")
if fate != "silent":
    psnr = 20 + seed
    threads = os.environ["OMP_NUM_THREADS"]
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    print(json.dumps({"test": {"all": {"psnr": psnr, "n": 3}}, "steps": 5, "threads": threads, "devices": devices}))
