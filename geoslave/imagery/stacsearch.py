"""Searching a STAC API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import shapely
from shapely.geometry.base import BaseGeometry

from geoslave.errors import MissingExtra, SceneError
from geoslave.imagery.geotiff import shown_path
from geoslave.imagery.items import (
    Area,
    Dates,
    as_area,
    check_dates,
    choose_items,
    cloud_cover,
    make_absolute,
    one_line,
)
from geoslave.imagery.patient import PAUSES_S

if TYPE_CHECKING:
    import pystac

TIMEOUT_S = 60
MOST_ITEMS = 100_000
"""A search that finds more is taken for a mistake."""


def search_items(
    api_url: str,
    collection: str,
    aoi: Area,
    dates: Dates | None = None,
    max_cloud: float | None = None,
    limit: int | None = None,
) -> list[pystac.Item]:
    """Items of a STAC API that meet an area, days (both included) and a cloud cover (percent), sorted.

    The server is asked with what it says it understands; what it answers is checked again here. Pages
    are followed to the end. A server that is busy (429, 502, 503, 504) is asked again, a few times.

    Args:
        limit: see `choose_items`.

    Raises:
        SceneError: if the address is no STAC API, has no such collection, or no item fits; then the
            message says what was searched and what might help.
    """
    check_dates(dates)
    area = as_area(aoi)
    client = _client(api_url)
    _check_collection(client, api_url, collection)
    asked = _ask(client, api_url, collection, area, dates, max_cloud)
    found = choose_items(asked, area, dates, max_cloud, limit)
    if found:
        return found
    raise SceneError(_nothing_found(client, api_url, collection, area, dates, max_cloud))


def _client(api_url: str) -> Any:
    try:
        import pystac_client
        from pystac_client.stac_api_io import StacApiIO
        from urllib3 import Retry
    except ImportError as error:
        raise MissingExtra("searching a STAC API", "region") from error
    retry = Retry(
        total=len(PAUSES_S),
        connect=2,
        backoff_factor=min(PAUSES_S),
        status_forcelist=[429, 502, 503, 504],
        allowed_methods=None,
        raise_on_status=False,
    )
    try:
        return pystac_client.Client.open(api_url, stac_io=StacApiIO(max_retries=retry, timeout=TIMEOUT_S))
    except Exception as error:  # requests, JSON and pystac each have their own
        raise SceneError(_no_api(api_url, error)) from error


def _no_api(api_url: str, error: BaseException) -> str:
    shown = shown_path(api_url)
    text = one_line(error)
    if isinstance(error, ValueError) or "JSON" in text or "Expecting value" in text or "<html" in text.lower():
        return (
            f"{shown} is no STAC API (it answered something that is no JSON, perhaps a web page): give the API's root"
        )
    return f"{shown} cannot be asked ({text}): check the address and the network"


def _check_collection(client: Any, api_url: str, collection: str) -> None:
    try:
        names = sorted(one.id for one in client.get_collections())
    except Exception:  # an API without a list of collections can be searched all the same
        return
    if names and collection not in names:
        from difflib import get_close_matches

        near = get_close_matches(collection, names, n=3, cutoff=0.4) or names[:8]
        raise SceneError(
            f"{shown_path(api_url)} has no collection '{collection}': take one of {', '.join(near)}"
            + (f" (it has {len(names)})" if len(names) > len(near) else "")
        )


def _ask(
    client: Any,
    api_url: str,
    collection: str,
    area: BaseGeometry,
    dates: Dates | None,
    max_cloud: float | None,
) -> list[pystac.Item]:
    """All items a server gives, page after page."""
    question: dict[str, Any] = {
        "collections": [collection],
        # many vertices make servers refuse; the exact area is asked of the answer
        "intersects": json.loads(shapely.to_geojson(area.convex_hull)),
        "limit": 100,
        "max_items": MOST_ITEMS,
        "method": _method(client),
    }
    if dates is not None:
        question["datetime"] = "/".join(_ends(dates))
    if max_cloud is not None and client.conforms_to("QUERY"):
        question["query"] = {"eo:cloud_cover": {"lte": max_cloud}}
    elif max_cloud is not None and client.conforms_to("FILTER"):
        question["filter"] = {"op": "<=", "args": [{"property": "eo:cloud_cover"}, max_cloud]}
    try:
        items = list(client.search(**question).items())
    except Exception as error:  # requests, JSON and pystac each have their own
        raise SceneError(_no_api(api_url, error)) from error
    for item in items:
        make_absolute(item, api_url)
    return items


def _method(client: Any) -> str:
    """How a server wants to be searched; one that says nothing takes POST."""
    methods = {str(link.extra_fields.get("method", "GET")).upper() for link in client.get_links("search")}
    return "POST" if not methods or "POST" in methods else "GET"


def _nothing_found(
    client: Any,
    api_url: str,
    collection: str,
    area: BaseGeometry,
    dates: Dates | None,
    max_cloud: float | None,
) -> str:
    west, south, east, north = area.bounds
    searched = f"{collection} at {shown_path(api_url)}, {west:.2f} to {east:.2f} E, {south:.2f} to {north:.2f} N"
    if dates is not None:
        searched += f", {dates[0] or 'the beginning'} to {dates[1] or 'today'}"
    if max_cloud is None:
        return f"no scene found: searched {searched}; try other dates, or another collection"
    cloudy = choose_items(_ask(client, api_url, collection, area, dates, None), area, dates)
    if cloudy:
        least = min(map(cloud_cover, cloudy))
        return (
            f"no scene with at most {max_cloud:g} % cloud: searched {searched}; there are {len(cloudy)} with more "
            f"cloud, the clearest with {least:.0f} %: allow more cloud or try other dates"
        )
    return f"no scene found: searched {searched}, also with more cloud; try other dates, or another collection"


def _ends(dates: Dates) -> tuple[str, str]:
    first, last = dates
    return (f"{first}T00:00:00Z" if first else "..", f"{last}T23:59:59Z" if last else "..")
