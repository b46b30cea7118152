"""GAN on a ring of Gaussians."""

import argparse
import math

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--niter", type=int, default=15)
parser.add_argument("--nz", type=int, default=4)
parser.add_argument("--lr", type=float, default=2e-3)
opt = parser.parse_args()
print(opt)
torch.manual_seed(999)


def weights_init(m):
    if isinstance(m, nn.Linear):
        nn.init.normal_(m.weight, 0.0, 0.2)
        nn.init.zeros_(m.bias)


netG = nn.Sequential(nn.Linear(opt.nz, 32), nn.ReLU(True), nn.Linear(32, 2))
netG.apply(weights_init)
netD = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2, inplace=True), nn.Linear(32, 1))
netD.apply(weights_init)
criterion = nn.BCEWithLogitsLoss()
fixed_noise = torch.randn(16, opt.nz)
optimizerD = torch.optim.Adam(netD.parameters(), lr=opt.lr, betas=(0.5, 0.999))
optimizerG = torch.optim.Adam(netG.parameters(), lr=opt.lr, betas=(0.5, 0.999))

for i in range(opt.niter):
    # (1) update D: maximize log(D(x)) + log(1 - D(G(z)))
    netD.zero_grad()
    angle = torch.randint(8, (32,)) * (math.pi / 4)
    real = torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(32, 2)
    errD_real = criterion(netD(real), torch.ones(32, 1))
    errD_real.backward()
    fake = netG(torch.randn(32, opt.nz))
    errD_fake = criterion(netD(fake.detach()), torch.zeros(32, 1))
    errD_fake.backward()
    optimizerD.step()
    # (2) update G: maximize log(D(G(z)))
    netG.zero_grad()
    errG = criterion(netD(fake), torch.ones(32, 1))
    errG.backward()
    optimizerG.step()
    print(f"[{i}] D {errD_real.item() + errD_fake.item():.4f} G {errG.item():.4f}")

with torch.no_grad():
    print(netG(fixed_noise).mean(0))
torch.save({"G": netG.state_dict(), "D": netD.state_dict()}, "gan.pt")
