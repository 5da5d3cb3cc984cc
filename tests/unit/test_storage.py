"""Local paths and URIs."""

import pytest

from rl_scaling_callback.storage import below, shown


@pytest.mark.parametrize(
    ("place", "inside"),
    [
        ("/a/b", "/a/b/it"),
        ("/a/b?/", "/a/b?/it"),
        ("s3://bucket/a/", "s3://bucket/a/it"),
        ("s3://bucket/a?region=x&scheme=http", "s3://bucket/a/it?region=x&scheme=http"),
    ],
)
def test_path_below_a_folder(place, inside):
    assert below(place, "it") == inside


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("s3://key:secret@bucket/a@b?region=x", "s3://bucket/a@b?region=x"),
        ("s3://bucket/a?mail=me@home", "s3://bucket/a?mail=me@home"),
        ("/home/me@work", "/home/me@work"),
    ],
)
def test_credentials_are_not_shown(place, text):
    assert shown(place) == text
