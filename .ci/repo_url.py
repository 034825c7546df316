r"""Writes the repository's address from pyproject.toml into every file that shows it.

python .ci/repo_url.py [--check]

The address stands once, as REPO_URL under [tool.monojax]. To move the project, change it there
and run this; --check only reports files that disagree (a test runs it).
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = {
    "pyproject.toml": [r'(?<=^Repository = ")[^"]*'],
    "README.md": [r"(?<=git clone )\S+", r"(?<=url = \{)[^}]*", r"(?<=<!-- repo -->)[^<\s]*"],
    "BUILD.md": [r"(?<=git clone )\S+"],
    "docs/index.md": [r"(?<=git clone )\S+"],
    "CITATION.cff": [r'(?<=^repository-code: ")[^"]*'],
}
NOTEBOOK = [r'(?<=REPO_URL = \\")[^\\"]*']


def main(check: bool) -> int:
    """Returns the number of files that disagreed."""
    url = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["monojax"]["REPO_URL"]
    files = {ROOT / name: patterns for name, patterns in PATTERNS.items()}
    files |= dict.fromkeys(sorted((ROOT / "colab").glob("*.ipynb")), NOTEBOOK)
    changed = 0
    for path, patterns in files.items():
        old = new = path.read_text(encoding="utf-8")
        for pattern in patterns:
            new = re.sub(pattern, url, new, flags=re.M)
        if not any(re.search(pattern, old, re.M) for pattern in patterns):
            print(f"{path.name} shows no address")
            changed += 1
        if new != old:
            changed += 1
            print(f"{path.name} {'shows another address' if check else 'rewritten'}")
            if not check:
                path.write_text(new, encoding="utf-8")
    return changed


if __name__ == "__main__":
    only_check = "--check" in sys.argv[1:]
    wrong = main(only_check)
    sys.exit(1 if only_check and wrong else 0)
