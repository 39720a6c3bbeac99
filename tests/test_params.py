import io
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from imclass.errors import InputError
from imclass.params import load_params

COMMITTED = Path(__file__).parents[1] / "params.yaml"
SAME_AS_DVC = [
    *("1e-3", "1E3", "1.e3", "1e+3", "5e-324", "1e400", "0.0", "-0.0", ".5", "+.5", "1.", "0.1e-3"),
    *("0", "-0", "+1", "010", "-010", "09", "00", "99999999999999999999"),
    *("no", "No", "yes", "on", "off", "y", "n", "true", "True", "TRUE", "tRUE", "false"),
    *("", "~", "null", "Null", "NULL", "nUll", ".nan", ".inf", "-.inf", "+.inf", "nan", "inf"),
    *("1:30", "12:30:45", "1,5", "1.2.3", "1e", "e3", "--1", "0x", "'1'", '"no"', "'010'", "a b", "é", "[1, no, 1e-3]"),
]


def write_params(folder: Path, *changes: tuple[str, str]) -> Path:
    """The committed file with some of its lines replaced."""
    text = COMMITTED.read_text("utf-8")
    for line, instead in changes:
        text, count = re.subn(rf"^( *){re.escape(line)}", rf"\g<1>{instead}", text, count=1, flags=re.MULTILINE)
        assert count == 1, line
    path = folder / "params.yaml"
    path.write_text(text, "utf-8")
    return path


