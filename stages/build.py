"""source + annotations.csv -> packed set: uint8 arrays that training maps into memory; and all that was found."""

import os
import sys
from collections.abc import Collection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout's library, also in `dvc exp run --temp`

from imclass.data.annotations import read_annotations
from imclass.data.decode import decode_files, show_progress
from imclass.data.findings import enforce_policy, find_left_out, read_findings, write_counts, write_findings
from imclass.data.inspection import Inspection
from imclass.data.packed import write_packed
from imclass.data.shards import Images
from imclass.data.sizes import write_sizes
from imclass.data.source import read_files
from imclass.data.split import check_splits, count_splits
from imclass.params import Params
from imclass.stage import run


def build(
    params: Params,
    source: Path,
    annotations: Path,
    found_before: Path,
    packed: Path,
    findings: Path,
    sizes: Path,
    counts: Path,
) -> dict[str, object]:
    table = read_annotations(annotations)
    earlier, _ = read_findings(found_before)
    decoded = decode_files(
        read_files(source, table.image),
        dict(zip(table.image, table.sha256, strict=True)),
        params.build,
        workers=params.workers,
        smallest_side=params.checks.smallest_side,
        keeps=params.build.store == "encoded",
        quality=params.build.quality,
        cluster=os.environ.get("DASK_SCHEDULER_ADDRESS"),  # Dask's own name
    )
    policy = params.checks.policy.model_dump()
    inspection = Inspection(table, policy)

    def choose_left_out(images: Images) -> Collection[str]:
        inspection.finish(images, images_per_class=params.checks.images_per_class)
        found = [*earlier, *inspection.findings]
        write_findings(findings, found, policy)
        write_counts(counts, found, policy, count_splits(inspection.kept, inspection.classes).T.to_dict())
        enforce_policy(inspection.findings, policy, findings)
        check_splits(inspection.kept, inspection.classes)
        write_sizes(sizes, inspection.sizes)
        return find_left_out(inspection.findings, policy)

    rows = list(table[["image", "label", "split"]].itertuples(index=False, name=None))
    packed_images = write_packed(
        packed,
        rows,
        inspection.watch(show_progress(decoded, len(table))),
        params.build.describe_fit(),
        choose_left_out,
        store=params.build.store,
    )
    return {"images": packed_images}


if __name__ == "__main__":
    run(build)
