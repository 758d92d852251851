"""The encoder weights: where they come from, and that a file is what its name says."""

import pytest
from torchvision.models import get_model_weights

from omniad.config import load_settings
from omniad.data.weights import KNOWN_WEIGHTS, weights_file
from omniad.errors import UserError


def test_weights_of_another_content_than_their_name_tells_are_refused(tmp_path):
    settings = load_settings()
    (tmp_path / "resnet34-43635321.pth").write_bytes(b"cut off")
    data = settings.data.model_copy(update={"weights": str(tmp_path)})
    with pytest.raises(UserError, match=r"not that of resnet34-43635321\.pth; remove it"):
        weights_file(settings.model, data)


@pytest.mark.parametrize("encoder", KNOWN_WEIGHTS["imagenet"])
def test_the_addresses_of_torchvisions_weights_are_torchvisions(encoder):
    assert KNOWN_WEIGHTS["imagenet"][encoder] == get_model_weights(encoder)["IMAGENET1K_V1"].url