def find_problems(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def read_raw(folder: Path, scalar: str) -> Any:
    """What the loader makes of a scalar, taken from the message about an unknown section of that value."""
    path = folder / "params.yaml"
    path.write_text(f"device:\n  k: {scalar}\n", "utf-8")
    (found,) = re.findall(r"^  device: .*, found \{'k': (.*)\}$", find_problems(path), re.MULTILINE)
    return found


def test_committed_params_load() -> None:
    params = load_params(COMMITTED)
    assert params.model.cnn.widths == [32, 64]
    assert params.model.mean is None
    with pytest.raises(ValueError, match="frozen"):
        params.seed = 1


@pytest.mark.parametrize("written", ["1e-3", "1E-3", "0.001", ".001", "+1.0e-3"])
def test_exponents_are_numbers(tmp_path: Path, written: str) -> None:
    assert load_params(write_params(tmp_path, ("lr: 0.05", f"lr: {written}"))).lr == 0.001


def test_whole_number_serves_where_a_fraction_may_stand(tmp_path: Path) -> None:
    assert load_params(write_params(tmp_path, ("lr: 0.05", "lr: 2"))).lr == 2.0


@pytest.mark.parametrize("scalar", SAME_AS_DVC)
def test_scalars_are_read_as_by_dvc(tmp_path: Path, scalar: str) -> None:
    expected = YAML(typ="safe").load(io.StringIO(f"k: {scalar}\n"))["k"]
    assert read_raw(tmp_path, scalar) == repr(expected)


@pytest.mark.parametrize("scalar", ["1_000", "0x10", "0o10", "0b11", "2024-01-01", "010.0.0", "no", "1:30", "'1'"])
@pytest.mark.parametrize("key", ["epochs: 24", "lr: 0.05", "model.mirror"])
def test_text_that_looks_like_a_number_is_refused_as_written(tmp_path: Path, key: str, scalar: str) -> None:
    line = key.replace("model.mirror", "mirror: false")
    message = find_problems(write_params(tmp_path, (line, f"{line.split(':')[0]}: {scalar}")))
    name = key.split(":")[0]
    assert re.search(rf"^  {name}: expected .*, found '{re.escape(scalar.strip(chr(39)))}'$", message, re.MULTILINE)


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    changes = [
        ("seed: 0", "sede: 0"),
        ("epochs: 24", "epochs: -1"),
        ("batch_size: 64", "batch_size: many"),
        ("channels: 1", "channels: 2"),
        ("- 512", "- 0"),
        ("optimizer: sgd", "optimizer: lion"),
        ("flip: false", "flip: 0"),
    ]
    message = find_problems(write_params(tmp_path, *changes))
    assert "8 problems" in message
    expected = ["augment.flip", "batch_size", "build.channels", "epochs", "model.mlp.hidden.0", "sede", "seed"]
    keys = [line.split(":")[0].strip() for line in message.splitlines()[1:]]
    assert sorted(keys) == [*expected, "train.optimizer"]


@pytest.mark.parametrize(
    ("line", "unknown", "nearest"),
    [
        ("epochs: 24", "epoch: 24", "epochs"),
        ("batch_size: 64", "batchsize: 64", "batch_size"),
        ("batch_size: 64", "Batch_Size: 64", "batch_size"),
        ("optimizer: sgd", "lr: 3", "lr"),
        ("optimizer: sgd", "batch_size: 3", "batch_size"),
        ("optimizer: sgd", "dropuot: 1", "model.cnn.dropout"),
        ("seed: 0", "momentum: 0", "train.momentum"),
        ("seed: 0", "wieght_decay: 0", "train.weight_decay"),
        ("seed: 0", "buidl: 0", "build"),
        ("hidden:", "hiden:", "model.mlp.hidden"),
        ("mirror: false", "widths: 3", "model.cnn.widths"),
    ],
)
def test_unknown_key_is_told_with_the_nearest(tmp_path: Path, line: str, unknown: str, nearest: str) -> None:
    message = find_problems(write_params(tmp_path, (line, unknown)))
    key = unknown.split(":")[0]
    assert re.search(rf"^  ([\w.]+\.)?{key}: unknown key; did you mean {re.escape(nearest)}\?$", message, re.MULTILINE)


def test_key_like_no_other_is_told_without_a_guess(tmp_path: Path) -> None:
    assert "\n  zzz: unknown key\n" in find_problems(write_params(tmp_path, ("seed: 0", "zzz: 0"))) + "\n"


@pytest.mark.parametrize("key", ["seed", "device", "data", "data.path", "model.mlp.dropout", "augment.shift"])
def test_missing_key_is_told(tmp_path: Path, key: str) -> None:
    values = YAML(typ="safe").load(COMMITTED)
    *sections, last = key.split(".")
    section = values
    for name in sections:
        section = section[name]
    del section[last]
    YAML().dump(values, tmp_path / "params.yaml")
    assert find_problems(tmp_path / "params.yaml").endswith(f": 1 problem\n  {key}: missing")


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("seed: 0", "seed: -1"),
        ("seed: 0", f"seed: {2**63}"),
        ("seed: 0", "seed: 0.0"),
        ("seed: 0", "seed: true"),
        ("epochs: 24", "epochs: 0"),
        ("batch_size: 64", f"batch_size: {10**30}"),
        ("lr: 0.05", "lr: .nan"),
        ("lr: 0.05", "lr: .inf"),
        ("lr: 0.05", "lr: 1e400"),
        ("lr: 0.05", "lr: -0.1"),
        ("lr: 0.05", "lr: 0"),
        ("lr: 0.05", f"lr: {10**400}"),
        ("lr: 0.05", f"lr: {'9' * 10_000}"),
        ("lr: 0.05", "lr: {a: 1}"),
        ("device: auto", "device: gpu"),
        ("device: auto", "device: cuda:x"),
        ("workers: 0", "workers: 100000"),
        ("threads: 1", "threads: 0"),
        ("path: data/raw/digits.zip", "path: ''"),
        ("path: data/raw/digits.zip", "path: 010"),
        ("split_seed: 0", f"split_seed: {'9' * 10_000}"),
        ("val_fraction: 0.15", "val_fraction: 1"),
        ("test_fraction: 0.2", "test_fraction: -0.1"),
        ("height: 8", "height: 1000000000"),
        ("background: 255", "background: 256"),
        ("fit: crop", "fit: Crop"),
        ("mean: null", "mean: 0.5"),
        ("mean: null", "mean: []"),
        ("std: null", "std: [0.0]"),
        ("std: null", "std: [.nan]"),
        ("mirror: false", "mirror: no"),
        ("dropout: 0.0", "dropout: 1.0"),
        ("weight_decay: 0.0005", "weight_decay: -1"),
        ("shift: 0", "shift: 257"),
        ("tolerance: 0.0001", "tolerance: 0"),
        ("build:", "build: 3\nbuild2:"),
    ],
)
def test_value_out_of_range_is_told_with_its_key(tmp_path: Path, line: str, instead: str) -> None:
    message = find_problems(write_params(tmp_path, (line, instead)))
    key = instead.split(":")[0]
    assert re.search(rf"^  ([\w.]+\.)?{key}(\.0)?: (expected|List should) .*, found ", message, re.MULTILINE)
    assert len(message) < 1_000


