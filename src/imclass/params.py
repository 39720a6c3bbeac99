"""params.yaml -> frozen, checked parameters.

PyYAML follows YAML 1.1, where `1e-3` is a string, `010` is 8 and `no` is false; DVC follows YAML 1.2. This loader reads
scalars by the core schema of YAML 1.2, so that both see the same values.
"""

import difflib
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from imclass.errors import InputError, list_problems

Fraction = Annotated[float, Field(ge=0, lt=1)]
Size = Annotated[int, Field(ge=1, le=4096)]
Width = Annotated[int, Field(ge=1, le=65536)]
Policy = Literal["fail", "drop", "warn"]
PerChannel = Annotated[list[float], Field(min_length=1, max_length=3)]

WHERE_KEYS = frozenset({"device", "processes", "workers"})  # say where a run happens, and rerun nothing
MAX_WEIGHTS = 2**30  # between two layers: 4 GB


def _check_freeze(value: object) -> object:
    if value != "backbone" and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ValueError(f"expected a number of blocks, 0: none, or backbone, found {_shorten(value)}")
    return value


Freeze = Annotated[Any, PlainValidator(_check_freeze)]


class Section(BaseModel):
    """Parameters that must be there, with no other keys beside them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class DataParams(Section):
    path: Annotated[str, Field(min_length=1)]
    split_seed: int
    val_fraction: Fraction
    test_fraction: Fraction

    @model_validator(mode="after")
    def _leave_some_for_training(self) -> "DataParams":
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("expected val_fraction + test_fraction below 1, so that images are left to train on")
        return self


class FitParams(Section):
    """The shape that pictures are brought to, and how."""

    channels: Literal[1, 3]
    height: Size
    width: Size
    fit: Literal["crop", "pad", "stretch"]
    background: Annotated[int, Field(ge=0, le=255)]


class BuildParams(FitParams):
    store: Literal["raw", "encoded"]
    quality: Annotated[int, Field(ge=1, le=100)] | None

    def describe_fit(self) -> dict[str, Any]:
        """What decides the pixels that a network sees, but for the loss of encoding anew."""
        return self.model_dump(include=set(FitParams.model_fields))


class PolicyParams(Section):
    """What is done about each kind of fault in the data that a project may judge in its own way."""

    missing_file: Literal["fail", "drop"]
    no_label: Literal["fail", "drop"]
    repeated_file: Literal["fail", "drop"]
    unreadable: Literal["fail", "drop"]
    two_labels: Policy
    twin_labels: Literal["fail", "warn"]
    same_picture: Policy
    shared_group: Policy
    near_duplicate: Policy
    small: Policy
    uniform: Policy
    few_images: Literal["fail", "warn"]
    shifted_share: Literal["fail", "warn"]


class CheckParams(Section):
    smallest_side: Size
    images_per_class: Annotated[int, Field(ge=1, le=1_000_000)]
    policy: PolicyParams


class MlpParams(Section):
    hidden: Annotated[list[Width], Field(max_length=16)]
    dropout: Fraction


class CnnParams(Section):
    widths: Annotated[list[Width], Field(min_length=1, max_length=8)]
    stride: Annotated[int, Field(ge=1, le=2)]
    dropout: Fraction


class ResnetParams(Section):
    widths: Annotated[list[Width], Field(min_length=1, max_length=8)]
    blocks: Annotated[int, Field(ge=1, le=64)]


class ModelParams(Section):
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    weights: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None
    freeze: Freeze
    mirror: bool
    mean: PerChannel | None
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1, max_length=3)] | None
    mlp: MlpParams
    cnn: CnnParams
    resnet: ResnetParams

    def describe_network(self) -> dict[str, Any]:
        """The name of the network and its own options, which stand in a section of its name where it has any."""
        options = getattr(self, self.name, None)
        return {"name": self.name, **(options.model_dump() if isinstance(options, Section) else {})}


class TrainParams(Section):
    optimizer: Literal["sgd", "adamw"]
    momentum: Fraction
    weight_decay: Annotated[float, Field(ge=0)]
    schedule: Literal["constant", "cosine", "one-cycle"]
    label_smoothing: Fraction
    balance: Literal["none", "loss", "sampler"]
    accumulation: Annotated[int, Field(ge=1, le=4096)]
    clip_norm: Annotated[float, Field(ge=0)]
    ema: Fraction
    patience: Annotated[int, Field(ge=0, le=1_000_000)]
    precision: Literal["float32", "bfloat16", "float16"]
    compile: bool

    def describe_optimizer(self) -> dict[str, Any]:
        """The name of the optimizer and its options, but for the learning rate."""
        return {"name": self.optimizer, "momentum": self.momentum, "weight_decay": self.weight_decay}


class AugmentParams(Section):
    flip: bool
    shift: Annotated[int, Field(ge=0, le=256)]
    rotate: Annotated[float, Field(ge=0, le=180)]
    crop: Annotated[float, Field(gt=0, le=1)]
    color: Annotated[float, Field(ge=0, le=1)]
    erase: Annotated[float, Field(ge=0, le=1)]
    mix: Literal["none", "mixup", "cutmix"]

    def describe_views(self) -> dict[str, Any]:
        """What is done to each image on its own."""
        return self.model_dump(exclude={"mix"})


class GateParams(Section):
    accuracy: Fraction
    class_recall: Fraction


class ExportParams(Section):
    tolerance: Annotated[float, Field(gt=0)]
    int8_loss: Annotated[float, Field(ge=0, le=1)] | None


class Params(Section):
    """Everything in params.yaml. `device`, `processes` and `workers` say where a run happens, all others what it is."""

    seed: Annotated[int, Field(ge=0, lt=2**63)]
    epochs: Annotated[int, Field(ge=1, le=1_000_000)]
    batch_size: Annotated[int, Field(ge=1, le=1_048_576)]
    lr: Annotated[float, Field(gt=0)]
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
    processes: Annotated[int, Field(ge=0, le=1024)]
    workers: Annotated[int, Field(ge=0, le=1024)]
    threads: Annotated[int, Field(ge=1, le=1024)]
    data: DataParams
    checks: CheckParams
    build: BuildParams
    model: ModelParams
    train: TrainParams
    augment: AugmentParams
    gate: GateParams
    export: ExportParams

    def describe_training(self) -> dict[str, Any]:
        """What decides the outcome of training, but for `epochs` and the data, as plain values."""
        return self.model_dump(include={"seed", "batch_size", "lr", "threads", "model", "train", "augment"})

    @model_validator(mode="after")
    def _fit_together(self) -> "Params":
        if self.build.quality is not None and self.build.store != "encoded":
            raise ValueError(f"build.quality: expected null where build.store is raw, found {self.build.quality}")
        for key, values in ("model.mean", self.model.mean), ("model.std", self.model.std):
            if values is not None and len(values) != self.build.channels:
                raise ValueError(f"{key}: expected {self.build.channels} numbers (build.channels), found {len(values)}")
        if (self.model.mean is None) != (self.model.std is None):
            raise ValueError("model.mean, model.std: expected both given or both null")
        side = min(self.build.height, self.build.width)
        most = (side // self.model.cnn.stride).bit_length() - 1  # each width halves the maps once more
        if self.model.name == "cnn" and len(self.model.cnn.widths) > most:
            given = f"images of {side} pixels a side at stride {self.model.cnn.stride}"
            found = len(self.model.cnn.widths)
            raise ValueError(f"model.cnn.widths: expected at most {max(most, 0)} for {given}, found {found}")
        if self.model.freeze and not self.model.weights:
            raise ValueError("model.freeze: expected model.weights to start from: fresh weights would never learn")
        pixels = self.build.channels * self.build.height * self.build.width
        key, widths = {
            "mlp": ("model.mlp.hidden", [pixels, *self.model.mlp.hidden]),
            "cnn": ("model.cnn.widths", [3 * width for width in self.model.cnn.widths]),  # 3 x 3 for each pair
            "resnet": ("model.resnet.widths", [3 * width for width in self.model.resnet.widths]),
        }.get(self.model.name, ("", []))
        largest = max((before * after for before, after in pairwise(widths)), default=0)
        if largest > MAX_WEIGHTS:
            raise ValueError(f"{key}: expected at most {MAX_WEIGHTS:,} weights between two layers, found {largest:,}")
        return self


def load_params(path: Path, *, seed: str | None = None) -> Params:
    """Read and check the whole file; `seed`, where given, stands for the one in it.

    Raises InputError naming every unknown, missing, ill-typed or out-of-range key at once.
    """
    values = read_yaml(path)
    if seed is not None:
        values["seed"] = yaml.load(seed, Loader=_CoreLoader)
    return check_params(values, path)


def read_yaml(path: Path) -> dict[Any, Any]:
    """Read keys with values. Raises InputError where the file is something else."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_CoreLoader)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not the YAML expected here: {' '.join(str(error).split())}") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not readable as YAML in UTF-8: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected keys with values, found {_shorten(values)}")
    return values


