import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from imclass.errors import InputError
from imclass.models.cnn import Cnn
from imclass.params import flatten, load_params

COMMITTED = Path(__file__).parents[1] / "params.yaml"
SAME_AS_DVC = [
    *("1e-3", "1E3", "1.e3", "1e+3", "5e-324", "1e400", "0.0", "-0.0", ".5", "+.5", "1.", "0.1e-3"),
    *("0", "-0", "+1", "010", "-010", "09", "00", "99999999999999999999"),
    *("no", "No", "yes", "on", "off", "y", "n", "true", "True", "TRUE", "tRUE", "false"),
    *("", "~", "null", "Null", "NULL", "nUll", ".nan", ".inf", "-.inf", "+.inf", "nan", "inf"),
    *("1:30", "12:30:45", "1,5", "1.2.3", "1e", "e3", "--1", "0x", "'1'", '"no"', "'010'", "a b", "é", "[1, no, 1e-3]"),
]


def write_params(folder: Path, *changes: tuple[str, str]) -> Path:
    """The committed file with the first lines of some keys replaced."""
    text = COMMITTED.read_text("utf-8")
    for key, instead in changes:
        text, count = re.subn(rf"^( *){key}:.*", rf"\g<1>{instead}", text, count=1, flags=re.MULTILINE)
        assert count == 1, key
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
    assert isinstance(params.lr, float)
    with pytest.raises(ValueError, match="frozen"):
        params.seed = 1


@pytest.mark.parametrize("written", ["1e-3", "1E-3", "0.001", ".001", "+1.0e-3"])
def test_exponents_are_numbers(tmp_path: Path, written: str) -> None:
    assert load_params(write_params(tmp_path, ("lr", f"lr: {written}"))).lr == 0.001


def test_whole_number_serves_where_a_fraction_may_stand(tmp_path: Path) -> None:
    assert load_params(write_params(tmp_path, ("lr", "lr: 2"))).lr == 2.0


@pytest.mark.parametrize("scalar", SAME_AS_DVC)
def test_scalars_are_read_as_by_dvc(tmp_path: Path, scalar: str) -> None:
    expected = YAML(typ="safe").load(io.StringIO(f"k: {scalar}\n"))["k"]
    assert read_raw(tmp_path, scalar) == repr(expected)


@pytest.mark.parametrize("scalar", ["1_000", "0x10", "0o10", "0b11", "2024-01-01", "010.0.0", "no", "1:30", "'1'"])
@pytest.mark.parametrize("key", ["epochs", "lr", "mirror"])
def test_text_that_looks_like_a_number_is_refused_as_written(tmp_path: Path, key: str, scalar: str) -> None:
    message = find_problems(write_params(tmp_path, (key, f"{key}: {scalar}")))
    written = re.escape(scalar.strip("'"))
    assert re.search(rf"^  (model\.)?{key}: expected .*, found '{written}'$", message, re.MULTILINE)


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    changes = [
        ("seed", "sede: 0"),
        ("epochs", "epochs: -1"),
        ("batch_size", "batch_size: many"),
        ("channels", "channels: 2"),
        ("dropout", "dropout: [0.5]"),
        ("optimizer", "optimizer: lion"),
        ("flip", "flip: 0"),
    ]
    message = find_problems(write_params(tmp_path, *changes))
    assert "8 problems" in message
    expected = ["augment.flip", "batch_size", "build.channels", "epochs", "model.mlp.dropout", "sede", "seed"]
    keys = [line.split(":")[0].strip() for line in message.splitlines()[1:]]
    assert sorted(keys) == [*expected, "train.optimizer"]


@pytest.mark.parametrize(
    ("key", "unknown", "nearest"),
    [
        ("epochs", "epoch: 24", "epochs"),
        ("batch_size", "batchsize: 64", "batch_size"),
        ("batch_size", "Batch_Size: 64", "batch_size"),
        ("optimizer", "lr: 3", "lr"),
        ("optimizer", "batch_size: 3", "batch_size"),
        ("optimizer", "dropuot: 1", "model.cnn.dropout"),
        ("seed", "momentum: 0", "train.momentum"),
        ("seed", "wieght_decay: 0", "train.weight_decay"),
        ("seed", "buidl: 0", "build"),
        ("hidden", "hiden:", "model.mlp.hidden"),
        ("mirror", "widths: 3", "model.cnn.widths"),
    ],
)
def test_unknown_key_is_told_with_the_nearest(tmp_path: Path, key: str, unknown: str, nearest: str) -> None:
    message = find_problems(write_params(tmp_path, (key, unknown)))
    found = unknown.split(":")[0]
    assert re.search(
        rf"^  ([\w.]+\.)?{found}: unknown key; did you mean {re.escape(nearest)}\?$", message, re.MULTILINE
    )


