"""`geoslave review serve` and `geoslave review invite`: the page, and who may come to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import PATH, answer, example, json_option, note
from geoslave.cli.serving import listening, serve_until_stopped
from geoslave.errors import GeoslaveError

if TYPE_CHECKING:
    from geoslave.review.store import Store

DATABASE = "review.sqlite"
PORT = 8000
review_argument = click.argument("review", metavar="REVIEW")
pictures_option = click.option(
    "--pictures", type=PATH, metavar="DIR", help="Folder the pictures lie in, where REVIEW is a PostgreSQL URL."
)


@click.command(
    "serve",
    epilog=example(
        "geoslave review serve kilns-review",
        "geoslave review invite kilns-review --count 20 --url https://review.example.org",
        "geoslave review serve kilns-review --host 0.0.0.0 --certificate cert.pem --key key.pem",
    ),
)
@review_argument
@pictures_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need invitations.")
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True, help="Where it listens.")
@click.option("--login", is_flag=True, help="Ask for a session also on 127.0.0.1 (other hosts always do).")
@click.option("--behind-proxy", is_flag=True, help="A proxy on this computer adds https; asks for a login.")
@click.option("--certificate", type=click.Path(exists=True, dir_okay=False), help="TLS certificate (PEM), for https.")
@click.option("--key", type=click.Path(exists=True, dir_okay=False), help="Its private key (PEM).")
@click.option("--looking-for", metavar="WORDS", help="What reviewers are asked about, e.g. 'brick kiln'.")
@click.option("--open", "in_browser", is_flag=True, help="Open the page in this computer's browser.")
def serve(
    review: str,
    pictures: Path | None,
    host: str,
    port: int,
    login: bool,
    behind_proxy: bool,
    certificate: str | None,
    key: str | None,
    looking_for: str | None,
    in_browser: bool,
) -> None:
    """Show the tasks of a REVIEW to people, and keep what they say, until Ctrl-C.

    REVIEW is a folder that `geoslave review create` left, its database file, or a PostgreSQL URL.

    On this computer alone (127.0.0.1) there is one local reviewer and no login. On any other address people join by
    the links of `geoslave review invite`.
    """
    from geoslave.review.access import LOCAL_HOSTS, check_address
    from geoslave.review.app import create_app

    if bool(certificate) != bool(key):
        raise click.UsageError("--certificate and --key belong together")
    store, folder = open_review(review, pictures)
    with store:
        check_address(store, host)
        login = login or behind_proxy or host not in LOCAL_HOSTS
        if looking_for:
            store.set_setting("looking_for", looking_for)
        app = create_app(store, folder, login=login)
        with listening(host, port) as door:
            shown = "127.0.0.1" if host == "0.0.0.0" else _bracketed(host)
            address = f"{'https' if certificate else 'http'}://{shown}:{port}"
            _tell(address, login=login, exposed=host not in LOCAL_HOSTS and not (certificate or behind_proxy))
            if in_browser:
                click.launch(address)
            serve_until_stopped(app, door, proxy_headers=behind_proxy, ssl_certfile=certificate, ssl_keyfile=key)
    click.echo("Stopped. Every vote that was accepted is kept.")


@click.command(
    "invite",
    epilog=example(
        "geoslave review invite kilns-review --count 20 --url https://review.example.org",
        "geoslave review invite kilns-review --role coordinator",
        "geoslave review invite kilns-review --list",
    ),
)
@review_argument
@pictures_option
@click.option(
    "--role",
    type=click.Choice(["reviewer", "coordinator"]),
    default="reviewer",
    show_default=True,
    help="What the invited may do.",
)
@click.option("--count", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many links.")
@click.option("--url", metavar="URL", help="Where people find the page; kept for the next time.")
@click.option("--again", metavar="ID", help="A new link for somebody who lost theirs; ends the session they had.")
@click.option("--list", "listed", is_flag=True, help="List the people of this review instead.")
@json_option
def invite(
    review: str,
    pictures: Path | None,
    role: str,
    count: int,
    url: str | None,
    again: str | None,
    listed: bool,
    as_json: bool,
) -> None:
    """Make links by which people join a REVIEW. Each works once, within seven days; the store keeps only its hash."""
    from geoslave.review.access import INVITATION_DAYS, Access

    store, _ = open_review(review, pictures)
    with store:
        if listed:
            _list(store, as_json)
            return
        if url:
            store.set_setting("url", _checked_url(url))
        base = store.setting("url") or f"http://127.0.0.1:{PORT}"
        access = Access(store, login=True)
        tokens = [access.invite_back(again)] if again else [access.invite(role) for _ in range(count)]
    links = [f"{base}/join#{token}" for token in tokens]
    answer(as_json, {"links": links, "role": role, "days": INVITATION_DAYS}, links)
    if not as_json:
        note(f"each link is for one person ({role}), works once, and ends in {INVITATION_DAYS} days")


def open_review(review: str, pictures: Path | None = None) -> tuple[Store, Path]:
    """A review's store, and the folder its pictures lie in.

    Raises:
        GeoslaveError: if there is no review.
    """
    from geoslave.review.store import open_store

    if "://" in review:
        if pictures is None:
            raise click.UsageError("--pictures is needed: the folder that `geoslave review create` left")
        return open_store(review), pictures
    path = Path(review)
    file = path / DATABASE if path.is_dir() else path
    if not file.is_file():
        raise GeoslaveError(f"{review}: there is no review here: make one with  geoslave review create")
    return open_store(file), pictures or file.parent


def _tell(address: str, *, login: bool, exposed: bool) -> None:
    from geoslave.review.app import OPENLAYERS

    click.echo(f"The review page is at {address}")
    click.echo("People join by their links (geoslave review invite)." if login else "One local reviewer, no login.")
    click.echo("Press Ctrl-C to stop.")
    if not OPENLAYERS.is_file():
        note(
            "OpenLayers was not fetched: pictures cannot be moved or enlarged, and there is no map; "
            "run  python3 scripts/fetch_web.py  with a connection"
        )
    if exposed:
        note("what people send travels unencrypted: use --certificate and --key, or --behind-proxy with https")


def _list(store: Store, as_json: bool) -> None:
    people: list[dict[str, Any]] = [
        {"id": one.id, "name": one.name, "role": one.role, "disabled": one.disabled} for one in store.reviewers()
    ]
    lines = [
        f"{one['id']}  {one['role']:<12} {one['name']}{'  (shut out)' if one['disabled'] else ''}" for one in people
    ]
    answer(as_json, {"people": people}, lines or ["nobody yet"])


def _checked_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter(f"'{url}' is no address: write it as https://review.example.org")
    return url.rstrip("/")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
