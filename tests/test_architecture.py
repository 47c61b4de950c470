"""Who may import whom, and that the library stands without the apps."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hrda_core"
GROUND = {
    *("allocator", "whole_file", "presets"),
    *("config", "config_adaptation", "config_auto", "config_checks", "config_data", "config_yaml"),
}
MAY_IMPORT = {
    "allocator": set[str](),
    "whole_file": set[str](),
    "models": {"whole_file"},
    "data": {"config", "config_data", "whole_file"},
    "evaluation": {"config", "data", "whole_file"},
    "inference": {"config", "data", "evaluation", "models", "whole_file"},
    "adaptation": {"config", "data", "models"},
    "training": {*GROUND, "adaptation", "data", "evaluation", "inference", "models"},
    "config": {"config_adaptation", "config_auto", "config_checks", "config_data", "config_yaml"},
    "config_auto": {"config_adaptation", "config_checks"},
    "config_adaptation": {"config_checks"},
    "config_data": {"config_checks"},
    "config_checks": set[str](),
    "config_yaml": set[str](),
    "presets": {"config", "config_data"},
}
APPS = ("supervisely", "fastapi", "uvicorn", "train_app", "serve_app", "sdk_fixes")


def imports_of(file: Path) -> set[str]:
    """Every module that a file imports, also inside functions, as absolute dotted names."""
    package = [*file.relative_to(ROOT).parent.parts]
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def part_of(module: str) -> str | None:
    """`hrda_core.models.hrda` -> `models`."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "hrda_core" else None


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_direction_of_imports(part: str) -> None:
    files = [PACKAGE / f"{part}.py"] if part in GROUND else sorted((PACKAGE / part).rglob("*.py"))
    assert files
    allowed = MAY_IMPORT[part] | {part}
    wrong = [
        f"{f.name}: {m}" for f in files for m in sorted(imports_of(f)) if (to := part_of(m)) is not None and to not in allowed
    ]
    assert wrong == []


def test_every_part_has_a_rule() -> None:
    parts = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert parts == set(MAY_IMPORT) - GROUND


def test_only_the_command_line_and_the_public_names_stand_above() -> None:
    above = {"__init__", "__main__", "demo"}
    assert {path.stem for path in PACKAGE.glob("*.py")} == GROUND | above
    used = [
        f"{f.name}: {m}"
        for part in MAY_IMPORT
        for f in (PACKAGE / part).rglob("*.py")
        for m in imports_of(f)
        if part_of(m) in above
    ]
    assert used == []


def test_no_file_imports_the_platform() -> None:
    wrong = [f"{f.name}: {m}" for f in PACKAGE.rglob("*.py") for m in imports_of(f) if m.partition(".")[0] in APPS]
    assert wrong == []


def test_the_checks_above_see_every_kind_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / "hrda_core" / "data" / "x.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import a.b as c\nfrom ..models import hrda\nfrom . import y\ndef f():\n    from hrda_core.training.loop import train\n"
    )
    assert imports_of(file) == {"a.b", "hrda_core.models.hrda", "hrda_core.data.y", "hrda_core.training.loop.train"}
    assert [part_of(m) for m in sorted(imports_of(file))] == [None, "data", "models", "training"]


def test_the_library_loads_where_the_platform_cannot_be_imported() -> None:
    code = f"""
import sys
for name in {APPS!r}:
    sys.modules[name] = None  # any import of it now raises ImportError
import importlib, pkgutil, hrda_core
for module in pkgutil.walk_packages(hrda_core.__path__, "hrda_core."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert hrda_core.build_model and hrda_core.train and hrda_core.Predictor
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr


def test_importing_the_library_brings_no_server_with_it() -> None:
    code = f"import sys, hrda_core; print([name for name in {APPS!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.strip() == "[]"
