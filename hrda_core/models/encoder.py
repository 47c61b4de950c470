"""What every encoder is: an image in, four features at strides 4, 8, 16 and 32 out."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Encoder(nn.Module, ABC):
    """Base of MiT and of the timm encoders.

    Attributes:
        channels: channels of the four features, finest first.
        size_multiple: height and width of the input must be multiples of this; the network pads.
        min_size: smallest height or width that works, in pixels.
        mean, std: normalisation, of RGB in 0..1, that the pretrained weights expect.
    """

    channels: tuple[int, int, int, int]
    size_multiple: int
    min_size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    norms_frozen: bool = False
    last_feature_is_pretrained: bool = True  # False where a new neck stands between the pretrained part and the features

    @abstractmethod
    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised image (N, 3, H, W) -> four features (N, C_i, H_i, W_i) at strides 4, 8, 16, 32.

        H_i is H / stride, rounded up or down where it does not divide.
        """

    def new_modules(self) -> list[nn.Module]:
        """Parts that no pretrained weights fill; they learn at the heads' rate."""
        return []

    def parts_to_compile(self) -> list[nn.Module]:
        """What torch.compile gets, one by one."""
        return [self]

    def recompute_blocks(self) -> None:
        """Keeps only the input of every block in training, and computes the block again in the backward pass.

        Batch norms that are not frozen then take their running statistics twice from the same batch.

        Raises:
            ValueError: the architecture has no such blocks.
        """
        raise ValueError("optimisation.recompute=True: this encoder has no blocks to recompute; set it to false")

    def freeze_norms(self) -> None:
        """Keeps every BatchNorm on its running statistics and affine parameters from now on, in training too.

        The small batches of self-training would otherwise replace the statistics of ImageNet. Nothing happens in an
        encoder without BatchNorm. The setting survives `copy.deepcopy`; it is not part of the state dict.
        """
        self.norms_frozen = True
        for norm in self._batch_norms():
            norm.requires_grad_(False)
            norm.eval()

    @property
    def norms_see_the_batch(self) -> bool:
        """Whether an image's features depend on the images beside it."""
        return any(norm.training for norm in self._batch_norms())

    def train(self, mode: bool = True) -> Encoder:
        super().train(mode)
        if self.norms_frozen:
            for norm in self._batch_norms():
                norm.eval()
        return self

    def _batch_norms(self) -> list[_BatchNorm]:
        return [module for module in self.modules() if isinstance(module, _BatchNorm)]
