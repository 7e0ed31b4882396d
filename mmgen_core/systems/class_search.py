"""Finding a class of a class-conditional model by its name or a part of it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

NO_CLASS = -1
_SHOWN = 12


def find_class(names: Sequence[str], query: str) -> int:
    """Index of the class called ``query``, ignoring case.

    An exact name wins, then the only name that contains the query. An empty query and
    "no class" mean ``NO_CLASS``.

    Raises:
        ValueError: no name matches (the closest are listed), or several do.
    """
    wanted = " ".join(query.lower().replace("_", " ").split())
    if wanted in ("", "no class"):
        return NO_CLASS
    if not names:
        raise ValueError(f"There is no class {query!r}: this model has no classes.")
    lowered = [name.lower().replace("_", " ") for name in names]
    exact = [i for i, name in enumerate(lowered) if name == wanted]
    found = exact or [i for i, name in enumerate(lowered) if wanted in name]
    if len(found) == 1:
        return found[0]
    raise ValueError(_several(names, query, found) if found else _none(names, lowered, query))


def _several(names: Sequence[str], query: str, found: list[int]) -> str:
    listed = ", ".join(f"{names[i]!r} ({i})" for i in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{len(found)} classes match {query!r}: {listed}{more}. Write one of these in full."


def _none(names: Sequence[str], lowered: list[str], query: str) -> str:
    close = difflib.get_close_matches(query.lower(), lowered, n=_SHOWN, cutoff=0.4)
    listed = ", ".join(f"{names[lowered.index(name)]!r}" for name in close)
    hint = f"the closest names are {listed}" if close else f"names look like {names[0]!r}"
    return f"None of the model's {len(names)} classes is called {query!r}; {hint}."