def test_key_like_no_other_is_told_without_a_guess(tmp_path: Path) -> None:
    assert "\n  zzz: unknown key\n" in find_problems(write_params(tmp_path, ("seed", "zzz: 0"))) + "\n"


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
    ("key", "instead"),
    [
        ("seed", "seed: -1"),
        ("seed", f"seed: {2**63}"),
        ("seed", "seed: 0.0"),
        ("seed", "seed: true"),
        ("epochs", "epochs: 0"),
        ("epochs", f"epochs: {10**18}"),
        ("batch_size", f"batch_size: {10**30}"),
        ("lr", "lr: .nan"),
        ("lr", "lr: .inf"),
        ("lr", "lr: 1e400"),
        ("lr", "lr: -0.1"),
        ("lr", "lr: 0"),
        ("lr", f"lr: {10**400}"),
        ("lr", f"lr: {'9' * 10_000}"),
        ("lr", "lr: {a: 1}"),
        ("device", "device: gpu"),
        ("device", "device: cuda:x"),
        ("workers", "workers: 100000"),
        ("threads", "threads: 0"),
        ("path", "path: ''"),
        ("path", "path: 010"),
        ("split_seed", f"split_seed: {'9' * 10_000}"),
        ("val_fraction", "val_fraction: 1"),
        ("test_fraction", "test_fraction: -0.1"),
        ("height", "height: 1000000000"),
        ("background", "background: 256"),
        ("store", "store: zip"),
        ("quality", "quality: 0"),
        ("quality", "quality: 90"),  # of a raw set
        ("fit", "fit: Crop"),
        ("mean", "mean: 0.5"),
        ("mean", "mean: []"),
        ("std", "std: [0.0]"),
        ("std", "std: [.nan]"),
        ("mirror", "mirror: no"),
        ("name", "name: ResNet"),
        ("weights", "weights: ../a.pth"),
        ("freeze", "freeze: -1"),
        ("freeze", "freeze: all"),
        ("freeze", "freeze: true"),
        ("dropout", "dropout: 1.0"),
        ("weight_decay", "weight_decay: -1"),
        ("shift", "shift: 257"),
        ("tolerance", "tolerance: 0"),
        ("build", "build: 3\nbuild2:"),
    ],
)
def test_value_out_of_range_is_told_with_its_key(tmp_path: Path, key: str, instead: str) -> None:
    message = find_problems(write_params(tmp_path, (key, instead)))
    assert re.search(rf"^  ([\w.]+\.)?{key}(\.0)?: (expected|List should) .*, found ", message, re.MULTILINE)
    assert len(message) < 1_000


def test_fractions_leave_images_to_train_on(tmp_path: Path) -> None:
    path = write_params(tmp_path, ("val_fraction", "val_fraction: 0.5"), ("test_fraction", "test_fraction: 0.5"))
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
    changes = [("channels", "channels: 1"), ("mean", f"mean: {mean}"), ("std", f"std: {std}")]
    assert problem in find_problems(write_params(tmp_path, *changes))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [4, 7, 8, 9, 10, 17, 28])
def test_the_cnn_may_have_as_many_widths_as_halve_its_images(tmp_path: Path, side: int, stride: int) -> None:
    images = torch.zeros(2, 1, side, side)
    for count in range(1, 8):
        path = write_params(tmp_path, ("height", f"height: {side}"), ("width", f"width: {side}"))
        text = path.read_text().replace("stride: 2 ", f"stride: {stride} ")
        path.write_text(re.sub(r"(  cnn:\n +widths:)\n( +- \d+\n)+", rf"\1 {[4] * count}\n", text))
        try:
            Cnn(1, 10, widths=[4] * count, dropout=0.0, stride=stride)(images)
        except RuntimeError:
            assert f"model.cnn.widths: expected at most {count - 1} for images of {side}" in find_problems(path)
            return
        assert load_params(path).model.cnn.stride == stride


@pytest.mark.parametrize(
    ("name", "key", "instead"),
    [
        ("mlp", "model.mlp.hidden", ("hidden", "hidden: [512, 40000, 40000]")),
        ("cnn", "model.cnn.widths", ("widths", "widths: [30000, 65536]")),
        ("resnet", "model.resnet.widths", ("widths", "widths: [30000, 65536]")),
    ],
)
def test_network_that_would_fill_the_memory_is_told(
    tmp_path: Path, name: str, key: str, instead: tuple[str, str]
) -> None:
    text = COMMITTED.read_text().replace("name: cnn", f"name: {name}")
    text = re.sub(rf"( +){instead[0]}:\n( +- \d+\n)+", rf"\1{instead[1]}\n", text)
    (tmp_path / "params.yaml").write_text(text)
    assert f"  {key}: expected at most 1,073,741,824 weights between two layers, found " in find_problems(
        tmp_path / "params.yaml"
    )


def test_fresh_weights_are_not_frozen(tmp_path: Path) -> None:
    path = write_params(tmp_path, ("freeze", "freeze: backbone"))
    assert "model.freeze: expected model.weights to start from" in find_problems(path)
    path = write_params(tmp_path, ("freeze", "freeze: backbone"), ("weights", "weights: DEFAULT"))
    assert load_params(path).model.freeze == "backbone"


def test_a_network_has_the_options_of_its_section(tmp_path: Path) -> None:
    def describe(name: str) -> dict[str, Any]:
        return load_params(write_params(tmp_path, ("name", f"name: {name}"))).model.describe_network()

    assert describe("resnet") == {"name": "resnet", "widths": [16, 32, 64], "blocks": 3}
    assert describe("resnet18") == {"name": "resnet18"}
    assert describe("mean") == {"name": "mean"}


def test_given_mean_and_std_are_kept(tmp_path: Path) -> None:
    changes = [("channels", "channels: 3"), ("mean", "mean: [0, 0.5, 1]"), ("std", "std: [1, 2, 3]")]
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


def test_nested_values_have_dotted_names() -> None:
    assert flatten({"a": 1, "b": {"c": [2], "d": {"e": None}, "f": {}}}) == {"a": 1, "b.c": [2], "b.d.e": None}
