"""Checks what is in .github, offline: python .ci/check_github.py

Each file by its schema, the workflows by zizmor, and that each action is pinned by a commit, with its version beside
it. Needs what .ci/requirements.txt says. Exit status 1 if anything is wrong.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GITHUB = ROOT / ".github"
FORMS = GITHUB / "ISSUE_TEMPLATE"
CHOOSER = FORMS / "config.yml"
SCHEMAS = {  # those that come with check-jsonschema
    "vendor.github-workflows": sorted((GITHUB / "workflows").glob("*.yml")),
    "vendor.dependabot": [GITHUB / "dependabot.yml"],
    "vendor.github-issue-config": [CHOOSER],
    "vendor.github-issue-forms": sorted(set(FORMS.glob("*.yml")) - {CHOOSER}),
}
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def commands() -> list[list[str]]:
    tools = Path(sys.executable).parent
    zizmor = [str(tools / "zizmor"), "--offline", "--persona", "pedantic", "--no-progress", str(GITHUB)]
    return [zizmor] + [
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
        for schema, files in SCHEMAS.items()
    ]


def unpinned() -> list[str]:
    found = []
    for path in SCHEMAS["vendor.github-workflows"]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            used = re.match(r"\s*(?:- )?uses: *(.*)", line)
            if used and not PINNED.fullmatch(used[1]):
                found.append(f"{path.relative_to(ROOT)}:{number}: not `owner/name@commit # v1.2.3`: {used[1]}")
    return found


def main() -> int:
    problems = unpinned()
    for command in commands():
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            problems.append(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    print("\n".join(problems) or f"{sum(map(len, SCHEMAS.values()))} files in .github are as they should be")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
