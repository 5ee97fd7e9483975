from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mosaic_secure.config import load_config
from mosaic_secure.data import (
    ClientDataError,
    check_available,
    data_info,
    declared_records,
    load_client,
    load_dataset,
    load_partition,
    load_public_test,
)
from mosaic_secure.data.folder import decode
from mosaic_secure.errors import UserError

CLASSES = ("cat", "dog")


def write_image(path: Path, value: int, size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value // 2, 0)).save(path)


def write_classes(path: Path, each: int = 15) -> Path:
    for slot, name in enumerate(CLASSES):
        for number in range(each):
            write_image(path / name / f"{number:03}.png", 40 + 100 * slot + number)
    return path


def write_clients(path: Path, clients: int = 2, each: int = 10) -> Path:
    for client in range(clients):
        write_classes(path / f"site-{client}", each)
    return path


def config_of(path: Path, public: bool = False, **overrides):
    values = {
        "data.path": str(path),
        "data.image_size": 8,
        "clients.count": 2,
        "partition.min_records": 2,
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    if public:
        values["data.visibility"] = "public"
    else:
        values = {
            "data.class_names": CLASSES,
            "data.declared_records": 20,
            "data.population": "pets",
            **values,
        }
    return load_config("folder", values)


PARTITION = {"data__clients_from": "partition", "partition__kind": "iid"}


def test_clients_by_subfolder(tmp_path):
    config = config_of(write_clients(tmp_path))
    for index in range(2):
        client = load_client(config, index)
        assert client.images.shape == (20, 3, 8, 8) and client.images.dtype == np.float32
        assert client.labels.tolist() == [0] * 10 + [1] * 10
        assert client.declared_records == 20 and client.num_classes == 2
    assert np.isclose(client.images[0, 0].mean() * 255, 40, atol=1)
    assert np.isclose(client.images[-1, 0].mean() * 255, 149, atol=1)


def test_a_client_by_subfolder_opens_no_file_of_another(tmp_path):
    path = write_clients(tmp_path)
    (path / "site-1" / "dog" / "000.png").write_bytes(b"broken")
    (path / "site-1" / "weasel").mkdir()
    config = config_of(path)
    assert len(load_client(config, 0).labels) == 20
    with pytest.raises(ClientDataError):
        load_client(config, 1)


def test_clients_by_table(tmp_path):
    path = write_classes(tmp_path / "images", each=6)
    rows = ["file,client"]
    rows += [f"{name}/{number:03}.png,{'ab'[number % 2]}" for name in CLASSES for number in range(6)]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    config = config_of(path, data__clients_from="csv", data__csv=str(tmp_path / "table.csv"))
    first, second = load_client(config, 0), load_client(config, 1)
    assert len(first.labels) == len(second.labels) == 6
    assert np.isclose(first.images[0, 0].mean() * 255, 40, atol=1)
    assert np.isclose(second.images[0, 0].mean() * 255, 41, atol=1)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["name,client"], "no column 'file'"),
        (["file,client", "cat/000.png,a", "dog/000.png,a"], "names 1 clients, but clients.count = 2"),
        (["file,client", "cat/000.png,a", "cow/000.png,b"], "cow/000.png is no image"),
        (["file,client", "cat/000.png,a", "cat/000.png,b"], "line 3: cat/000.png is listed twice"),
        (["file,client", "cat/000.png,", "dog/000.png,b"], "line 2: the file or the client is empty"),
        (["file,client", "cat/000.png,a", "dog/000.png,b"], "no row for"),
    ],
)
def test_faulty_tables_are_refused(tmp_path, rows, words):
    path = write_classes(tmp_path / "images", each=2)
    (tmp_path / "table.csv").write_text("\n".join(rows))
    config = config_of(path, public=True, data__clients_from="csv", data__csv=str(tmp_path / "table.csv"))
    with pytest.raises(UserError, match=words):
        load_partition(config)


def test_clients_by_partition(tmp_path):
    config = config_of(write_classes(tmp_path), public=True, **PARTITION)
    parts = load_partition(config)
    assert sorted(np.concatenate(parts).tolist()) == list(range(30))
    whole = load_dataset(config.data)
    for index, part in enumerate(parts):
        assert np.array_equal(load_client(config, index).images, whole.images[part])
        assert np.array_equal(load_client(config, index).labels, whole.labels[part])
    assert declared_records(config) == (15, 15)


def test_public_folders_hold_out_a_test_part_that_no_client_trains_on(tmp_path):
    config = config_of(write_classes(tmp_path), public=True, data__test_fraction=0.2, **PARTITION)
    images, labels = load_public_test(config)
    assert np.bincount(labels).tolist() == [3, 3]
    trained = np.concatenate([load_client(config, index).images for index in range(2)])
    assert len(trained) == len(load_dataset(config.data).labels) == 24
    assert not {image.tobytes() for image in images} & {image.tobytes() for image in trained}


