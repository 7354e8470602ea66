"""The steps from a folder of videos to a small classifier, one file each, in the order the data flows."""

import importlib.util
import os
import sys

_PACKAGES = ("av", "cv2", "matplotlib", "optuna", "pyarrow", "ray", "rich", "scipy")

if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
    _text = f"the commands of ttrnn need further packages ({', '.join(missing)}): pip install 'ttrnn[pipelines]'"
    if os.path.basename(sys.argv[0]) in ("-m", "ttrnn"):
        sys.stderr.write(f"error: {_text}\n")
        sys.exit(2)
    raise ImportError(_text)
