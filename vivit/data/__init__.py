"""Video files to clips: samples, decoding, clip arithmetic, transforms, loading."""

from ..install_check import check_torchvision

check_torchvision()
