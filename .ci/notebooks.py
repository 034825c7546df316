"""Says which notebooks hold outputs; `--clear` takes them out.

python .ci/notebooks.py [--clear] [FILE ...]

Without files it looks at all of colab/. Exit status 1 if a notebook held outputs.
"""

import json
import sys
from pathlib import Path

COLAB = Path(__file__).resolve().parents[1] / "colab"


def main(arguments: list[str]) -> int:
    """Returns the number of notebooks that held outputs."""
    clear = "--clear" in arguments
    files = [Path(name) for name in arguments if name != "--clear"] or sorted(COLAB.glob("*.ipynb"))
    found = 0
    for path in files:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        full = [cell for cell in cells if cell["outputs"] or cell["execution_count"] is not None]
        if not full:
            continue
        found += 1
        print(f"{path}: {len(full)} cells with outputs{', cleared' if clear else ''}")
        if clear:
            for cell in full:
                cell["outputs"], cell["execution_count"] = [], None
            path.write_text(
                json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
    return found


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
