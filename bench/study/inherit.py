"""A study file and its bases, as layers that are merged one over another."""

from __future__ import annotations

from collections.abc import Sequence

from bench.study import layer
from bench.study.files import StudyFile
from bench.study.layer import Layer, Source

# Not inherited: an heir's cells are not among the rows of the study that its base draws.
OWN = Layer(drop=("rows_from",))


def merged(files: Sequence[StudyFile], profile: str) -> Layer:
    """Return what the files of `files.chain` say under a profile, merged.

    Each file is followed by its own profile, so that what a study says overrides its base under every profile. The
    profiles that were not asked for are checked all the same.

    Raises:
        BadInput: for everything that a file may not hold.
    """
    found = Layer()
    names: frozenset[str] = frozenset()  # of the values given so far, under any profile
    for file in files:
        own = _read(file, None, names)
        names |= own.names
        of_profiles = {name: _read(file, name, names) for name in file.profiles}
        names = names.union(*(one.names for one in of_profiles.values()))
        for over in (OWN, own, of_profiles.get(profile, Layer())):
            found = layer.merge(found, over)
    return found


def _read(file: StudyFile, profile: str | None, below: frozenset[str]) -> Layer:
    source = Source(file.shown, profile)
    found = layer.read(file.raw if profile is None else file.profiles[profile], source)
    layer.check_drop(found, source, below)
    return found
