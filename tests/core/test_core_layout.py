"""The package keeps to its own rules: imports point up, files and functions stay small, the front page is true."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "hyperkit"
ROWS = [
    {"_version", "errors", "files", "registry", "randomness", "config", "contracts"},
    {"geometry"},
    {"kernels"},
    {"data"},
    {"backbones"},
    {"targets"},
    {"hypernets"},
    {"renderers"},
    {"models"},
    {"objectives"},
    {"adapt"},
    {"metrics"},
    {"reports"},
    {"tasks"},
    {"training"},
    {"sweeps"},
    {"recipes"},
    {"workflows"},
    {"bench"},
    {"cli"},
    {"__init__", "__main__"},
]
"""Modules and packages, from those that know least to those that know most; a row imports itself and those above."""

LEVEL = {name: level for level, names in enumerate(ROWS) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("hyperkit.") and name.count(".")}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_come_from_rows_above(path: Path) -> None:
    own = LEVEL[part_of(path)]
    wrong = {name for name in imports_of(path) if name in LEVEL and LEVEL[name] > own}
    assert not wrong


def test_the_check_of_imports_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("from hyperkit.training.loop import fit\nimport hyperkit.cli\nfrom hyperkit import reports\n")
    assert imports_of(bad) == {"training", "cli", "reports"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    limit = 120 if "kernels" in path.parts else 60
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and part_of(path) != "cli":  # a command is mostly its options
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < limit, f"{node.name} has {node.end_lineno - node.lineno + 1} lines"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_things_say_what_they_are(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


def test_ci_calls_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text()
    command = re.search(r"python3 -m venv \.venv && .*pytest", readme)
    assert command
    assert command.group() in (ROOT / ".ci" / "run").read_text()
