"""Labels from the folders above each file, by a template, and how many files it fits."""

from dataclasses import dataclass, field

from lipforge.datasets_manifest.display import visible
from lipforge.datasets_manifest.language_tags import is_language
from lipforge.pipeline.clip import Source

_LABELS = ("language", "speaker")


def path_labels(uri: str, template: str, root: str | None = None) -> dict[str, str]:
    """Labels from a path: `{language}/{speaker}/` on /data/hi/anna/001.mp4 gives hi and anna.

    Each name in the template stands for one folder, the last for the folder of the file. `*` is any folder.
    root: the input folder that the file was found in. Only folders below it count; without it, all of the path, but not
    the bucket or host of a URL. A file with too few gets no labels.
    Raises ValueError when the template has anything but {language}, {speaker} and *, or no label.
    """
    names, folders = _names(template), _folders(uri, root)
    if len(folders) < len(names):
        return {}
    pairs = zip(reversed(names), reversed(folders), strict=False)
    return {name[1:-1]: folder for name, folder in pairs if name != "*"}


def _names(template: str) -> list[str]:
    names = [name for name in template.split("/") if name]
    for name in names:
        if name not in ("{language}", "{speaker}", "*"):
            raise ValueError(f"path template {template!r}: {name!r} is not {{language}}, {{speaker}} or *")
    if set(names) <= {"*"}:
        raise ValueError(f"path template {template!r} has neither {{language}} nor {{speaker}}")
    return names


def _folders(uri: str, root: str | None) -> list[str]:
    path = uri[len(root) + 1 :] if root else uri
    if "://" in path:
        path = path.partition("://")[2].partition("/")[2]
    return [folder for folder in path.split("/")[:-1] if folder]


@dataclass
class TemplateUse:
    """What a template gave the files of a run. Files whose list has all its labels do not count."""

    template: str
    language: str | None
    """Label of files that get none here, from the flag."""
    _files: set[str] = field(default_factory=set)
    _num_labelled: int = 0
    _unmatched: list[tuple[str, str | None]] = field(default_factory=list)
    """URI and root of files with too few folders."""
    _no_language: list[tuple[str, str]] = field(default_factory=list)
    """URI, and the folder that is no language."""

    def __post_init__(self) -> None:
        _names(self.template)

    def labels(self, source: Source, root: str | None) -> dict[str, str]:
        """path_labels of a source, with a language only if it is one."""
        found = path_labels(source.uri, self.template, root)
        language = found.get("language")
        if language is not None and not is_language(language):
            del found["language"]
        wanted = [name for name in _LABELS if f"{{{name}}}" in self.template and not _is_listed(source, name)]
        if wanted and source.uri not in self._files:
            self._files.add(source.uri)
            self._num_labelled += any(name in found for name in wanted)
            if language is not None and "language" not in found and "language" in wanted:
                self._no_language.append((source.uri, language))
            elif not found:
                self._unmatched.append((source.uri, root))
        return found

    def notes(self) -> list[str]:
        """For the user: how many files it fits, and what does not. Raises ValueError when it gave no file a label."""
        total, told = len(self._files), f"path template {self.template}"
        if not total:
            return []
        if len(self._unmatched) == total:
            raise ValueError(
                f"{told} matches none of {_files(total)}: {self._why(*self._unmatched[0])}. Folders count from the "
                "file upwards, at most to the folder that you name as input. Name the folder above, or use a template "
                "with fewer folders; a list can have columns `language` and `speaker` instead"
            )
        if not self._num_labelled and self.language is None:
            raise ValueError(
                f"{told} gives none of {_files(total)} a label: {self._no_language_words()}. Put * in the place of "
                "folders that are no labels; a list with a column `language`, or --language, labels the files, too"
            )
        words = f"{told} matches {total - len(self._unmatched):,} of {_files(total)}"
        notes = [f"{words}; not, for example, {self._why(*self._unmatched[0])}" if self._unmatched else words]
        if self._no_language:
            label = "`und`" if self.language is None else f"{self.language}, from --language"
            notes.append(
                f"{told}: in {len(self._no_language):,} of {_files(total)} {self._no_language_words()}. Their language "
                f"is {label}"
            )
        return notes

    def _why(self, uri: str, root: str | None) -> str:
        count, needed = len(_folders(uri, root)), len(_names(self.template))
        where = f"below {visible(root)}" if root else "in its path" + (" after bucket or host" if "://" in uri else "")
        return f"{visible(uri)} has {count} folder{'' if count == 1 else 's'} {where}, and the template {needed}"

    def _no_language_words(self) -> str:
        uri, folder = self._no_language[0]
        return f"the folder at {{language}} is no language code, for example {folder!r} of {visible(uri)}"


def _is_listed(source: Source, name: str) -> bool:
    return (source.language_source if name == "language" else source.speaker_source) != "none"


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"
