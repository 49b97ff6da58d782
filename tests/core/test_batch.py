import torch

from jepakit.core.batch import batch_size, concatenate, count_of, map_tensors, split_batch


def streams():
    return {
        "video": {"id": torch.arange(5), "inputs": torch.arange(10).reshape(5, 2)},
        "image": {"id": torch.arange(3), "inputs": {"a": torch.arange(3), "b": torch.arange(6).reshape(3, 2)}},
        "step": torch.tensor(7),
    }


def test_pieces_hold_every_sample_once_in_order_and_numbers_each():
    for pieces in (1, 2, 3, 4):
        cut = split_batch(streams(), pieces)
        assert len(cut) == pieces
        for name, count in (("video", 5), ("image", 3)):
            assert torch.cat([piece[name]["id"] for piece in cut]).tolist() == list(range(count))
        assert torch.equal(torch.cat([piece["video"]["inputs"] for piece in cut]), streams()["video"]["inputs"])
        assert torch.equal(torch.cat([piece["image"]["inputs"]["b"] for piece in cut]), streams()["image"]["inputs"]["b"])
        assert all(int(piece["step"]) == 7 for piece in cut)
        sizes = [len(piece["video"]["id"]) for piece in cut]
        assert max(sizes) - min(sizes) <= 1


def test_an_input_of_several_tensors_is_cut_with_its_batch_and_counts_are_not():
    batch = {"id": torch.arange(4), "inputs": {"a": torch.arange(4)}, "counts": {"prediction": torch.tensor(9)}}
    first, second = split_batch(batch, 2)
    assert first["inputs"]["a"].tolist() == [0, 1]
    assert second["inputs"]["a"].tolist() == [2, 3]
    assert set(first["inputs"]) == {"a"}
    assert int(count_of(second, "prediction")) == 9
    assert count_of({"id": torch.arange(4)}, "prediction") is None


def test_size_is_that_of_the_samples_or_of_all_streams():
    assert batch_size(streams()) == 8
    assert batch_size({"id": torch.arange(4), "inputs": {"a": torch.arange(4)}}) == 4


def test_map_reaches_every_tensor():
    doubled = map_tensors(lambda t: 2 * t, streams())
    assert doubled["image"]["inputs"]["b"].tolist() == [[0, 2], [4, 6], [8, 10]]
    assert int(doubled["step"]) == 14


def test_ragged_parts_are_joined_with_zeros():
    parts = [{"x": torch.ones(2, 3), "n": torch.tensor([3, 2])}, {"x": torch.ones(1, 5), "n": torch.tensor([5])}]
    joined = concatenate(parts)
    assert joined["x"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert joined["n"].tolist() == [3, 2, 5]
    assert torch.equal(concatenate([torch.ones(2, 3), torch.zeros(1, 3)]), torch.tensor([[1.0] * 3, [1.0] * 3, [0.0] * 3]))
