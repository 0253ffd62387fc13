"""Durations for people to read."""


def human_time(seconds: float) -> str:
    """For example `43.2 s`, `12 min 5 s`, `1 h 23 min`, `1,204 h`."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if round(seconds) < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s"
    if seconds < 100 * 3600:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes} min"
    return f"{seconds / 3600:,.0f} h"
