"""What the studies share: the program's JSON documents, and settings as configuration files."""

import json
import subprocess
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[2] / "docs/results"


def run(magcache, *args):
    """The JSON document of a command, or its message."""
    done = subprocess.run([magcache, *map(str, args), "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        return None, f"{done.stdout} {done.stderr}".strip()
    return json.loads(done.stdout), None


def toml_of(tables):
    """The `[[cache]]` tables of a setting as a configuration file."""

    def value(own):
        if isinstance(own, dict):
            return "{ " + ", ".join(f"{key} = {value(item)}" for key, item in own.items()) + " }"
        return json.dumps(own)

    rows = ["[[cache]]\n" + "".join(f"{key} = {value(own)}\n" for key, own in table.items()) for table in tables]
    return "\n".join(rows)