def test_fractions_leave_images_to_train_on(tmp_path: Path) -> None:
    path = write_params(
        tmp_path, ("val_fraction: 0.15", "val_fraction: 0.5"), ("test_fraction: 0.2", "test_fraction: 0.5")
    )
    assert "data: expected val_fraction + test_fraction below 1" in find_problems(path)


@pytest.mark.parametrize(
    ("mean", "std", "problem"),
    [
        ("[0.5, 0.5, 0.5]", "[1, 1, 1]", "model.mean: expected 1 numbers (build.channels), found 3"),
        ("[0.5]", "[1, 1]", "model.std: expected 1 numbers (build.channels), found 2"),
        ("[0.5]", "null", "expected both given or both null"),
        ("null", "[1]", "expected both given or both null"),
    ],
)
def test_mean_and_std_fit_the_channels(tmp_path: Path, mean: str, std: str, problem: str) -> None:
    assert problem in find_problems(
        write_params(tmp_path, ("mean: null", f"mean: {mean}"), ("std: null", f"std: {std}"))
    )


def test_given_mean_and_std_are_kept(tmp_path: Path) -> None:
    changes = [("channels: 1", "channels: 3"), ("mean: null", "mean: [0, 0.5, 1]"), ("std: null", "std: [1, 2, 3]")]
    model = load_params(write_params(tmp_path, *changes)).model
    assert (model.mean, model.std) == ([0.0, 0.5, 1.0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "expected keys with values, found None"),
        (b"- 1\n", r"expected keys with values, found \[1\]"),
        (b"seed", "expected keys with values, found 'seed'"),
        (b"seed: 1\nseed: 2\n", "the key 'seed' stands twice.*line 2"),
        (b"data: {path: a, path: b}\n", "the key 'path' stands twice"),
        (b"seed: &a 1\nepochs: *a\n", "aliases and tags are not used here.*line 2"),
        (b"seed: !!python/object/apply:os.system [ls]\n", "aliases and tags are not used here.*line 1"),
        (b"seed: !!timestamp x\n", "aliases and tags are not used here"),
        (b"seed: !!bool x\n", "aliases and tags are not used here"),
        (b"seed: !!int x\n", "aliases and tags are not used here"),
        (b"seed: !!str 1\n", "aliases and tags are not used here"),
        (b"? [a]\n: 1\n", "unhashable key.*line 1"),
        (b"? {a: 1}\n: 1\n", "unhashable key.*line 1"),
        (b"1: 2\nnull: 3\n", "1: Keys should be strings"),
        (b"a: 1\n---\na: 2\n", "expected a single document"),
        (b"a: [1\n", "not the YAML expected here"),
        (b"\ta: 1\n", "not the YAML expected here.*line 1"),
        (b"seed: \0\n", "not the YAML expected here"),
        (b"seed: caf\xe9\n", "not readable as YAML in UTF-8"),
        ("seed: 1\n".encode("utf-16"), "not readable as YAML in UTF-8"),
        (b"a: " + b"[" * 20_000, "not readable as YAML in UTF-8"),
    ],
)
def test_file_that_is_no_plain_mapping_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "params.yaml").write_bytes(content)
    assert re.search(told, find_problems(tmp_path / "params.yaml"))


def test_alias_bomb_is_refused_before_it_grows(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    (tmp_path / "params.yaml").write_text("\n".join(lines))
    assert "aliases and tags are not used here" in find_problems(tmp_path / "params.yaml")


@pytest.mark.parametrize("change", [lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff" + text])
def test_line_ends_and_byte_order_mark_do_not_matter(tmp_path: Path, change: Any) -> None:
    (tmp_path / "params.yaml").write_bytes(change(COMMITTED.read_text("utf-8")).encode())
    assert load_params(tmp_path / "params.yaml") == load_params(COMMITTED)


def test_missing_file_is_an_oserror_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nothing.yaml"):
        load_params(tmp_path / "nothing.yaml")
