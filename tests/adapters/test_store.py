import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pointsman.adapters import Bundle, Store, open_bundle, shipped_bundle
from pointsman.adapters import store as module
from pointsman.router import BundleCorruptError, BundleError, BundleNotFoundError

Make = Callable[[str], Bundle]


@pytest.fixture
def make(tiny_bundle: Bundle, tmp_path: Path) -> Make:
    """Return a function that makes another small bundle, told apart by its parent."""

    def make_bundle(name: str) -> Bundle:
        target = tmp_path / "made" / name

        def fill(stage: Path) -> None:
            (stage / "adapter").mkdir()
            for file in tiny_bundle.adapter.iterdir():
                (stage / "adapter" / file.name).write_bytes(file.read_bytes())

        return Bundle.write(target, fill=fill, manifest=tiny_bundle.manifest.model_copy(update={"parent": name}))

    return make_bundle


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def nothing_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "_SHIPPED", tmp_path / "shipped")
    return tmp_path / "shipped"


def damage(bundle: Bundle) -> None:
    path = bundle.adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x01")


def test_a_new_store_is_empty_and_makes_no_folder(store: Store) -> None:
    assert store.ids() == []
    assert store.current() is None
    assert store.history() == []
    assert not store.root.exists()


def test_an_added_bundle_lies_under_its_id(store: Store, make: Make) -> None:
    bundle = make("a")
    added = store.add(bundle)

    assert added.path == store.root / bundle.id
    assert store.ids() == [bundle.id]
    assert store.open(bundle.id).manifest == bundle.manifest
    assert store.current() is None  # adding is not promoting


def test_adding_twice_is_fine_unless_the_first_was_damaged_since(store: Store, make: Make) -> None:
    bundle = make("a")
    first = store.add(bundle)
    assert store.add(bundle).path == first.path

    damage(first)
    with pytest.raises(BundleCorruptError):
        store.add(bundle)


def test_an_unknown_id_is_refused_with_those_there_are(store: Store, make: Make) -> None:
    bundle = store.add(make("a"))

    for reference in ("20200101-000000000000", "../store", "", "."):
        with pytest.raises(BundleNotFoundError, match=bundle.id):
            store.open(reference)


def test_a_folder_under_another_id_is_refused(store: Store, make: Make) -> None:
    bundle = store.add(make("a"))
    bundle.path.rename(store.root / "20200101-renamed")

    with pytest.raises(BundleCorruptError, match=f"rename the folder|{bundle.id}"):
        store.open("20200101-renamed")


def test_promote_and_rollback_move_current_and_remember(store: Store, make: Make) -> None:
    a, b = store.add(make("a")).id, store.add(make("b")).id

    assert store.promote(a).id == a
    assert store.promote(b).id == b
    assert (store.current(), store.history()) == (b, [b, a])
    assert store.promote(b).id == b  # again changes nothing
    assert store.history() == [b, a]
    assert store.rollback().id == a
    assert (store.current(), store.history()) == (a, [a])
    with pytest.raises(BundleError, match="nothing to roll back to"):
        store.rollback()


def test_a_damaged_bundle_is_not_promoted_and_the_current_one_stays(store: Store, make: Make) -> None:
    a, b = store.add(make("a")), store.add(make("b"))
    store.promote(a.id)
    damage(b)

    with pytest.raises(BundleCorruptError):
        store.promote(b.id)
    assert store.current() == a.id


def test_a_damaged_bundle_is_not_rolled_back_to(store: Store, make: Make) -> None:
    a, b = store.add(make("a")), store.add(make("b"))
    store.promote(a.id)
    store.promote(b.id)
    damage(a)

    with pytest.raises(BundleCorruptError):
        store.rollback()
    assert store.current() == b.id


def test_a_damaged_current_bundle_is_refused_and_not_replaced_by_another(store: Store, make: Make) -> None:
    a = store.add(make("a"))
    store.promote(a.id)
    damage(a)

    with pytest.raises(BundleCorruptError):
        open_bundle(None, store)


def test_a_current_that_names_nothing_is_refused(store: Store, make: Make) -> None:
    store.add(make("a"))
    (store.root / "current").write_text("20200101-gone\n")

    with pytest.raises(BundleNotFoundError, match="20200101-gone"):
        open_bundle(None, store)


def test_a_current_that_is_no_text_is_refused_by_name(store: Store, make: Make) -> None:
    store.add(make("a"))
    (store.root / "current").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(BundleError, match=r"store/current: .*remov"):
        store.current()


def test_a_full_disk_leaves_current_as_it_was(store: Store, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = store.add(make("a")), store.add(make("b"))
    store.promote(a.id)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BundleError, match=r"was not changed: .*No space left"):
        store.promote(b.id)
    monkeypatch.undo()

    assert store.current() == a.id
    assert sorted(path.name for path in store.root.iterdir()) == sorted([a.id, b.id, "current"])


def test_history_does_not_grow_for_ever(store: Store, make: Make) -> None:
    a, b = store.add(make("a")).id, store.add(make("b")).id
    for _ in range(30):
        store.promote(a)
        store.promote(b)

    assert len(store.history()) == 50


def test_a_reference_is_a_folder_an_id_or_nothing(store: Store, make: Make, nothing_shipped: Path) -> None:
    a, b = store.add(make("a")), store.add(make("b"))
    store.promote(b.id)

    assert open_bundle(a.path, store).id == a.id
    assert open_bundle(str(a.path), store).id == a.id
    assert open_bundle(a.id, store).id == a.id
    assert open_bundle(None, store).id == b.id


@pytest.mark.parametrize("reference", ["20200101-gone", "no/such/folder", "a\x00b"])
def test_a_reference_to_nothing_is_refused_by_name(store: Store, nothing_shipped: Path, reference: str) -> None:
    with pytest.raises(BundleNotFoundError, match="no bundle"):
        open_bundle(reference, store)


def test_without_a_store_the_shipped_bundle_serves(store: Store, make: Make, nothing_shipped: Path) -> None:
    with pytest.raises(BundleNotFoundError, match="pointsman train"):
        open_bundle(None, store)

    bundle = make("a")
    shipped = bundle.copy_to(nothing_shipped / bundle.id)
    assert shipped_bundle() == shipped
    assert open_bundle(None, store) == shipped
    assert open_bundle(bundle.id, store) == shipped
