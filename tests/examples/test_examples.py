"""Each example runs, at debug size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["from_python.py", "from_shell.sh", "pictures_and_sounds.py"])
def test_example_runs(name: str, tmp_path: Path) -> None:
    # `hyperkit` on the path is this interpreter's, as it is after an installation
    tool = tmp_path / "bin" / "hyperkit"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hyperkit "$@"\n')
    tool.chmod(0o755)
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    path = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = ROOT / "examples" / name
    command = [sys.executable, str(script)] if script.suffix == ".py" else ["bash", str(script)]
    done = subprocess.run(
        [*command, "debug", str(tmp_path / "run")], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "PSNR" in done.stdout
    assert (tmp_path / "run" / "field.safetensors").is_file()
