import torch
from torch import nn
from torchvision.models import resnet18

from imclass.models.resnet import ResNet


def copy_in_order(source: nn.Module, target: nn.Module) -> None:
    """Weights by their order, which both networks share but for that of a block's shortcut."""
    kinds = nn.Conv2d | nn.BatchNorm2d | nn.Linear
    theirs = [layer for layer in source.modules() if isinstance(layer, kinds)]
    ours = [layer for layer in target.modules() if isinstance(layer, kinds)]
    for one, other in zip(theirs, ours, strict=True):
        other.load_state_dict(one.state_dict())


def test_it_is_torchvisions_resnet18_with_a_first_layer_for_small_images() -> None:
    torch.manual_seed(0)
    theirs = resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    ours = ResNet(3, 10, widths=[64, 128, 256, 512], blocks=2)
    copy_in_order(theirs, ours)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images))
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


def test_small_widths_are_the_resnet20_of_the_paper() -> None:
    ours = ResNet(3, 10, widths=[16, 32, 64], blocks=3)
    assert sum(isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) for layer in ours.modules()) == 19
    shortcuts = 16 * 32 + 32 * 64 + 2 * (32 + 64)  # the paper's have no weights
    assert sum(p.numel() for p in ours.parameters()) - shortcuts == 269_722  # its 0.27 million
    assert ours(torch.zeros(2, 3, 7, 9)).shape == (2, 10)


def test_each_block_begins_as_its_shortcut() -> None:
    ours = ResNet(1, 10, widths=[4], blocks=1)
    maps = torch.rand(2, 4, 8, 8)
    torch.testing.assert_close(ours.blocks(maps), maps)
