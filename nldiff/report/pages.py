"""The templates of the pages."""

from typing import Any

from nldiff.metrics.packages import import_package


def check_pages() -> None:
    """Validate up front that pages can be made.

    Raises:
        NldiffError: jinja2 is missing.
    """
    import_package("jinja2", "report")


def render(template: str, **values: Any) -> str:
    """Fill a template in; every value is escaped, and bytes of file names that are no text as escapes.

    Raises:
        NldiffError: jinja2 is missing.
    """
    text = str(_environment().get_template(template).render(values))
    return text.encode(errors="backslashreplace").decode()


def text_of(name: str) -> str:
    """A file of the templates as it is, such as the style of all pages.

    Raises:
        NldiffError: jinja2 is missing.
    """
    environment = _environment()
    return str(environment.loader.get_source(environment, name)[0])


def _environment() -> Any:
    jinja2 = import_package("jinja2", "report")
    return jinja2.Environment(
        loader=jinja2.PackageLoader("nldiff.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
