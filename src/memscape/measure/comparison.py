"""x."""
import json
from pathlib import Path
from memscape import tables
def config_of(name):
    path = Path(name)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        path = tables.folder() / "models" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))