def test_a_public_test_folder_gives_metrics_a_private_one_does_not(tmp_path):
    path, test = write_clients(tmp_path / "train"), write_classes(tmp_path / "test", each=3)
    private = config_of(path, data__test_path=str(test), data__test_visibility="public")
    assert len(load_public_test(private)[1]) == 6
    hidden = config_of(path, public=True, data__test_path=str(test), data__test_visibility="private")
    assert load_public_test(hidden) is None
    assert load_public_test(config_of(path)) is None


def test_the_partition_of_private_data_is_told_to_nobody(tmp_path):
    config = config_of(write_clients(tmp_path))
    with pytest.raises(UserError, match="known to its clients only"):
        load_partition(config)


def test_the_plan_of_private_data_is_made_of_declarations(tmp_path):
    path = tmp_path / "nothing-there"
    config = config_of(path, data__declared_records={"client-0": 30, "client-1": 70})
    assert declared_records(config) == (30, 70)
    info = data_info(config.data)
    assert info.class_names == CLASSES and info.image_shape == (3, 8, 8) and info.visibility == "private"


def test_declared_records_stand_whatever_is_there(tmp_path):
    config = config_of(write_clients(tmp_path), data__declared_records={"client-0": 30, "client-1": 70})
    assert [load_client(config, index).declared_records for index in range(2)] == [30, 70]


def test_refusals_on_private_records_carry_one_code_whatever_the_reason(tmp_path):
    few = config_of(write_clients(tmp_path / "few", each=3), partition__min_records=7)
    broken = write_clients(tmp_path / "broken")
    (broken / "site-0" / "cat" / "000.png").write_bytes(b"broken")
    strange = write_clients(tmp_path / "strange")
    (strange / "site-0" / "weasel").mkdir()
    codes, messages = set(), []
    for config in (few, config_of(broken), config_of(strange)):
        with pytest.raises(ClientDataError) as caught:
            load_client(config, 0)
        codes.add(caught.value.code)
        messages.append(str(caught.value))
    assert codes == {"refused"}
    assert "client-0 has 6 records, below partition.min_records = 7" in messages[0]
    assert "000.png: not a readable image" in messages[1]
    assert "weasel" in messages[2]


def test_a_small_client_hears_of_it_alone_when_private(tmp_path):
    path = write_clients(tmp_path)
    for number in range(9):
        (path / "site-1" / "cat" / f"{number:03}.png").unlink()
        (path / "site-1" / "dog" / f"{number:03}.png").unlink()
    config = config_of(path, partition__min_records=5)
    assert len(load_client(config, 0).labels) == 20
    with pytest.raises(ClientDataError, match="client-1"):
        load_client(config, 1)
    with pytest.raises(UserError, match="client-1 has 2 records"):
        load_partition(config_of(path, public=True, partition__min_records=5))


def test_a_class_that_nobody_has_is_refused_for_public_folders_only(tmp_path):
    names = ("cat", "dog", "owl")
    path = write_clients(tmp_path)
    with pytest.raises(UserError, match="class 'owl'"):
        load_partition(config_of(path, public=True, data__class_names=names))
    private = config_of(path, data__class_names=names)
    assert load_client(private, 0).num_classes == 3
    assert load_dataset(private.data).num_classes == 3


@pytest.mark.parametrize("public", [True, False])
def test_a_wrong_number_of_clients_is_named(tmp_path, public):
    config = config_of(write_clients(tmp_path), public=public, clients__count=3)
    with pytest.raises(UserError, match="2 client folders, but clients.count = 3"):
        load_client(config, 0)


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="data.path .*absent: no such folder"):
        check_available(config_of(tmp_path / "absent").data)
    with pytest.raises(UserError, match="data.path"):
        load_partition(config_of(tmp_path, public=True, **PARTITION))


def test_a_relative_path_lies_under_the_root(tmp_path):
    write_clients(tmp_path / "pets")
    config = config_of(Path("pets"))
    check_available(config.data, tmp_path)
    assert len(load_client(config, 0, tmp_path).labels) == 20


def test_there_is_no_client_beyond_the_last(tmp_path):
    with pytest.raises(UserError, match="there are 2 clients"):
        load_client(config_of(write_clients(tmp_path)), 2)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_mode_and_shape_come_out_alike(tmp_path, mode, channels):
    path = tmp_path / "image.tif"
    if mode == "I;16":
        Image.fromarray(np.full((9, 20), 65535, dtype=np.uint16)).save(path)
    else:
        Image.new("L", (20, 9), 255).convert(mode).save(path)
    pixels = decode([path], 6, channels)
    assert pixels.shape == (1, channels, 6, 6) and pixels.dtype == np.uint8
    assert pixels.min() >= 254


def test_records_are_not_shown_by_repr(tmp_path):
    assert "array" not in repr(load_client(config_of(write_clients(tmp_path)), 0))
