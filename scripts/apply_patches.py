"""Applies the patches in patches/ to the installed packages; --revert takes them out, --check only looks.

Every patch is a unified diff of one file below site-packages, with a header that says for which package and version it
is. Nothing is changed unless everything fits: the versions, and every line of context. Applying twice does no harm.
The packages are not imported: SecretFlow cannot be before it is mended.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import Distribution, MetadataPathFinder, PathDistribution
from pathlib import Path

PATCHES = Path(__file__).parents[1] / "patches"


class PatchError(Exception):
    """A patch and an installed package do not fit; one line."""


@dataclass(frozen=True)
class Patch:
    """A unified diff of one file.

    Attributes:
        name: of the patch's own file.
        package, version: what it is for.
        path: of the file, below site-packages.
        hunks: old and new text of each changed place, with its context.
    """

    name: str
    package: str
    version: str
    path: str
    hunks: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, path: Path) -> Patch:
        """Parse a file of patches/."""
        header, _, diff = path.read_text(encoding="utf-8").partition("\n--- ")
        fields = dict(re.findall(r"^(\w+): (.+)$", header, re.MULTILINE))
        target = re.search(r"^\+\+\+ b/(\S+)", diff, re.MULTILINE)
        if target is None or not {"Package", "Version", "What", "Why", "Upstream"} <= fields.keys():
            raise PatchError(f"{path} is no patch: a header or a file's name is missing")
        hunks = []
        for hunk in re.split(r"^@@ .*\n", diff, flags=re.MULTILINE)[1:]:
            lines = hunk.splitlines(keepends=True)
            old, new = ("".join(line[1:] for line in lines if line[0] != sign) for sign in "+-")
            hunks.append((old, new))
        return cls(path.name, fields["Package"], fields["Version"], target.group(1), tuple(hunks))

    def changed(self, text: str, *, revert: bool) -> str | None:
        """The file's text after the patch, or before it; None if it is like that already.

        Raises: PatchError if it is neither.
        """
        before, after = (1, 0) if revert else (0, 1)
        if all(text.count(hunk[after]) == 1 for hunk in self.hunks) and not self._fits(text, before, after):
            return None
        for hunk in self.hunks:
            if text.count(hunk[before]) != 1:
                raise PatchError(
                    f"{self.path} is neither as {self.package} {self.version} has it nor as {self.name} does"
                )
            text = text.replace(hunk[before], hunk[after])
        return text

    def _fits(self, text: str, before: int, after: int) -> bool:
        """Whether all places are as before the change; the text before may be a part of that after."""
        return all(text.replace(hunk[after], "").count(hunk[before]) == 1 for hunk in self.hunks)


def run(site_packages: Path, *, revert: bool = False, check: bool = False) -> list[str]:
    """Apply, revert or check all patches; returns a line on each.

    Raises: PatchError before anything is changed; with `check`, also for a patch that is not applied.
    """
    lines, changes = [], []
    for patch in (Patch.read(path) for path in sorted(PATCHES.glob("*.patch"))):
        found = _version(patch.package, site_packages)
        if found is None:
            lines.append(f"{patch.name}: skipped, {patch.package} is not installed")
            continue
        if found != patch.version:
            raise PatchError(f"{patch.name} is for {patch.package} {patch.version}, but {found} is installed")
        path = site_packages / patch.path
        changed = patch.changed(path.read_text(encoding="utf-8"), revert=revert)
        if check and changed is not None:
            raise PatchError(f"{patch.name} is not applied: run python scripts/apply_patches.py")
        if changed is not None:
            changes.append((path, changed))
        state = "reverted" if revert else "applied"
        lines.append(f"{patch.name}: {'already ' if changed is None else ''}{state}")
    for path, text in changes:
        _write(path, text)
    return lines


def _version(package: str, site_packages: Path) -> str | None:
    context = MetadataPathFinder.Context(name=package, path=[str(site_packages)])
    found: Distribution | None = next(iter(MetadataPathFinder.find_distributions(context)), None)
    return found.version if isinstance(found, PathDistribution) else None


def _write(path: Path, text: str) -> None:
    """Replace a file; another one that shares its content, such as an installer's cache, stays as it is."""
    temporary = path.with_name(f"{path.name}.patching")
    temporary.write_text(text, encoding="utf-8")
    shutil.copymode(path, temporary)
    temporary.replace(path)


def main() -> int:
    """Exit 0, or 2 with one line if something does not fit, 1 if --check finds a patch missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--revert", action="store_true", help="take the patches out")
    action.add_argument("--check", action="store_true", help="only say whether they are applied")
    arguments = parser.parse_args()
    try:
        lines = run(Path(sysconfig.get_path("platlib")), revert=arguments.revert, check=arguments.check)
    except PatchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if arguments.check else 2
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
