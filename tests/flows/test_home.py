"""The layout of the directory of searches, and what may be said of addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.home import BadInput, Home, redacted


@pytest.mark.parametrize(
    "name", ["", "..", "a/b", "/etc", "-x", "Ä", "a b", "a\n", "A", "x" * 64, "data", "mlflow-artifacts"]
)
def test_a_name_that_is_no_safe_directory_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a search's name must"):
        Home(tmp_path).search(name)


@pytest.mark.parametrize("name", ["a", "0", "digits-2_b", "x" * 63])
def test_a_search_lives_directly_below_the_root(name: str, tmp_path: Path) -> None:
    assert Home(tmp_path).search(name) == tmp_path / name


def test_only_directories_with_a_ledger_are_searches(tmp_path: Path) -> None:
    for name in ("b", "a", "empty"):
        (tmp_path / name).mkdir()
    for name in ("b", "a"):
        (tmp_path / name / "ledger.sqlite").touch()
    assert Home(tmp_path).names() == ["a", "b"]


def test_making_a_home_twice_leaves_nothing_but_the_data_directory(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "home")
    home.make()
    home.make()
    assert [path.relative_to(home.root) for path in home.root.rglob("*")] == [Path("data")]


def test_a_path_that_would_end_in_mlflow_s_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"must have no \? in its path"):
        Home(tmp_path / "what?").make()


def test_a_relative_home_has_absolute_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home(Path("searches"))
    assert home.tracking_uri == f"sqlite:///{tmp_path}/searches/mlflow.db"
    assert home.artifacts == tmp_path / "searches" / "mlflow-artifacts"


@pytest.mark.parametrize(
    "address",
    [
        "http://ann:s3cret@host:5000/x",
        "postgresql+psycopg2://ann:s3c/s3cret@host/db",
        "https://ann:p@s3cret@host",
        "https://:s3cret@host",
        "https://s3cret@host",
        "postgresql://host/db?user=ann&password=s3cret&x=1",
    ],
)
def test_no_form_of_password_is_repeated(address: str) -> None:
    said = redacted(f"cannot reach {address} now")
    assert "s3cret" not in said
    assert "host" in said
    assert said.endswith(" now")


@pytest.mark.parametrize("text", ["http://127.0.0.1:5000/#/x", "sqlite:////a/b.db", "mail a@b.org", "shape (3, 8, 8)"])
def test_what_holds_no_password_is_repeated_as_it_is(text: str) -> None:
    assert redacted(text) == text
