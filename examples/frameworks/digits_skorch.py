"""A skorch training under plain `gradscope.watch`."""

import argparse

import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier
from torch import nn

import gradscope


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", help="a new folder for the recording")
    parser.add_argument("--report", default="digits_skorch.html")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    digits = load_digits()
    net = NeuralNetClassifier(
        nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=3e-3,
        batch_size=64,
        max_epochs=4,
        train_split=None,
    )
    net.initialize()  # module_ is there from now on; fit() would make it anew
    with gradscope.watch(net.module_, run_dir=arguments.run_dir) as scope:
        net.partial_fit((digits.data / 16).astype("float32"), digits.target)
    scope.report(arguments.report)
    print(f"{scope.steps} steps, {len(scope.diagnose())} findings")


if __name__ == "__main__":
    main()
