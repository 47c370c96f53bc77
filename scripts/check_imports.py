"""Every member declares what it imports: a workspace hides undeclared dependencies, because all members share one environment."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Imported name → distribution, where the metadata cannot tell (shared namespaces).
_SHARED = {"google": "protobuf", "opentelemetry": "opentelemetry-api"}


def check() -> list[str]:
    """One line for each import that no dependency of its member provides."""
    provided = {name: {_normal(each) for each in distributions} for name, distributions in packages_distributions().items()}
    problems = []
    for project in [ROOT / "pyproject.toml", *sorted(ROOT.glob("*/pyproject.toml")), *sorted(ROOT.glob("*/*/pyproject.toml"))]:
        settings = tomllib.loads(project.read_text())["project"]
        extras = settings.get("optional-dependencies", {}).values()
        declared = {
            _normal(re.split(r"[\s\[<>=!;~]", text)[0]) for group in (settings["dependencies"], *extras) for text in group
        }
        declared.add(_normal(settings["name"]))
        for source in sorted((project.parent / "src").rglob("*.py")):
            for name, line in _imports(source):
                distributions = {_SHARED[name]} if name in _SHARED else provided.get(name, {_normal(name)})
                if name not in sys.stdlib_module_names and not distributions & declared:
                    where = source.relative_to(ROOT)
                    problems.append(f"{where}:{line}: '{name}' is not declared in {project.relative_to(ROOT)}")
    return problems


def _imports(source: Path) -> list[tuple[str, int]]:
    found = []
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name.partition(".")[0], node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.append((node.module.partition(".")[0], node.lineno))
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    print("\n".join(check()))
