"""Offers small classifiers as students. Importing this package registers all of them with timm."""

from abd_hub.students import resnet_cifar, wide_resnet

__all__ = ["resnet_cifar", "wide_resnet"]
