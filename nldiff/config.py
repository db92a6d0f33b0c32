"""Settings from YAML files and `key=value` arguments, checked against a dataclass."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from nldiff.errors import NldiffError

Schema = TypeVar("Schema")


def load_config(schema: type[Schema], path: Path | None, overrides: Sequence[str] = ()) -> Schema:
    """Build `schema` from its defaults, then a YAML file, then `key=value` overrides (dots reach into groups).

    Raises:
        NldiffError: the file cannot be read, a key is unknown, a value has the wrong type, or an interpolation such
            as `${oc.env:NLDIFF_DATA}` has no value.
    """
    try:
        config = OmegaConf.structured(schema)
        if path is not None:
            config = OmegaConf.merge(config, OmegaConf.load(path))
        for text in overrides:
            if "=" not in text:
                raise NldiffError(f"'{text}': key=value expected")
        config = OmegaConf.merge(config, OmegaConf.from_dotlist(list(overrides)))
        result = OmegaConf.to_object(config)
    except (OSError, UnicodeDecodeError) as error:
        raise NldiffError(f"configuration {path} cannot be read: {_line(error)}") from error
    except YAMLError as error:
        raise NldiffError(f"configuration {path} is not YAML: {_line(error)}") from error
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise NldiffError(f"configuration: {key}{str(error).splitlines()[0]}") from error
    assert isinstance(result, schema)
    return result


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
