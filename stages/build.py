"""source of images + annotations.csv -> packed set: uint8 arrays that training maps into memory."""

import sys
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout's library, also in `dvc exp run --temp`

from imclass.data.annotations import read_annotations
from imclass.data.decode import decode_files
from imclass.data.packed import write_packed
from imclass.data.source import read_files
from imclass.params import Params
from imclass.stage import run


def build(params: Params, source: Path, annotations: Path, packed: Path) -> dict[str, object]:
    table = read_annotations(annotations)
    files = tqdm(read_files(source, table.image), "decode", len(table), unit="img", disable=None)
    sha256 = dict(zip(table.image, table.sha256, strict=True))
    decoded = decode_files(files, sha256, params.build, workers=params.workers)
    rows = list(table[["image", "label", "split"]].itertuples(index=False, name=None))
    write_packed(packed, rows, decoded, params.build.model_dump())
    return {"images": len(table)}


if __name__ == "__main__":
    run(build)
