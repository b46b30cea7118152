"""The architecture families, one file each; a family belongs to one part of the benchmark."""

from __future__ import annotations

from benchmarks.accuracy.cases import Family
from benchmarks.accuracy.families.adapters import ADAPTERS
from benchmarks.accuracy.families.cnn import CNN
from benchmarks.accuracy.families.convnext import CONVNEXT
from benchmarks.accuracy.families.embedding import EMBEDDING
from benchmarks.accuracy.families.gan import GAN
from benchmarks.accuracy.families.gru import GRU
from benchmarks.accuracy.families.lstm import LSTM
from benchmarks.accuracy.families.mlp import MLP
from benchmarks.accuracy.families.moe import MOE
from benchmarks.accuracy.families.policy import POLICY
from benchmarks.accuracy.families.postln import POSTLN
from benchmarks.accuracy.families.preln import PRELN
from benchmarks.accuracy.families.resnet import RESNET
from benchmarks.accuracy.families.rnn import RNN
from benchmarks.accuracy.families.siamese import SIAMESE
from benchmarks.accuracy.families.vae import VAE

FAMILIES: tuple[Family, ...] = (
    MLP, CNN, LSTM, PRELN, VAE, EMBEDDING, ADAPTERS,
    RESNET, RNN, GRU, POSTLN, GAN, SIAMESE, MOE, CONVNEXT, POLICY,
)  # fmt: skip

BY_NAME = {family.name: family for family in FAMILIES}
