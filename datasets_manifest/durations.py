"""Durations for people to read."""


def human_time(seconds: float) -> str:
    """For example `43.2 s`, `12 min 5 s`, `3.42 h`, `1,204 h`."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 2 * 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s"
    hours = seconds / 3600
    return f"{hours:.2f} h" if hours < 100 else f"{hours:,.0f} h"
