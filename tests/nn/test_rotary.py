import pytest
import torch

from jepakit.errors import UserError
from jepakit.nn.rotary import axis_width, rotary_angles, rotate


def test_a_pair_is_turned_by_its_angle():
    """Against multiplication by exp(i angle)."""
    torch.manual_seed(0)
    heads, positions = torch.randn(2, 3, 5, 8).double(), torch.tensor([[0.0], [1.0], [2.5], [-3.0], [7.0]])
    angles = rotary_angles(positions, 8)
    frequencies = 10000.0 ** -(torch.arange(4).double() / 4)
    turned = torch.view_as_complex(heads.unflatten(-1, (4, 2))) * torch.exp(1j * positions.double() * frequencies)
    torch.testing.assert_close(rotate(heads, angles[None]), torch.view_as_real(turned).flatten(-2), atol=1e-6, rtol=1e-6)


def test_scores_depend_on_distances_alone_and_the_rest_of_a_head_stays():
    torch.manual_seed(0)
    width, places = axis_width(32), torch.randint(0, 9, (1, 6, 3))
    assert width == 10  # of the released heads of 32, 30 numbers are turned
    q, k = torch.randn(2, 1, 4, 6, 32).double()

    def scores(shift, rotation="paired"):
        angles = rotary_angles(places + torch.tensor(shift), width, rotation)
        return rotate(q, angles) @ rotate(k, angles).transpose(-1, -2)

    torch.testing.assert_close(scores([3, -2, 40]), scores([0, 0, 0]), atol=1e-4, rtol=1e-4)
    assert (scores([3, -2, 40], "tiled") - scores([0, 0, 0], "tiled")).abs().max() > 0.1  # the released ones do not
    angles = rotary_angles(places, width)
    assert torch.equal(rotate(q, angles)[..., 30:], q[..., 30:])
    assert torch.equal(rotate(q, torch.zeros_like(angles)), q)


def test_a_head_too_narrow_is_refused():
    with pytest.raises(UserError, match="at least 6 wide, got 5"):
        axis_width(5)
