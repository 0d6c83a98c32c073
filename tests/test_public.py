from __future__ import annotations

import inspect
import re

import pytest

import softpack


def test_all_names_can_be_imported():
    namespace: dict[str, object] = {}

    exec("from softpack import *", namespace)  # as a user's star would

    assert {name for name in namespace if name != "__builtins__"} == set(softpack.__all__)
    assert sorted(set(softpack.__all__)) == sorted(softpack.__all__) == sorted(dir(softpack))


@pytest.mark.parametrize("name", sorted(set(softpack.__all__) - {"__version__"}))
def test_public_names_say_what_they_do(name):
    value = getattr(softpack, name)

    assert callable(value) or inspect.ismodule(value)
    assert inspect.getdoc(value)
    assert getattr(softpack, name) is value


def test_the_docstring_names_what_there_is():
    named = set(re.findall(r"softpack\.([A-Za-z_]+)", softpack.__doc__))

    assert {"create", "open", "SoftLabelDataset"} <= named <= set(softpack.__all__)


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="module 'softpack' has no attribute 'encode_all'"):
        softpack.encode_all  # noqa: B018
    assert not hasattr(softpack, "_PRIVATE")


def test_the_version_is_one():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.?[a-z]+\d+)?", softpack.__version__)


def test_errors_are_of_one_family():
    from softpack import errors

    found = [value for value in vars(errors).values() if inspect.isclass(value)]

    assert all(issubclass(error, errors.SoftpackError) and error.exit_code == 1 for error in found)
    assert all(
        f"── {error.__name__} " in errors.__doc__ for error in found if error is not errors.SoftpackError
    )
