"""One pass of imclass's reading and decoding over a source -> its seconds, printed.

build.py runs it as a program of its own with the imports of stages/build.py, since each worker imports the main script
again: python benchmarks/decode_pass.py SOURCE HASHES_JSON FIT WORKERS
"""

import json
import sys
import time
from pathlib import Path

from tqdm import tqdm

from imclass.data.annotations import read_annotations  # noqa: F401
from imclass.data.decode import decode_files
from imclass.data.packed import write_packed  # noqa: F401
from imclass.data.source import read_files
from imclass.params import FitParams
from imclass.stage import run  # noqa: F401

if __name__ == "__main__":
    source, hashes, fit, workers = sys.argv[1:]
    sha256 = json.loads(Path(hashes).read_text())
    to = FitParams.model_validate_json(fit)
    start = time.perf_counter()
    files = tqdm(read_files(Path(source), sha256), "decode", len(sha256), unit="img", disable=None)
    for _ in decode_files(files, sha256, to, workers=int(workers)):
        pass
    print(time.perf_counter() - start)
