"""skorch: our layers in a scikit-learn classifier, alone and in a grid search."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier

import lenet_ext.nn as lnn

TRAINING = 1400


class Network(torch.nn.Sequential):
    layers: Any = lnn

    def __init__(self, channels: int = 8) -> None:
        layers = self.layers
        super().__init__(
            layers.Conv2d(1, channels, 3, padding=1),
            layers.ReLU(),
            layers.MaxPool2d(2),
            torch.nn.Flatten(),
            layers.Linear(channels * 16, 10),
        )


class NativeNetwork(Network):
    layers = torch.nn


def digits() -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels


def classifier(network: type[Network] = Network, **options: Any) -> NeuralNetClassifier:
    defaults = {"max_epochs": 10, "lr": 0.1, "batch_size": 32, "train_split": None, "verbose": 0}
    return NeuralNetClassifier(network, criterion=torch.nn.CrossEntropyLoss, **defaults | options)


def test_fit_and_predict() -> None:
    """The accuracy and the probabilities of the native network, also of a copy and of a pickle."""
    images, labels = digits()
    ours, native = classifier(), classifier(NativeNetwork)
    for net in (ours, native):
        torch.manual_seed(0)  # it makes its network now
        net.fit(images[:TRAINING], labels[:TRAINING])
    test = images[TRAINING:]
    expected = native.predict_proba(test)
    # Ten epochs apart in the order of sums.
    np.testing.assert_allclose(ours.predict_proba(test), expected, atol=1e-3)
    assert (ours.predict(test) == labels[TRAINING:]).mean() > 0.8
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert np.array_equal(other.predict(test), ours.predict(test))


def test_grid_search() -> None:
    """Cloned and set by parameter names, as scikit-learn does it."""
    images, labels = digits()
    search = GridSearchCV(classifier(max_epochs=2), {"module__channels": [2, 8]}, cv=2, error_score="raise")
    search.fit(images[:200], labels[:200])
    assert isinstance(search.best_estimator_.module_[0], lnn.Conv2d)
