"""Files of one volume that would lie on one another: one path twice, or a file where another needs a directory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from sampan.kube.errors import quote

Object = dict[str, Any]
Place = tuple[str, str]  # a path, and what puts something there

_PLAIN: Final = ("configMap", "secret", "downwardAPI")


def of_volumes(volumes: list[Object]) -> Iterator[str]:
    for volume in volumes:
        name = quote(volume.get("name") or "")
        for field in _PLAIN:
            source = volume.get(field)
            if source and source.get("items"):
                places = [(item.get("path") or "", "") for item in source["items"]]
                yield from _collisions(places, f"volume {name} ({_named(field, source)})")
        if (projected := volume.get("projected")) is not None:
            places = []
            for source in projected.get("sources") or ():
                if any(value is not None for value in source.values()):
                    places += _projected(source)
                else:
                    yield f"volume {name} (Projected) has no sources provided"
            yield from _collisions(places, f"volume {name} (Projected)")


def _named(field: str, source: Object) -> str:
    if field == "downwardAPI":
        return "DownwardAPI"
    name = source.get("name" if field == "configMap" else "secretName") or ""
    return f"{field[0].upper()}{field[1:]} {quote(name)}"


def _projected(source: Object) -> list[Place]:
    for field in _PLAIN:
        if (source.get(field) or {}).get("items"):
            found = source[field]
            kind = _named(field, {**found, "secretName": found.get("name")})
            return [(item.get("path") or "", kind) for item in found["items"]]
    if (token := source.get("serviceAccountToken")) is not None:
        return [(token.get("path") or "", "ServiceAccountToken")]
    return []


def _collisions(places: Iterable[Place], where: str) -> Iterator[str]:
    seen: list[Place] = []
    for path, source in places:
        place = (path.rstrip("/"), source)
        for other in seen if place[0] else ():
            one, two = f"{place[0]}/", f"{other[0]}/"
            if other[0] and (one.startswith(two) or two.startswith(one)):
                yield f"{where}: overlapping paths: {_shown(place)} with {_shown(other)}"
        seen.append(place)


def _shown(place: Place) -> str:
    path, source = place
    return f"{quote(path)} ({source})" if source else quote(path)
