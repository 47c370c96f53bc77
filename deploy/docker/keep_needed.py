"""Print the installed distributions that a package does not need, one per line. Used while an image is built."""  # noqa: INP001 - a script, not a package

from __future__ import annotations

import sys
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed(package: str, option: str = "") -> set[str]:
    """Canonical names of what `package` needs, with an extra if it has that, itself included, by the metadata of what is installed."""
    if package == "wireroom":
        start = [Requirement(f"wireroom[{option}]")]
    else:
        # The launcher requires every role; an image of one role has the launcher and that role only.
        launcher = [Requirement(text) for text in metadata.requires("wireroom") or []]
        start = [requirement for requirement in launcher if not requirement.name.startswith("wireroom-")]
        start += [Requirement("wireroom-common"), Requirement(f"wireroom-{package}[{option}]")]
    found: set[str] = {"wireroom"}
    waiting = [(requirement.name, frozenset(requirement.extras)) for requirement in start]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (canonicalize_name(name), extras) in seen:
            continue
        seen.add((canonicalize_name(name), extras))
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            # The lock leaves out what an override in pyproject.toml has removed.
            continue
        found.add(canonicalize_name(name))
        for text in requires:
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append((requirement.name, frozenset(requirement.extras)))
    return found


def main(package: str, option: str = "") -> None:
    """Print what may go; fail if the package itself is not installed."""
    keep = needed(package, option)
    target = "wireroom" if package == "wireroom" else f"wireroom-{package}"
    if target not in keep:
        raise SystemExit(f"{target} is not installed")
    installed = {canonicalize_name(distribution.name) for distribution in metadata.distributions()}
    for name in sorted(installed - keep):
        sys.stdout.write(f"{name}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
