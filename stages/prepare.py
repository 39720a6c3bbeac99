"""source of images -> annotations.csv: image,label,split,group,sha256,check; and what was found in names and table."""

import hashlib
import sys
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout's library, also in `dvc exp run --temp`

from imclass.data.annotations import label_images, write_annotations
from imclass.data.findings import DataError, enforce_policy, find_left_out, write_findings
from imclass.data.source import read_files
from imclass.data.split import assign_splits, check_splits, count_splits, find_shared_groups
from imclass.errors import InputError
from imclass.params import Params
from imclass.stage import run


def prepare(params: Params, source: Path, annotations: Path, findings: Path) -> dict[str, object]:
    policy = params.checks.policy.model_dump()
    try:
        table, found = label_images(source)
        files = tqdm(read_files(source, table.image), "hash", len(table), unit="img", disable=None)
        sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in files}
    except DataError as error:
        write_findings(findings, error.findings, {found.kind: "fail" for found in error.findings})
        raise InputError(f"{error}\n(all are in {findings})") from None
    table["sha256"] = table.image.map(sha256)
    table["split"] = assign_splits(
        table,
        seed=params.data.split_seed,
        val_fraction=params.data.val_fraction,
        test_fraction=params.data.test_fraction,
    )
    found += find_shared_groups(table)
    write_findings(findings, found, policy)
    enforce_policy(found, policy, findings)
    table = table[~table.image.isin(find_left_out(found, policy))]
    check_splits(table)
    write_annotations(table, annotations)
    counts = count_splits(table)
    print(f"{len(table)} images of {len(counts)} classes", counts.to_string(), sep="\n")
    return {"images": len(table)}


if __name__ == "__main__":
    run(prepare)