def check_params(values: Mapping[Any, Any], path: Path) -> Params:
    """Values read from `path` -> parameters. Raises InputError naming every problem at once."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        known = sorted(_list_keys(Params))
        problems = [_explain(problem, known) for problem in error.errors()]
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise InputError(f"{path}: {count}\n{list_problems(problems)}") from None


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted names, as DVC names parameters: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _explain(problem: Any, known: list[str]) -> str:
    key = ".".join(str(part) for part in problem["loc"] if not str(part).startswith(("list[", "function-")))
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key{_suggest(key, known)}"
    if problem["type"] == "missing":
        return f"{key}: missing"
    if problem["type"] == "value_error":
        return f"{key}: {problem['ctx']['error']}" if key else str(problem["ctx"]["error"])
    expected = problem["msg"].replace("Input should be", "expected").replace("String should", "expected to")
    return f"{key}: {expected}, found {_shorten(problem['input'])}"


def _suggest(key: str, known: list[str]) -> str:
    """The same key in another section, or the nearest by its whole dotted name, or by its last part."""
    last_part = key.rsplit(".", 1)[-1]
    by_last_part = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    by_name = {name: name for name in known}
    for wanted, names, cutoff in (last_part, by_last_part, 1), (key, by_name, 0.7), (last_part, by_last_part, 0.7):
        if close := difflib.get_close_matches(wanted, names, n=1, cutoff=cutoff):
            return f"; did you mean {names[close[0]]}?"
    return ""


def _list_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _list_keys(field.annotation, f"{prefix}{name}.")
    return keys


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _CoreLoader(yaml.SafeLoader):
    """YAML 1.2 core schema, without what has no place in a parameter file: aliases, tags, twice the same key."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.tag:
            raise yaml.composer.ComposerError(None, None, "aliases and tags are not used here", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern in (
    ("null", r"^(~|null|Null|NULL|)$"),
    ("bool", r"^(true|True|TRUE|false|False|FALSE)$"),
    ("int", r"^[-+]?[0-9]{1,4000}$"),  # Python converts no longer ones; they are read as an infinite float and refused
    (
        "float",
        r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$",
    ),
):
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), None)
_CoreLoader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))  # PyYAML's own takes 010 for 8
