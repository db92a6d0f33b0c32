"""Settings from YAML files and `key=value` arguments, validated against a dataclass."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from nldiff.errors import NldiffError

Schema = TypeVar("Schema")


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
            config = OmegaConf.merge(config, OmegaConf.load(path))
    for text in overrides:
        if "=" not in text:
            raise NldiffError(f"'{text}': key=value expected")
        with _mistakes_in(f"'{text}'"):
            key, _, value = text.partition("=")
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
    """One entry of the top level of a YAML file; `default` if it is not there.

    Raises:
        NldiffError: the file cannot be read.
    """
    with _mistakes_in(f"configuration {path}"):
        entries = OmegaConf.load(path)
        return str(OmegaConf.select(entries, key, default=default))


@contextmanager
def _mistakes_in(source: str) -> Iterator[None]:
    """Turn errors of OmegaConf and PyYAML into one line about `source`."""
    try:
        yield
    except OmegaConfBaseException as error:
        # The first line names the mistake; the key is in the lines after it.
        key = f"{error.full_key}: " if error.full_key else ""
        raise NldiffError(f"{source}: {key}{str(error).splitlines()[0]}") from error
    except (OSError, UnicodeDecodeError, YAMLError, TypeError, IndexError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise NldiffError(f"{source}: {reason}") from error
