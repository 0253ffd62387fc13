"""How the report and the commands show shares and text from data."""

from typing import Any


def human_share(value: float, whole: float) -> str:
    """`12.3 %`; never `0.0 %` for something, nor `100.0 %` for less than all."""
    if whole <= 0:
        return "\N{EN DASH}"
    percent = 100 * value / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def human_bytes(size: float) -> str:
    """`512 bytes`, `1.5 kB`, `27 MB`, `1.2 TB`: in powers of 1000, two digits or more."""
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.1f} {unit}" if size < 9.95 else f"{size:.0f} {unit}"
    return f"{size / 1000:,.1f} TB"


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 clip`, `1,204 clips`; `1 clip is`, `2 clips are`. many: where it is more than `one` with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def visible(text: str) -> str:
    """Text with newlines, control and bidirectional characters escaped, so that a name cannot disguise itself."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def valid_unicode(value: Any) -> Any:
    """Text with bytes that are not Unicode escaped: names may hold any, Arrow's and JSON's text may not."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value
