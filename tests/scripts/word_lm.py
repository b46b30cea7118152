"""Character language model: LSTM, truncated backpropagation through time, plain SGD by hand."""

import argparse

import torch
from torch import nn

TEXT = "the quick brown fox jumps over the lazy dog. pack my box with five dozen liquor jugs. " * 12


class RNNModel(nn.Module):
    def __init__(self, ntoken, nhid, tie_weights=True):
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.encoder = nn.Embedding(ntoken, nhid)
        self.rnn = nn.LSTM(nhid, nhid, 2, dropout=0.2)
        self.decoder = nn.Linear(nhid, ntoken)
        if tie_weights:
            self.decoder.weight = self.encoder.weight
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)

    def forward(self, tokens, hidden):
        output, hidden = self.rnn(self.drop(self.encoder(tokens)), hidden)
        return self.decoder(self.drop(output)).flatten(0, 1), hidden


def batchify(data, bsz):
    nbatch = data.size(0) // bsz
    return data[: nbatch * bsz].view(bsz, -1).t().contiguous()


def get_batch(source, i, bptt):
    seq_len = min(bptt, len(source) - 1 - i)
    return source[i : i + seq_len], source[i + 1 : i + 1 + seq_len].view(-1)


def repackage_hidden(h):
    return tuple(v.detach() for v in h)


def main():
    parser = argparse.ArgumentParser(description="language model")
    parser.add_argument("--bptt", type=int, default=8)
    parser.add_argument("--clip", type=float, default=0.25)
    parser.add_argument("--lr", type=float, default=5.0)
    args = parser.parse_args()
    torch.manual_seed(1111)
    vocabulary = sorted(set(TEXT))
    corpus = batchify(torch.tensor([vocabulary.index(c) for c in TEXT]), 8)
    model = RNNModel(len(vocabulary), 24)
    criterion = nn.CrossEntropyLoss()
    model.train()
    hidden = tuple(torch.zeros(2, 8, 24) for _ in range(2))
    for i in range(0, corpus.size(0) - 1, args.bptt):
        data, targets = get_batch(corpus, i, args.bptt)
        model.zero_grad()
        hidden = repackage_hidden(hidden)
        output, hidden = model(data, hidden)
        loss = criterion(output, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        for p in model.parameters():
            p.data.add_(p.grad, alpha=-args.lr)
        if i % (5 * args.bptt) == 0:
            print(f"{i:4d} loss {loss.item():.5f}")
    torch.save(model, "model.pt")


if __name__ == "__main__":
    main()
