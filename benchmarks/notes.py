"""The program of PyTorch's quickstart, as people write it: Fashion-MNIST -> model.pth.

python benchmarks/notes.py ROOT MODEL_FILE SEED
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import ToTensor

BATCH_SIZE = 64
EPOCHS = 5


class NeuralNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear_relu_stack = nn.Sequential(
            nn.Linear(28 * 28, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear_relu_stack(self.flatten(x))
        return logits


def train(dataloader: DataLoader[Any], model: nn.Module, loss_fn: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    size = len(dataloader.dataset)  # type: ignore[arg-type]
    model.train()
    for batch, (X, y) in enumerate(dataloader):  # noqa: N806
        pred = model(X)
        loss = loss_fn(pred, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if batch % 100 == 0:
            print(f"loss: {loss.item():>7f}  [{(batch + 1) * len(X):>5d}/{size:>5d}]")


def test(dataloader: DataLoader[Any], model: nn.Module, loss_fn: nn.Module) -> float:
    size = len(dataloader.dataset)  # type: ignore[arg-type]
    model.eval()
    test_loss, correct = 0.0, 0.0
    with torch.no_grad():
        for X, y in dataloader:  # noqa: N806
            pred = model(X)
            test_loss += loss_fn(pred, y).item()
            correct += (pred.argmax(1) == y).type(torch.float).sum().item()
    accuracy = correct / size
    print(f"Test Error: \n Accuracy: {100 * accuracy:>0.1f}%, Avg loss: {test_loss / len(dataloader):>8f} \n")
    return accuracy


def load_split(root: str, train: bool) -> DataLoader[Any]:
    data = datasets.FashionMNIST(root=root, train=train, download=False, transform=ToTensor())
    return DataLoader(data, batch_size=BATCH_SIZE, shuffle=train)


def main(root: str, model_file: str, seed: int) -> None:
    torch.manual_seed(seed)
    train_dataloader, test_dataloader = load_split(root, train=True), load_split(root, train=False)
    model = NeuralNetwork()
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for epoch in range(EPOCHS):
        print(f"Epoch {epoch + 1}\n-------------------------------")
        train(train_dataloader, model, loss_fn, optimizer)
        test(test_dataloader, model, loss_fn)
    torch.save(model.state_dict(), model_file)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
