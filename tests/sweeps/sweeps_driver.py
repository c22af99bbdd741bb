"""Makes or opens a sweep of fake cells and runs it, in a process that can be killed; JOBS may be "ray"."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hyperkit.sweeps.cell import Cell
from hyperkit.sweeps.local import LocalEngine
from hyperkit.sweeps.ray_engine import RayEngine
from hyperkit.sweeps.store import SweepDirectory

FAKE = Path(__file__).parent / "sweeps_fake.py"


def fake_sweep(
    root: Path, count: int, work: float = 0.0, fates: Sequence[str] = (), threads: int = 1
) -> SweepDirectory:
    def command(cell: Cell) -> list[str]:
        seed = int(cell.overrides["training"]["seed"])
        fate = fates[seed] if seed < len(fates) else "ends well"
        return ["{python}", "-S", str(FAKE), "{run}", str(seed), str(work), fate, str(root.parent / "log.jsonl")]

    common = Cell("fake", "none", {"training": {"threads": threads}}, {"backbone": "fake"})
    return SweepDirectory.create(root, [common.with_seed(seed) for seed in range(count)], command=command)


if __name__ == "__main__":
    made = fake_sweep(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    if sys.argv[4] == "ray":
        RayEngine(made, poll=0.1).run()
    else:
        LocalEngine(made, jobs=int(sys.argv[4])).run()
