import numpy as np

from imclass.evaluation.report.tables import describe_sizes


def test_median_of_sizes_is_that_of_the_pictures() -> None:
    sizes = np.array([[9, 400, 1], [10, 10, 2], [50, 80, 9], [200, 100, 3]])
    found = describe_sizes(sizes)
    assert found["ends"] == [(10, 10), (50, 80), (200, 100)]
    assert found["shapes"] == {"wide": 3, "high": 10, "square": 2}
