"""Local paths and URIs."""

import pytest

from rl_scaling_callback.storage import ExperimentError, Location, shown


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
    assert Location(None, "", place).below("it").text == inside


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("s3://key:secret@bucket/a@b?region=x", "s3://bucket/a@b?region=x"),
        ("s3://bucket/a?mail=me@home", "s3://bucket/a?mail=me@home"),
        ("s3://key:sec/ret@bucket/a", "s3://bucket/a"),
        ("s3:/key:secret@bucket/a", "s3:/bucket/a"),
        ("s3//key:secret@bucket/a", "s3//bucket/a"),
        ("abfs://bucket/a?client_secret=mine&region=x", "abfs://bucket/a?client_secret=…&region=x"),
        ("Unrecognized filesystem type in URI: 's4://key:secret@bucket'", "Unrecognized filesystem type in URI: 's4://bucket'"),
        ("s3://host:9000/a@b", "s3://host:9000/a@b"),
        ("/home/me@work", "/home/me@work"),
    ],
)
def test_credentials_are_not_shown(place, text):
    assert shown(place) == text


def test_error_of_an_unknown_scheme_does_not_tell_credentials():
    with pytest.raises(ExperimentError, match="s4://bucket/it can't be reached") as error:
        Location.of("s4://key:secret@bucket/it")
    assert "secret" not in str(error.value)
