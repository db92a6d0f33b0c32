"""Settings from YAML files and `key=value` arguments, validated against a dataclass."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from nldiff.errors import NldiffError
from nldiff.reading import regular_file

Schema = TypeVar("Schema")

_DEEPEST = 50
_SHIPPED = Path(__file__).parent / "configs"


def shipped_configs(kind: str) -> dict[str, Path]:
    """Name to path of the configurations that come with the package.

    Args:
        kind: "eval" for experiments, "train" for priors, "baselines" for comparison networks.
    """
    return {path.stem: path for path in sorted((_SHIPPED / kind).glob("*.yaml"))}


def find_config(name_or_path: str | Path, kind: str) -> Path:
    """The path of a configuration: a file, or one that comes with the package, by its name.

    Raises:
        NldiffError: there is neither.
    """
    path, shipped = Path(name_or_path), shipped_configs(kind)
    if path.is_file():
        return path
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    raise NldiffError(f"configuration {name_or_path}: no such file, and none of {', '.join(shipped)}")


def load_config(schema: type[Schema], path: Path | None, overrides: Sequence[str] = ()) -> Schema:
    """Build `schema` from its defaults, then a YAML file, then `key=value` overrides.

    In overrides, dots reach into groups, and `{}` clears a dictionary.

    Raises:
        NldiffError: the file cannot be read, a key is unknown, a value has the wrong type, or an interpolation such
            as `${oc.env:NLDIFF_DATA}` has no value.
    """
    config = OmegaConf.structured(schema)
    source = "settings" if path is None else f"configuration {path}"
    if path is not None:
        with _mistakes_in(source):
            config = OmegaConf.merge(config, _entries(path))
    for text in overrides:
        if "=" not in text:
            raise NldiffError(f"'{text}': key=value expected")
        with _mistakes_in(f"'{text}'"):
            key, _, value = text.partition("=")
            check_nesting(value)
            if value.strip() == "{}":
                # Merging an empty dictionary would change nothing.
                OmegaConf.update(config, key, {}, merge=False)
            else:
                config = OmegaConf.merge(config, OmegaConf.from_dotlist([text]))
    with _mistakes_in(source):
        result = OmegaConf.to_object(config)
    assert isinstance(result, schema)
    return result


def read_key(path: Path, key: str, default: str) -> str:
    """One entry of the top level of a YAML file as text; `default` if it is not there.

    Raises:
        NldiffError: the file cannot be read.
    """
    with _mistakes_in(f"configuration {path}"):
        entries = _entries(path)
        found = entries.get(key, default) if isinstance(entries, DictConfig) else default
    return str(found)


def _entries(path: Path) -> Any:
    """What a YAML file holds; raises all kinds of errors, see `_mistakes_in`."""
    regular_file(path)
    text = path.read_text(encoding="utf-8")
    check_nesting(text)
    return OmegaConf.load(io.StringIO(text))


def check_nesting(text: str) -> None:
    """Validate that YAML is not nested so deep that the parser, which is recursive and written in C, ends the program.

    Raises:
        ValueError: it is.
        YAMLError: it is no YAML.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):  # not recursive, unlike what makes values of it
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError(f"nested deeper than {_DEEPEST} levels")


@contextmanager
def _mistakes_in(source: str) -> Iterator[None]:
    """Turn errors of OmegaConf and PyYAML into one line about `source`."""
    try:
        yield
    except OmegaConfBaseException as error:
        # The first line names the mistake; the key is in the lines after it.
        key = f"{error.full_key}: " if error.full_key else ""
        raise NldiffError(f"{source}: {key}{str(error).splitlines()[0]}") from error
    except (OSError, ValueError, YAMLError, TypeError, LookupError, AttributeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise NldiffError(f"{source}: {reason}") from error
