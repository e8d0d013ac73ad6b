"""Links: what they say, and what is no link of ours."""

import base64
import json

import pytest
from trainyard_api.links import Claims, LinkError, form_token, manager_token, sign, verify

KEY = b"k" * 32


def test_a_link_says_who_it_is_for() -> None:
    token = sign(KEY, "Ada", 2000.0, issued=1000.0, rule="longer")
    assert verify(KEY, token, now=1999.0) == Claims("Ada", 2000.0, 1000.0, "longer")


def forged(**changes: object) -> str:
    """A link of ours with other claims under its signature."""
    version, written, signature = sign(KEY, "Ada", 2000.0, issued=1000.0).split(".")
    claims = json.loads(base64.urlsafe_b64decode(written + "=" * (-len(written) % 4))) | changes
    again = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"{version}.{again}.{signature}"


BAD = {
    "another name": forged(a="Eve"),
    "a later end": forged(e=9e9),
    "another key": sign(b"other" * 8, "Ada", 2000.0),
    "cut short": sign(KEY, "Ada", 2000.0)[:-1],
    "no signature": sign(KEY, "Ada", 2000.0).rpartition(".")[0],
    "another version": sign(KEY, "Ada", 2000.0).replace("v1.", "v2."),
    "empty": "",
    "not ASCII": "v1.é.ü",
    "a form's token": form_token(KEY, "Ada"),
    "the manager's token": manager_token(KEY),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_link_of_ours(name: str) -> None:
    with pytest.raises(LinkError, match="not valid"):
        verify(KEY, BAD[name], now=1500.0)


def test_a_link_ends() -> None:
    with pytest.raises(LinkError, match="expired"):
        verify(KEY, sign(KEY, "Ada", 2000.0), now=2000.0)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 101])
def test_names_that_cannot_be_shown(name: str) -> None:
    with pytest.raises(ValueError, match="annotator"):
        sign(KEY, name, 1.0)
